from .stage import Downstream as Downstream
