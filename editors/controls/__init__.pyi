from .controls import (
    Control as Control,
    DriftKept as DriftKept,
    GrowAll as GrowAll,
    NormKept as NormKept,
    RandomDirection as RandomDirection,
    Scaled as Scaled,
    Spread as Spread,
)
from .growth import Growth as Growth
from .norm_rescaled import NormRescaled as NormRescaled
from .recorded_edits import RecordedEdits as RecordedEdits
from .rotated import Rotated as Rotated
from .whitened import WhitenedDirection as WhitenedDirection
