from .adapters import Adapters as Adapters, LoRA as LoRA, seeded as seeded
from .architectures import family_of as family_of
from .gradients import (
    Evaluation as Evaluation,
    Objective as Objective,
    Reading as Reading,
    TokenGradients as TokenGradients,
    check_sites as check_sites,
    graph_bytes as graph_bytes,
    read_in_parts as read_in_parts,
    read_targets as read_targets,
)
from .hooks import capture as capture, observe as observe, replace_output as replace_output
from .loading import Checkpoint as Checkpoint
from .memory import count_saved as count_saved, free_memory as free_memory
from .model import Model as Model
from .partial_forward import PartialForward as PartialForward, branch as branch, record as record
from .tokenization import (
    TokenizedPrompt as TokenizedPrompt,
    longest_fact as longest_fact,
    pad as pad,
    tokenize as tokenize,
    tokenize_all as tokenize_all,
    tokenize_prompt as tokenize_prompt,
)
