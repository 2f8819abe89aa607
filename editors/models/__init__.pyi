from .adapters import Adapters as Adapters, LoRA as LoRA, seeded as seeded
from .architectures import family_of as family_of
from .gradients import (
    Evaluation as Evaluation,
    Objective as Objective,
    Pull as Pull,
    Reading as Reading,
    check_sites as check_sites,
    graph_bytes as graph_bytes,
    read_in_parts as read_in_parts,
    read_targets as read_targets,
)
from .hooks import capture as capture, observe as observe, replace_output as replace_output
from .loading import Checkpoint as Checkpoint
from .memory import free_memory as free_memory, kept as kept
from .model import Model as Model
from .partial_forward import Replay as Replay, branch as branch, record as record
from .tokenization import (
    Prompted as Prompted,
    longest as longest,
    pad as pad,
    place as place,
    tokenize as tokenize,
    tokenize_all as tokenize_all,
)
