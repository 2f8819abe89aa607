from .evidence import (
    Evidence as Evidence,
    Measure as Measure,
    Values as Values,
    changes as changes,
    effects as effects,
    ends as ends,
    last_values as last_values,
    steadiness as steadiness,
)
from .study import Drawing as Drawing, Study as Study, Table as Table, falls as falls, rises as rises
from .verdicts import Claim as Claim, Finding as Finding, Side as Side, judge as judge
