from .stage import Efficacy as Efficacy
