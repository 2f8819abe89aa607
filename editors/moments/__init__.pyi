from .cache import hashed as hashed
from .collected import CollectedMoments as CollectedMoments
from .running import RunningStatistics as RunningStatistics
from .sources import ImportedMoments as ImportedMoments, MomentSource as MomentSource
