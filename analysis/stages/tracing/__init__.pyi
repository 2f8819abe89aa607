from .stage import CausalTrace as CausalTrace
