from .alphaedit import AlphaEdit as AlphaEdit
from .betaedit import BetaEdit as BetaEdit
from .crispedit.editor import CrispEdit as CrispEdit
from .emmet import EMMET as EMMET
from .finetune import FineTuning as FineTuning
from .gradient_editor import AdamEditor as AdamEditor, GradientEditor as GradientEditor
from .lora import LoRAEditing as LoRAEditing
from .lti import DistilledTargets as DistilledTargets
from .memit import MEMIT as MEMIT
from .mend.editor import MEND as MEND
from .mose import OrthogonalEditing as OrthogonalEditing
from .pmet import PMET as PMET, JointTargets as JointTargets
from .rome import ROME as ROME
from .ultraedit import UltraEdit as UltraEdit
