from .continuations import TopK as TopK, continuations as continuations
from .knowledge import Knowledge as Knowledge, knowledge as knowledge, rates as rates
from .residuals import (
    Part as Part,
    SamplePositions as SamplePositions,
    residuals as residuals,
    samples_in_batch as samples_in_batch,
)
from .scoring import (
    Ids as Ids,
    Pair as Pair,
    Query as Query,
    Scorer as Scorer,
    Scores as Scores,
    score_tokens as score_tokens,
    shared_passes as shared_passes,
)
from .texts import Batch as Batch, Document as Document, TextSet as TextSet, batches as batches
