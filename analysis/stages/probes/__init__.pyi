from .logistic import BatchedLogistic as BatchedLogistic
from .stage import Probes as Probes
