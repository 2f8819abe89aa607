"""normscope from Python: load a model, edit facts into it, measure what changed.

>>> import normscope as ns
>>> model = ns.load("tiny-gpt2")
>>> fact = ns.Fact(id="1", prompt="{} speaks", subject="Tom Klazoust", target_new="Polish")
>>> result = ns.edit(model, fact, "memit")
>>> result.undo()

Everything else is in the packages: `editors` changes weights, `analysis` measures, `pipeline` runs
experiments.
"""

from editors.data import Fact as Fact
from pipeline.notebook import EditResult as EditResult, edit as edit, load as load, measure as measure
