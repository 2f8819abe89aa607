from .edits import EditCheckpoint as EditCheckpoint
from .kept_updates import Updates as Updates
from .kept_weights import keep_weights as keep_weights, kept_changes as kept_changes
from .stages import recall_memories as recall_memories, save_memories as save_memories
