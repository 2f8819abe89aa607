from .collected import CollectedMoments as CollectedMoments
from .moment_sources import ImportedMoments as ImportedMoments, MomentSource as MomentSource
from .running import RunningStatistics as RunningStatistics
from .tensor_cache import hashed as hashed
