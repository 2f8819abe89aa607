from .base import LocateThenEdit as LocateThenEdit
from .contexts import Groups as Groups, SampledContexts as SampledContexts, flat as flat
from .keys import Keys as Keys
from .shifted_forward import (
    InitialState as InitialState,
    Predictions as Predictions,
    ShiftedForward as ShiftedForward,
    divergence as divergence,
    run_to_shift as run_to_shift,
)
from .targets import TargetOptimizer as TargetOptimizer
