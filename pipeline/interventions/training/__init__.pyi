from .examples import Completions as Completions, PackedText as PackedText
from .optimizer import Optimizer as Optimizer
from .trainees import LowRank as LowRank, Weights as Weights, check_in_place as check_in_place
from .training import Training as Training
