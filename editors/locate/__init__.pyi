from .base import LocateThenEdit as LocateThenEdit
from .contexts import Groups as Groups, SampledContexts as SampledContexts, flat as flat
from .keys import Keys as Keys
from .shifted_forward import (
    Initial as Initial,
    Said as Said,
    Shifted as Shifted,
    divergence as divergence,
    shifted as shifted,
)
from .solvers import (
    Dense as Dense,
    NullSpace as NullSpace,
    Preserved as Preserved,
    equality as equality,
    least_squares as least_squares,
)
from .targets import TargetOptimizer as TargetOptimizer
