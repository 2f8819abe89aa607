from .continuations import TopK as TopK
from .residuals import Part as Part, Places as Places, chosen_tokens as chosen_tokens
from .scoring import (
    Ids as Ids,
    Pair as Pair,
    Scorer as Scorer,
    Scores as Scores,
    foretold as foretold,
    hosts as hosts,
)
from .texts import Batch as Batch, Document as Document, TextSet as TextSet, batches as batches
