from .curvature import (
    Curvature as Curvature,
    GivenCurvature as GivenCurvature,
    Projection as Projection,
    TextCurvature as TextCurvature,
)
from .editor import CrispEdit as CrispEdit
