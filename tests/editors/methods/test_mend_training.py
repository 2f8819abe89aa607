"""Training brings the new object closer and leaves the rest; it can be interrupted and continued."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from editors.data import Fact
from editors.errors import ConfigError, DataError, NumericsError
from editors.methods.mend.editor import MEND
from editors.methods.mend.files import load, shapes_of
from editors.methods.mend.losses import (
    UnrelatedTexts,
    continuation_query,
    divergence,
    log_probabilities,
    nll,
    prompt_query,
    text_query,
)
from editors.methods.mend.network import Hypernetwork
from editors.methods.mend.settings import Training
from editors.methods.mend.trainer import Numbers, Trainer
from editors.models.model import Model
from tests.editors.cases import bits, make_mend, same_bits
from tests.second_device import SECOND, SecondDevice, moved
from tests.tiny import FACTS, tiny_model

PEOPLE = "Ada Bob Cleo Dan Eve Finn".split()
SHORT = Training(
    steps=4,
    accumulate=2,
    learning_rate=1e-4,
    step_size_rate=1e-3,
    validate_every=2,
    validation=2,
    calibration=3,
)


def people(names: Sequence[str]) -> list[Fact]:
    return [
        Fact(
            id=name,
            prompt="{} walks to the",
            subject=name,
            target_new="river" if i % 2 else "town",
            target_true="" if i == 0 else "tower",
            paraphrases=(f"Today {name} walks to the",) if i % 3 else (),
            neighbours=("Rob walks to the",) if i % 2 else (),
            locality=(("Where do people speak?", "French"),) if i == 2 else (),
        )
        for i, name in enumerate(names)
    ]


def editor(folder: Path, training: Training = SHORT, **changes: object) -> MEND:
    given = {"layers": [2, 3], "rank": 4, "step_size": -1e-3, "folder": str(folder), "training": training}
    return MEND(name="mend", **(given | changes))


def trained(
    model: Model, made: MEND, steps: int | None = None, texts: Sequence[str] = ()
) -> list[tuple[int, Numbers]]:
    """The rows of a training, interrupted after some steps."""
    facts = people(PEOPLE)
    run = made.train(model, facts[:4], facts[4:], texts=texts, trained_on={"data": "people"})
    rows = []
    for row in run:
        rows.append(row)
        if steps is not None and row[0] == steps:
            run.close()
            break
    return rows


def test_training_lowers_the_loss_and_never_touches_the_model(tmp_path: Path):
    model = tiny_model(double=False)
    before = bits(model)
    made = editor(tmp_path, replace(SHORT, steps=30, validate_every=15))
    rows = trained(model, made)
    assert same_bits(model, before) and not any(p.requires_grad for p in model.hf.parameters())
    losses = [0.1 * n["mend/edit_loss/training"] + n["mend/locality_loss/training"] for _, n in rows]
    assert sum(losses[-5:]) < sum(losses[:5])
    made.prepare(model)
    assert made.edit(model, FACTS[:1]).update


def test_the_best_network_is_kept_with_what_it_was_trained_on(tmp_path: Path):
    model = tiny_model(double=False)
    made = editor(tmp_path)
    rows = trained(model, made)
    network, origin = load(made.file(model))
    validated = [numbers for _, numbers in rows if "mend/success/validation" in numbers]
    assert len(validated) == 2
    best = min(validated, key=lambda numbers: numbers["mend/loss/validation"])
    assert origin.validation == best
    assert (origin.model, origin.digest) == (model.name, model.digest)
    assert origin.trained_on["data"] == "people" and origin.trained_on["facts"] == 4
    assert not list(tmp_path.glob("*.training")) and not network.training


def test_an_interrupted_training_goes_on_bit_for_bit(tmp_path: Path):
    model = tiny_model(double=False)
    whole, parts = editor(tmp_path / "whole"), editor(tmp_path / "parts")
    expected = trained(model, whole)
    assert trained(model, parts, steps=3) == expected[:3]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        assert trained(model, parts) == expected[2:], "it continues from the last validation, after step 2"
    one, other = (load(made.file(model))[0].state_dict() for made in (whole, parts))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_two_trainings_of_one_file_do_not_mix(tmp_path: Path):
    model = tiny_model(double=False)
    one, other = editor(tmp_path), editor(tmp_path)
    facts = people(PEOPLE)
    first = one.train(model, facts[:4], facts[4:])
    next(first)
    with pytest.raises(ConfigError, match="another process trains the hypernetwork"):
        next(other.train(model, facts[:4], facts[4:]))
    first.close()
    assert next(other.train(model, facts[:4], facts[4:]))


def test_a_checkpoint_that_is_none_is_told_in_a_sentence(tmp_path: Path):
    model = tiny_model(double=False)
    made = editor(tmp_path)
    path = made.file(model).with_suffix(".training")
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="delete it to start again"):
        trained(model, made)
    other = editor(tmp_path / "other", replace(SHORT, seed=5))
    trained(model, other, steps=2)
    other.file(model).with_suffix(".training").rename(path)
    with pytest.raises(DataError, match="other settings"):
        trained(model, made)


def test_training_ends_when_nothing_got_better_for_long(tmp_path: Path):
    model = tiny_model(double=False)
    settings = replace(
        SHORT, steps=50, learning_rate=1e-12, step_size_rate=1e-12, validate_every=1, patience=3
    )
    constant = people(PEOPLE)
    made = editor(tmp_path, settings)
    rows = list(made.train(model, constant[:4], constant[4:]))
    assert len(rows) < 50


def test_subjects_are_on_one_side_only(tmp_path: Path):
    model = tiny_model(double=False)
    facts = people(PEOPLE)
    with pytest.raises(DataError, match=r"facts of Dan .*held out"):
        next(editor(tmp_path).train(model, facts[:4], facts[3:]))
    with pytest.raises(DataError, match="at least two subjects"):
        next(editor(tmp_path).train(model, facts[:1], facts[1:]))


def test_settings_that_cannot_be_are_named():
    with pytest.raises(ConfigError, match=r"editor\.training\.clip=0"):
        Training(clip=0.0)
    with pytest.raises(ConfigError, match=r"editor\.training\.swap=2.*has to be between 0 and 1"):
        Training(swap=2.0)
    with pytest.raises(ConfigError, match=r"editor\.training\.cooldown=-1, .*at least 0"):
        Training(cooldown=-1)
    with pytest.raises(ConfigError, match=r"editor\.rank=0"):
        editor(Path(), rank=0)


def test_a_loss_that_is_no_number_ends_the_training_with_its_step(tmp_path: Path):
    model = tiny_model(double=False)
    made = editor(tmp_path, step_size=float("nan"))
    with pytest.raises(NumericsError, match="step 1 of the training"):
        trained(model, made)


def test_running_texts_take_the_place_of_other_facts(tmp_path: Path):
    model = tiny_model(double=False)
    unrelated = UnrelatedTexts(
        facts=people(PEOPLE), texts=["You are little.", "English is spoken."], tokens=3
    )
    queries = unrelated.draw(model.tokenizer, FACTS[:1], 3, random.Random(0))
    assert [len(query.positions) for query in queries] == [1, 3, 3]
    assert trained(model, editor(tmp_path), texts=["You are little. English is spoken."])


def trainer(model: Model, training: Training) -> Trainer:
    made = editor(Path(), training)
    network = Hypernetwork(shapes_of(model, made.sites), made.design)
    facts = [replace(fact, relation="way") for fact in people(PEOPLE)]
    return Trainer(model, network, training, facts[:4], facts[4:])


def test_swapped_edits_write_another_object_of_the_relation():
    """They never write the true object."""
    model = tiny_model(double=False)
    made, rng = trainer(model, replace(SHORT, swap=1.0, facts_at_once=4)), random.Random(0)
    sample = [fact for _ in range(20) for fact in made._sample(rng)]
    own = {fact.id: fact.target_new for fact in made.facts}
    assert {fact.target_new for fact in sample} == {"river", "town"}
    assert any(fact.target_new != own[fact.id] for fact in sample)
    true = [replace(fact, target_true="town") for fact in made.facts]
    assert all(made._swapped(fact, rng).target_new == "river" for fact in true)
    assert made._swapped(replace(true[0], relation="other"), rng) == replace(true[0], relation="other")
    assert all(fact in made.facts for fact in trainer(model, SHORT)._sample(rng))


def test_both_rates_fall_over_the_last_steps():
    """Without a cooldown they stay constant."""
    model = tiny_model(double=False)
    rates = {}
    for cooldown in (0, 4):
        made = trainer(model, replace(SHORT, steps=10, cooldown=cooldown))
        rates[cooldown] = []
        for made.step in range(1, 11):
            made._set_rates()
            rates[cooldown].append([group["lr"] for group in made.adam.param_groups])
    assert rates[0] == [[1e-4, 1e-3]] * 10
    assert [round(rate / 1e-4, 9) for rate, _ in rates[4]] == [1] * 7 + [0.75, 0.5, 0.25]


def test_near_texts_of_a_fact():
    """They are neighbours, locality prompts and its prompt about other subjects."""
    tokenizer = tiny_model().tokenizer
    facts = [replace(fact, relation="way", target_true="tower") for fact in people(PEOPLE)]
    unrelated, rng = UnrelatedTexts(facts=facts), random.Random(0)
    sample = {
        tokenizer.decode(query.ids)
        for _ in range(40)
        for query in unrelated.draw(tokenizer, facts[1:2], 2, rng)[:1]
    }
    assert sample == {"Rob walks to the", *(f"{name} walks to the" for name in PEOPLE if name != "Bob")}
    unnamed = unrelated.draw(tokenizer, people(PEOPLE)[2:3], 4, rng)
    assert tokenizer.decode(unnamed[0].ids) == "Where do people speak? French"


# --- losses ------------------------------------------------------------------------------------------


def whole_model(model: Model, text: str) -> Tensor:
    ids = torch.tensor([model.encode([text])[0][0].tolist()])
    return model.hf(ids).logits[0].log_softmax(dim=-1)


def test_losses_are_those_of_the_whole_model_with_the_update_applied():
    model = tiny_model()
    made = make_mend(model)
    made.prepare(model)
    update = made.edit(model, FACTS[:1]).update
    tokenizer, text = model.tokenizer, "You are little. English is spoken."
    edited = continuation_query(tokenizer, FACTS[1].statement, FACTS[1].target_new)
    queries = [edited, prompt_query(tokenizer, FACTS[0].neighbours[0]), text_query(tokenizer, text, 99)]
    before = [
        whole_model(model, text),
        whole_model(model, FACTS[0].neighbours[0])[-1:],
    ]
    with torch.no_grad():
        predictions = log_probabilities(model, queries, update)
    model.apply(update)
    after = [
        whole_model(model, text),
        whole_model(model, FACTS[0].neighbours[0])[-1:],
    ]
    whole = whole_model(model, f"{FACTS[1].statement} {FACTS[1].target_new}")
    count = len(edited.positions)
    wanted = torch.tensor(edited.ids[-count:])[:, None]
    torch.testing.assert_close(nll(edited, predictions[0]), -whole[-count - 1 : -1].gather(1, wanted).mean())
    for b, a, ours in zip(before, after, (predictions[2], predictions[1]), strict=True):
        expected = (b.exp() * (b - a)).sum(dim=-1).mean()
        torch.testing.assert_close(divergence(b, ours), expected, rtol=1e-8, atol=1e-12)


def test_training_stays_on_the_device_of_the_model(tmp_path: Path):
    """Also after an interruption, which left a file."""
    with SecondDevice() as device:
        model = moved(tiny_model(), device)
        trained(model, editor(tmp_path), steps=2)
        rows = trained(model, editor(tmp_path))
        made = editor(tmp_path)
        made.prepare(model)
        update = made.edit(model, people(PEOPLE)[:1]).update
    assert rows[-1][0] == SHORT.steps
    assert {delta.left.device for delta in update.values()} == {SECOND}
