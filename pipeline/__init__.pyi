from .data.corpora import TextFile as TextFile
from .data.sources import CounterFact as CounterFact, ZsRE as ZsRE
from .data.world.builtin import BuiltInCheckpoint as BuiltInCheckpoint
from .data.world.datasets import WorldFacts as WorldFacts, WorldText as WorldText
from .interventions.base import Intervention as Intervention
from .tracking.base import Tracker as Tracker
