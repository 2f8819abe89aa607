from .benchmarks import BenchmarkTasks as BenchmarkTasks
from .hub import HubTasks as HubTasks
from .items import ItemTasks as ItemTasks
from .known import KnownFacts as KnownFacts
from .local import LocalTasks as LocalTasks
from .mmlu import LocalMMLU as LocalMMLU
from .papers import PaperTasks as PaperTasks
from .source import TaskFiles as TaskFiles, TaskSource as TaskSource
