"""normscope from Python: load a model, edit facts into it, measure what changed.

>>> import normscope as ns
>>> model = ns.load("tiny-gpt2")
>>> facts = ns.facts("[Tom Klazoust] speaks|Polish")  # or a file: ns.facts("facts.csv")
>>> result = ns.edit(model, facts, "memit")
>>> result.undo()

Everything else is in the packages: `editors` changes weights, `analysis` measures, `pipeline` runs
experiments.
"""

from editors.data import Fact as Fact
from pipeline.notebook import (
    EditResult as EditResult,
    edit as edit,
    facts as facts,
    load as load,
    measure as measure,
)
