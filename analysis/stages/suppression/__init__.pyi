from .stage import Suppression as Suppression
