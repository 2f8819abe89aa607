from .inference.scoring import Scorer as Scorer
from .inference.texts import Batch as Batch, Document as Document, TextSet as TextSet, batches as batches
from .plots.charts.lines import LineChart as LineChart
from .plots.figures.curves import chart_of as chart_of, curves as curves
from .plots.figures.profiles import FigureData as FigureData
from .plots.figures.registry import FigureSpec as FigureSpec
from .results.collection import collect as collect
from .stages.activations import Activations as Activations
from .stages.base import (
    Cadence as Cadence,
    Measurement as Measurement,
    Observation as Observation,
    Stage as Stage,
    compare as compare,
)
from .stages.downstream.stage import Downstream as Downstream
from .stages.efficacy.stage import Efficacy as Efficacy
from .stages.generation import Generation as Generation
from .stages.norms import Norms as Norms
from .stages.perplexity import Perplexity as Perplexity
from .stages.probes.stage import Probes as Probes
from .stages.reference import Reference as Reference
from .stages.signatures import Judge as Judge, Signatures as Signatures
from .stages.spectra import Spectra as Spectra
from .stages.tracing.stage import CausalTrace as CausalTrace
