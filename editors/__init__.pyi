from .base import Edit as Edit, Editor as Editor, Targets as Targets
from .data import Corpus as Corpus, Fact as Fact
from .errors import (
    ConfigError as ConfigError,
    DataError as DataError,
    ModelError as ModelError,
    NormscopeError as NormscopeError,
    NumericsError as NumericsError,
)
from .methods.alphaedit import AlphaEdit as AlphaEdit
from .methods.betaedit import BetaEdit as BetaEdit
from .methods.crispedit.editor import CrispEdit as CrispEdit
from .methods.emmet import EMMET as EMMET
from .methods.finetune import FineTuning as FineTuning
from .methods.lora import LoRAEditing as LoRAEditing
from .methods.memit import MEMIT as MEMIT
from .methods.mend.editor import MEND as MEND
from .methods.mose import OrthogonalEditing as OrthogonalEditing
from .methods.pmet import PMET as PMET
from .methods.rome import ROME as ROME
from .methods.ultraedit import UltraEdit as UltraEdit
from .models.loading import Checkpoint as Checkpoint
from .models.model import Model as Model
from .phases import Phase as Phase, Report as Report, silent as silent
from .updates import Delta as Delta, Site as Site, WeightUpdate as WeightUpdate
