"""What each fact scores, by kind of prompt and by age; on real facts too."""

import json
from itertools import islice
from math import exp

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from analysis.inference.scoring import Scorer
from analysis.stages.efficacy.records import summarise
from analysis.stages.efficacy.retention import retention, upper_edge
from analysis.stages.efficacy.stage import Efficacy
from editors.data import Fact
from editors.models.model import Model
from tests.analysis.fact_scores import at_the_end, by_hand, first_choice, measured, question
from tests.paths import SHARED
from tests.tiny import FACTS, VOCABULARY, tiny_model, tokenizer


def test_magnitudes_are_differences_of_geometric_mean_probabilities():
    fact = FACTS[0]
    found, model = measured([fact]), tiny_model()

    def difference(prompt: str) -> float:
        new, true = (by_hand(model, prompt, target)[0] for target in (fact.target_new, fact.target_true))
        return exp(new) - exp(true)

    assert found["edit/magnitude/seen.rewrite"] == pytest.approx(difference(fact.statement))
    assert found["edit/magnitude/seen.paraphrase"] == pytest.approx(difference(fact.paraphrases[0]))
    near = [-difference(prompt) for prompt in fact.neighbours]
    assert found["edit/magnitude/seen.neighbour"] == pytest.approx(sum(near) / len(near))


def test_means_are_taken_within_a_fact_first():
    """The score is the harmonic mean of the three successes."""
    records = pd.DataFrame(
        {
            "success.rewrite": [1.0, 0.0],
            "success.paraphrase": [0.5, 0.5],
            "success.neighbour": [1.0, None],
            "accuracy.rewrite": [1.0, 1.0],
        }
    )
    found = summarise(records, "seen")
    assert found["edit/success/seen.rewrite"] == 0.5
    assert found["edit/success/seen.neighbour"] == 1
    assert found["edit/score/seen"] == pytest.approx(3 / (1 / 0.5 + 1 / 0.5 + 1 / 1))


def test_zsre_scores_are_mean_token_accuracies_and_their_harmonic_mean():
    records = pd.DataFrame(
        {
            "token_accuracy.rewrite": [1.0, 0.5],
            "token_accuracy.paraphrase": [0.5, 0.5],
            "token_accuracy.locality": [0.0, 0.5],
        }
    )
    found = summarise(records, "seen")
    assert found["edit/token_accuracy/seen.locality"] == 0.25
    assert found["edit/score/seen"] == pytest.approx(3 / (1 / 0.75 + 1 / 0.5 + 1 / 0.25))


def test_token_accuracy_is_the_share_of_an_answers_tokens():
    """Also if the whole answer is not the first choice."""
    model = tiny_model()
    fact = question(prompt="{} is", target_new="is zzz")  # the tiny model repeats itself
    found = measured([fact])
    share = float(Scorer(model).score([(fact.statement, fact.target_new)]).correct[0])
    assert 0 < share < 1
    assert found["edit/token_accuracy/seen.rewrite"] == pytest.approx(share)
    assert found["edit/accuracy/seen.rewrite"] == 0


def test_a_question_keeps_its_unedited_answer_until_the_weights_change():
    model, fact = tiny_model(), question()
    stage = Efficacy()
    stage.prepare(model, [fact])
    assert stage.measure(model, at_the_end([fact]))["edit/invariance/seen.locality"] == 1
    model.hf.get_output_embeddings().weight.data.neg_()
    assert stage.measure(model, at_the_end([fact]))["edit/invariance/seen.locality"] < 1


def test_a_question_that_was_not_planned_has_no_invariance():
    model = tiny_model()
    stage = Efficacy()
    stage.prepare(model)
    found = stage.measure(model, at_the_end([question()]))
    assert "edit/token_accuracy/seen.locality" in found
    assert "edit/invariance/seen.locality" not in found


def test_bins_of_ages_are_1_2_5_steps():
    edges = [upper_edge(age) for age in (1, 10, 11, 20, 21, 51, 101, 201, 501, 1001, 2001, 5001, 10_000)]
    assert edges == [10, 10, 20, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 10_000]


def test_retention_is_the_success_of_each_age():
    """The accuracy takes its place for facts without a true object."""
    records = pd.DataFrame({"success.rewrite": [0.0, None, 1.0], "accuracy.rewrite": [1.0, 1.0, 0.0]})
    assert retention(records, [20, 11, 3]) == {"edit/retention/0020": 0.5, "edit/retention/0010": 1}
    assert retention(records[["accuracy.rewrite"]], [2, 3, 12_000]) == {
        "edit/retention/0010": 1,
        "edit/retention/20000": 0,
    }


def test_the_newest_edit_has_age_one():
    model = tiny_model()
    prompt = "The mother tongue of {} is"
    said = {n: first_choice(model, prompt.replace("{}", f"Rob {n}")).strip() for n in range(12)}
    lost = [
        Fact(id=f"{n}", prompt=prompt, subject=f"Rob {n}", target_new="zzz", target_true=said[n])
        for n in range(2)
    ]
    kept = [
        Fact(id=f"{n}", prompt=prompt, subject=f"Rob {n}", target_new=said[n], target_true="zzz")
        for n in range(2, 12)
    ]
    found = measured([*lost, *kept])
    assert (found["edit/retention/0010"], found["edit/retention/0020"]) == (1, 0)


def roomy_model() -> Model:
    """Room for real sentences cut into bytes."""
    size = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "vocab_size": VOCABULARY}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf = AutoModelForCausalLM.from_config(GPT2Config(**size, bos_token_id=0, eos_token_id=0))
    return Model(hf, tokenizer(), name="roomy")


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data sets are not here")
def test_real_zsre_questions_have_every_score_but_success():
    rows = json.loads((SHARED / "data" / "zsre-1k.json").read_text())[:8]
    facts = [
        Fact(
            id=str(i),
            prompt=row["src"].replace(row["subject"], "{}", 1),
            subject=row["subject"],
            target_new=row["answers"][0],
            paraphrases=(row["rephrase"],),
            locality=((f"{row['loc']}?", row["loc_ans"]),),
        )
        for i, row in enumerate(rows)
    ]
    model, stage = roomy_model(), Efficacy(generated=4)
    stage.prepare(model, facts)
    found = stage.measure(model, at_the_end(facts))
    assert found["edit/invariance/seen.locality"] == 1
    kinds = ("rewrite", "paraphrase", "locality")
    assert all(0 <= found[f"edit/token_accuracy/seen.{kind}"] <= 1 for kind in kinds)
    assert "edit/score/seen" in found and "edit/success/seen.rewrite" not in found


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data sets are not here")
def test_real_counterfact_scores_are_those_of_whole_passes():
    with (SHARED / "data" / "counterfact" / "counterfact.jsonl").open() as file:
        rows = [json.loads(line) for line in islice(file, 5)]
    facts = [
        Fact(
            id=str(row["case_id"]),
            prompt=row["prompt"],
            subject=row["subject"],
            target_new=row["target_new"],
            target_true=row["target_true"],
            paraphrases=tuple(row["paraphrase_prompts"]),
            neighbours=tuple(row["neighborhood_prompts"]),
        )
        for row in rows
    ]
    model, stage = roomy_model(), Efficacy(generated=0)
    stage.prepare(model, facts)
    table = stage.score(facts)
    for fact, row in zip(facts, table.to_dict("records"), strict=True):
        new, true = (
            by_hand(model, fact.statement, target)[0] for target in (fact.target_new, fact.target_true)
        )
        assert row["success.rewrite"] == (new > true)
        near = [
            by_hand(model, p, fact.target_true)[0] > by_hand(model, p, fact.target_new)[0]
            for p in fact.neighbours
        ]
        assert row["success.neighbour"] == pytest.approx(sum(near) / len(near))
