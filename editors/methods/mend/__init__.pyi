from .editor import MEND as MEND
from .network import Design as Design, Hypernetwork as Hypernetwork
from .settings import Training as Training
from .trainer import Trainer as Trainer
