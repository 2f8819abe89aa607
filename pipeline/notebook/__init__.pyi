from .edits import EditResult as EditResult, edit as edit
from .fact_sources import facts as facts
from .measurements import measure as measure
from .models import load as load
