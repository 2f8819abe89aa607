"""Editing in context: the facts stand in the prompt, and no weight changes.

For edited facts i with statement s_i (the edited prompt with its subject) and new object o_i, the model reads

    "New fact: s_1 o_1. New fact: s_2 o_2. … " + prompt

with every fact whose subject the prompt mentions, in the order of the edits; of several edits of the same
prompt and subject, the latest takes the place of the first. A prompt that mentions no edited subject is read
as it is.

It is the upper control of editors that change weights: retrieval by the name neither misses nor adds anything
to other prompts, and nothing can be damaged. An editor that does worse on the edited facts loses more than
the model's own reading of them costs.

Sources: facts retrieved into the context as the control of editors, arXiv 2606.00570; the wording is that of
the demonstrations of IKE, arXiv 2305.12740 ("New Fact: …"). Deviations: names are compared exactly instead of
embeddings, and there are no demonstrations of how to use a fact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from editors.base import Edit, Editor
from editors.data import SLOT, Fact, Reader
from editors.errors import ConfigError
from editors.models.model import Model
from editors.phases import Report, silent
from editors.prompts.mentions import mentions
from editors.updates import Site


@dataclass(kw_only=True)
class InContext(Editor):
    """Puts the facts about every edited subject that a prompt mentions before it.

    The only state of a sequence is its number of edits: the reader follows from the facts.
    """

    name: str = "context"
    template: str = "New fact: {}."
    """The sentence before a prompt, with one slot for the statement and its new object. Models that know few
    words need one of theirs."""

    check_every: ClassVar[int] = 10

    def __post_init__(self) -> None:
        if self.template.count(SLOT) != 1:
            raise ConfigError(f"editor.template={self.template!r} needs the slot {SLOT} exactly once")

    @property
    def sites(self) -> Sequence[Site]:
        """Empty: no matrix changes."""
        return ()

    def prepare(self, model: Model, facts: Sequence[Fact] = (), report: Report = silent) -> None:
        """Nothing to do: the model is only read."""

    def edit(self, model: Model, facts: Sequence[Fact]) -> Edit:
        """An edit without an update."""
        return Edit(update={})

    def reader(self, facts: Sequence[Fact]) -> Reader:
        """Prompts after the facts about the subjects that they mention."""
        latest = {(fact.subject, fact.prompt): fact for fact in facts}
        subjects = dict.fromkeys(subject for subject, _ in latest)

        def read(prompt: str) -> str:
            mentioned = {subject for subject in subjects if mentions(subject, prompt)}
            before = [self._sentence(fact) for fact in latest.values() if fact.subject in mentioned]
            return " ".join([*before, prompt])

        return read

    def _sentence(self, fact: Fact) -> str:
        return self.template.replace(SLOT, f"{fact.statement} {fact.target_new}")
