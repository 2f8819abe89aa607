from .activations import Activations as Activations
from .base import (
    Cadence as Cadence,
    Measurement as Measurement,
    Observation as Observation,
    Stage as Stage,
    Unit as Unit,
    compare as compare,
)
from .downstream.stage import Downstream as Downstream
from .efficacy.stage import Efficacy as Efficacy
from .functional import FunctionalDrift as FunctionalDrift
from .generation import Generation as Generation
from .generation_match import GenerationMatch as GenerationMatch
from .norms import Norms as Norms
from .perplexity import Perplexity as Perplexity
from .probes.stage import Probes as Probes
from .reference import Reference as Reference
from .signatures import Alarm as Alarm, Judge as Judge, OnAlarm as OnAlarm, Signatures as Signatures
from .spectra import Spectra as Spectra
from .suppression.stage import Suppression as Suppression
from .tracing.stage import CausalTrace as CausalTrace
