from .corpora import (
    FactText as FactText,
    HubText as HubText,
    TextFile as TextFile,
    text_digest as text_digest,
)
from .fact_files.fact_file import FactFile as FactFile
from .fact_files.lines import FactLines as FactLines
from .factset import FactSet as FactSet
from .pairs import Pair as Pair, PairRows as PairRows, Pairs as Pairs
from .sources import CounterFact as CounterFact, FactSource as FactSource, ZsRE as ZsRE
