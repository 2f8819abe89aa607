from .edits import EditResult as EditResult, edit as edit
from .measurements import measure as measure
from .models import load as load
