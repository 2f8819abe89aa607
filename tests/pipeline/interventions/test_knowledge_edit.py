"""What a run says of each batch that it edited: whether the new objects are the model's first choice."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch

from editors.base import Edit, Editor
from editors.data import Fact
from editors.models.model import Model
from editors.models.tokenization import tokenize_prompt
from editors.updates import Delta, Site
from pipeline.interventions.base import Plan
from pipeline.interventions.knowledge_edit import KnowledgeEdit
from tests.editors.cases import make_memit
from tests.editors.locate.test_targets import REACHABLE
from tests.tiny import FACTS, optimizer, tiny_model

SITE = Site("mlp_down", 1)


def run(editor: Editor, facts: Sequence[Fact], size: int = 1) -> KnowledgeEdit:
    return KnowledgeEdit(editor=editor, edits=len(facts), batch_size=size)


def says(model: Model, fact: Fact) -> bool:
    """Whether every token of the new object is the first choice, read off a pass over the bare prompt."""
    row = tokenize_prompt(model.tokenizer, fact, target=fact.target_new)
    with torch.no_grad():
        logits = model.hf(torch.tensor([row.ids[:-1]])).logits[0]
    return tuple(logits[-len(row.target_ids) :].argmax(dim=1).tolist()) == row.target_ids


def test_an_edit_took_if_the_model_says_the_new_object_right_after_its_batch():
    model, facts = tiny_model("llama"), (*REACHABLE, *FACTS)
    targets = optimizer(steps=25, learning_rate=0.3, decay=0.0, max_norm_ratio=9.0)
    editor = make_memit(model, targets=targets, preservation_weight=1e-3)
    editor.prepare(model, facts)
    took: list[float] = []
    for change in run(editor, facts, 4).steps(model, Plan(stream=facts)):
        assert change.details["took"] == [float(says(model, fact)) for fact in change.facts]
        mean = sum(change.details["took"]) / len(change.facts)
        assert change.numbers["edit/took/mean"] == pytest.approx(mean)
        took += change.details["took"]
    assert 0 < sum(took) < len(facts), "the cases tell both apart"


@dataclass
class Idle(Editor):
    """Changes nothing."""

    check_every: int = 1  # pyright: ignore[reportIncompatibleVariableOverride]
    name: str = "idle"

    @property
    def sites(self) -> Sequence[Site]:
        return [SITE]

    def prepare(self, model: Model, facts: Sequence[Fact] = ()) -> None:
        pass

    def edit(self, model: Model, facts: Sequence[Fact]) -> Edit:
        return Edit(update={SITE: Delta(left=torch.zeros_like(model.current(SITE)))})


def checked(every: int, count: int, size: int, edits: int = 0) -> list[int]:
    """The counts before the batches that are checked, in a sequence that begins after `edits`."""
    facts, model = FACTS * (count // len(FACTS)), tiny_model(double=False)
    editing = run(Idle(check_every=every), facts, size)
    changes = editing.steps(model, Plan(stream=facts), edits)
    return [edits + i * size for i, change in enumerate(changes) if "took" in change.details]


def test_a_cheap_editor_is_checked_at_its_first_hundred_edits_and_at_every_nth_batch_later():
    assert checked(1, 120, 10) == list(range(0, 120, 10))
    assert checked(4, 180, 10) == [*range(0, 100, 10), 120, 160]
    assert checked(0, 30, 10) == [], "a control writes no facts"


def test_a_resumed_sequence_checks_the_same_batches():
    assert checked(4, 180, 10, edits=110) == [120, 160]


def test_the_check_changes_neither_weights_nor_draws_nor_the_time_of_the_step():
    model = tiny_model()
    weights = {name: value.clone() for name, value in model.hf.state_dict().items()}
    drawn = torch.get_rng_state()
    (change,) = run(Idle(), FACTS, 3).steps(model, Plan(stream=FACTS))
    assert all(torch.equal(value, weights[name]) for name, value in model.hf.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert change.seconds["check"] > 0 and set(change.seconds) == {"step", "check"}
