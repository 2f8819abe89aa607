from .base import (
    Position as Position,
    Status as Status,
    Tracker as Tracker,
    TrackerList as TrackerList,
    tracking as tracking,
)
from .jsonl import Jsonl as Jsonl
from .observer import Observer as Observer
from .wandb_config import node as node
from .wandb_receipt import Receipt as Receipt, digest as digest, outcome as outcome
from .wandb_tracker import (
    Wandb as Wandb,
    axis as axis,
    has_parts as has_parts,
    logged_in as logged_in,
    resolved as resolved,
    run_id as run_id,
)
