from .evidence import (
    Evidence as Evidence,
    Measure as Measure,
    changes as changes,
    effects as effects,
    ends as ends,
    final as final,
    steadiness as steadiness,
)
from .study import Drawing as Drawing, Study as Study, Table as Table
from .verdicts import Claim as Claim, Finding as Finding, Side as Side, judged as judged
