"""The command line with FSDP allowed on CPUs: torch can do it, accelerate does not ask for it."""

from typing import Any

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from pipeline.__main__ import main as command_line

_plain = AcceleratorState.__init__


def _sharding(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **more: Any) -> None:
    _plain(self, *args, fsdp_plugin=fsdp_plugin, **more)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin


def main() -> None:
    AcceleratorState.__init__ = _sharding
    command_line()
