from .base import (
    Change as Change,
    Intervention as Intervention,
    Nothing as Nothing,
    Part as Part,
    Plan as Plan,
    StepObserver as StepObserver,
)
from .hypernetwork import LearnToEdit as LearnToEdit
from .knowledge_edit import KnowledgeEdit as KnowledgeEdit
from .replay import Replay as Replay
from .sequences import EditsBetweenSteps as EditsBetweenSteps, InOrder as InOrder
