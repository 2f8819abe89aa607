"""The scopes of a measurement, what a model writes by itself, and the table of the end."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import pandas as pd
import pytest
import torch

from analysis.inference.continuations import continuations
from analysis.stages.base import Observation, compare
from analysis.stages.efficacy.records import summarise, unmeasured
from analysis.stages.efficacy.stage import Efficacy, is_target
from editors.data import Fact
from editors.errors import ConfigError, DataError
from tests.analysis.fact_scores import at_the_end, first_choice, measured
from tests.tiny import FACTS, tiny_model


def test_a_prompt_longer_than_the_model_reads_is_refused_by_prepare():
    fact = Fact(id="a", prompt="{} is" + " so" * 99, subject="Rob", target_new="old")
    with pytest.raises(DataError, match="tokens, but tiny-gpt2 reads at most 64"):
        Efficacy().prepare(tiny_model(), [fact])


def test_a_fact_that_the_model_says_scores_1_and_its_reverse_0():
    prompt = "The mother tongue of {} is"
    said = first_choice(tiny_model(), prompt.replace("{}", "Rob")).strip()
    fact = Fact(id="a", prompt=prompt, subject="Rob", target_new=said, target_true="zzz")
    reverse = Fact(id="b", prompt=prompt, subject="Rob", target_new="zzz", target_true=said)
    assert measured([fact])["edit/success/seen.rewrite"] == 1
    assert measured([reverse])["edit/success/seen.rewrite"] == 0
    assert measured([fact, reverse])["edit/success/seen.rewrite"] == 0.5


def test_the_unedited_model_is_scored_on_facts_that_will_be_edited():
    prompt = "The mother tongue of {} is"
    said = first_choice(tiny_model(), prompt.replace("{}", "Rob")).strip()
    fact = Fact(id="a", prompt=prompt, subject="Rob", target_new=said, target_true="zzz")
    stage, model = Efficacy(generated=0), tiny_model()
    stage.prepare(model, [fact])
    start = stage.measure(model, Observation(count=0, total=1))
    assert start["edit/success/before.rewrite"] == 1
    after = stage.measure(model, Observation(count=1, total=1, latest=[fact], seen=[fact]))
    assert not any("before" in key for key in after)
    stage.prepare(model)
    assert not any("before" in key for key in stage.measure(model, Observation(count=0, total=1)))


def test_neighbours_count_the_true_object_as_success():
    prompt = "The mother tongue of {} is"
    said = first_choice(tiny_model(), prompt.replace("{}", "Rob")).strip()
    near = (prompt.replace("{}", "Rob"),)
    kept = Fact(id="a", prompt=prompt, subject="Ada", target_new="zzz", target_true=said, neighbours=near)
    lost = Fact(id="b", prompt=prompt, subject="Ada", target_new=said, target_true="zzz", neighbours=near)
    assert measured([kept])["edit/success/seen.neighbour"] == 1
    assert measured([lost])["edit/success/seen.neighbour"] == 0


def test_pools_are_asked_for_their_true_objects():
    found = measured(FACTS[:1], others=FACTS[1:2], untouched=FACTS[2:])
    assert {"edit/known/other", "edit/known/unedited"} <= set(found)


def test_an_edit_that_a_later_one_replaced_counts_no_more():
    prompt = "The mother tongue of {} is"
    said = first_choice(tiny_model(), prompt.replace("{}", "Rob")).strip()
    old = Fact(id="a", prompt=prompt, subject="Rob", target_new="zzz", target_true="qqq")
    new = replace(old, id="a#2", target_new=said, replaces="a")
    other = replace(old, id="b", prompt="{} works as a")
    once, again = measured([other, new]), measured([old, other, new])
    assert again["edit/success/seen.rewrite"] == once["edit/success/seen.rewrite"]
    assert again["edit/success/first50.rewrite"] == once["edit/success/first50.rewrite"]
    assert again["edit/retention/0010"] == once["edit/retention/0010"]
    assert list(again["records"]["id"]) == ["b", "a#2"]
    assert list(again["records"]["edit"]) == [2, 3]
    assert measured([old, new])["edit/success/seen.rewrite"] == 1
    assert measured([old, replace(new, replaces="")])["edit/success/seen.rewrite"] == 0.5


def test_facts_without_a_true_object_have_accuracy_but_no_success():
    fact = Fact(id="a", prompt="{} works as a", subject="Ada Byron", target_new="poet")
    found = measured([fact])
    assert "edit/accuracy/seen.rewrite" in found
    assert not any(key.startswith(("edit/success", "edit/score")) for key in found)


def test_exactly_facts_that_lack_no_kind_of_prompt_have_a_score():
    plain = Fact(id="a", prompt="{} is", subject="Rob", target_new="big")
    full = replace(plain, target_true="old", paraphrases=("It is Rob",), neighbours=("Ada is",))
    zsre = replace(plain, paraphrases=("It is Rob",), locality=(("Ada is", "old"),))
    variants = [plain, full, zsre]
    variants += [replace(full, target_true=""), replace(full, paraphrases=()), replace(full, neighbours=())]
    for fact in variants:
        assert (not unmeasured([fact], 10)) == ("edit/score/seen" in measured([fact])), fact
    assert unmeasured([plain], 10) == ["rewrite", "paraphrase", "neighbour"]
    assert unmeasured([full], 0) == ["neighbour"]


def test_the_final_records_have_a_row_per_edit_with_log_probabilities():
    records = measured(FACTS)["records"]
    assert list(records["id"]) == [fact.id for fact in FACTS]
    assert records["log_p_new.rewrite"].notna().all()


def test_a_sample_is_drawn_by_id_so_that_a_longer_run_keeps_it():
    facts = [
        Fact(id=str(i), prompt="{} is", subject=f"Rob {i}", target_new="a", target_true="b")
        for i in range(40)
    ]
    stage = Efficacy(sample=10)
    drawn = {fact.id for fact in stage._sample(facts)}
    assert len(drawn) == 10
    assert {fact.id for fact in stage._sample(facts[::-1])} == drawn
    assert len(drawn & {fact.id for fact in stage._sample([*facts, *facts[:0]])}) == 10


def test_a_model_whose_scores_are_nan_scores_0():
    model = tiny_model()
    model.hf.get_output_embeddings().weight.data.fill_(float("nan"))
    stage = Efficacy()
    stage.prepare(model)
    found = stage.measure(model, Observation(count=1, total=1, seen=FACTS[:1]))
    assert found["edit/success/seen.rewrite"] == found["edit/success/seen.neighbour"] == 0
    assert found["edit/score/seen"] == 0
    assert found["edit/magnitude/seen.rewrite"] == found["edit/accuracy/seen.rewrite"] == 0


def test_neighbours_of_a_fact_without_a_true_object_have_no_accuracy():
    fact = Fact(id="a", prompt="{} works as a", subject="Ada", target_new="poet", neighbours=("Rob is",))
    assert "edit/accuracy/seen.neighbour" not in measured([fact])


def test_every_edit_is_among_the_records_of_the_end_also_beyond_the_sample():
    model = tiny_model()
    stage = Efficacy(sample=1)
    stage.prepare(model)
    records = stage.measure(model, Observation(count=3, total=3, seen=FACTS))["records"]
    assert list(records["edit"]) == [1, 2, 3]


def scopes_of(found: Mapping[str, object]) -> set[str]:
    return {key.split("/")[2].split(".")[0] for key in found if key.startswith("edit/success")}


def test_scopes_are_chosen_and_the_end_scores_every_edit():
    model, stage = tiny_model(), Efficacy(scopes=["sample", "first"], first=2, sample=2)
    stage.prepare(model, FACTS)
    before = Observation(count=3, total=9, seen=FACTS, latest=FACTS[2:])
    assert scopes_of(stage.measure(model, before)) == {"sample", "first2"}
    end = stage.measure(model, at_the_end(FACTS))
    assert scopes_of(end) == {"sample", "first2", "seen"}
    assert len(end["records"]) == 3


def test_scopes_that_share_facts_give_what_each_gives_alone():
    model, stage = tiny_model(), Efficacy()
    stage.prepare(model, FACTS)
    found = stage.measure(model, Observation(count=3, total=3, seen=FACTS, latest=FACTS[1:]))
    alone = summarise(stage.score(FACTS[1:]), "latest")
    assert {key: found[key] for key in alone} == pytest.approx(alone)


def test_where_nothing_is_edited_only_what_is_known_is_scored():
    stage = Efficacy()
    stage.prepare(tiny_model())
    trained = Observation(count=4, total=4, unit="steps", untouched=FACTS)
    assert stage.measure(tiny_model(), trained).keys() == {"edit/known/unedited"}


def test_bad_options_are_refused():
    with pytest.raises(ConfigError, match=r"stage\.efficacy\.sample=0.*at least 1"):
        Efficacy(sample=0)
    with pytest.raises(ConfigError, match=r"stage\.efficacy\.scopes has 'newest'.*latest, seen"):
        Efficacy(scopes=["newest"])


@pytest.mark.parametrize(
    ("continuation", "target", "said"),
    [
        (" English. He", "English", True),
        (" English\nHe", "English", True),
        (" English", "English", True),
        (" English and French.", "English", False),
        (" Englishman.", "English", False),
        (" St. Louis. He", "St. Louis", True),
        (" the English.", "English", False),
    ],
)
def test_what_is_written_has_to_end_with_the_target(continuation: str, target: str, said: bool):
    assert is_target(continuation, target) is said


def test_what_the_model_writes_by_itself_is_compared_with_the_new_object():
    fact = Fact(id="a", prompt="{} is", subject="English", target_new="is is")  # it repeats itself
    facts = [fact, replace(fact, id="b", target_new="zzz")]
    found = {}
    for tokens in (1, 2, 8):
        model, stage = tiny_model(), Efficacy(generated_tokens=tokens)
        stage.prepare(model)
        end = stage.measure(model, at_the_end(facts))
        found[tokens] = tuple(end[f"edit/generated/seen.{key}"] for key in ("exact", "contains"))
    assert found == {1: (0, 0), 2: (0.5, 0.5), 8: (0, 0.5)}


def test_generating_can_be_left_out():
    model, stage = tiny_model(), Efficacy(generated=0)
    stage.prepare(model)
    end = stage.measure(model, at_the_end(FACTS))
    assert not any("generated" in key for key in end)
    assert isinstance(table := end["records"], pd.DataFrame) and "text_after" not in table


def test_the_table_of_edits_holds_what_was_written_before_and_after():
    model, stage = tiny_model(), Efficacy(generated=2, generated_tokens=3)
    stage.prepare(model, FACTS)
    before = {fact.statement: continuations(model, [fact.statement], tokens=3)[0] for fact in FACTS}
    with torch.no_grad():
        model.hf.get_output_embeddings().weight.copy_(-model.hf.get_output_embeddings().weight)
    table = stage.measure(model, at_the_end(FACTS))["records"]
    assert isinstance(table, pd.DataFrame)
    asked = table.dropna(subset="text_after")
    assert len(asked) == 2 and (asked["text_before"] != asked["text_after"]).all()
    for row in asked.to_dict("records"):
        statement = row["prompt"].replace("{}", row["subject"])
        assert row["text_before"] == before[statement]
        assert row["text_after"] == continuations(model, [statement], tokens=3)[0]


def test_nothing_of_the_model_and_of_the_global_random_state_changes():
    model, stage = tiny_model(), Efficacy()
    weights = {name: value.clone() for name, value in model.hf.state_dict().items()}
    state, config = torch.get_rng_state(), model.hf.generation_config
    stage.prepare(model, FACTS)
    stage.measure(model, at_the_end(FACTS, others=FACTS[:1]))
    assert all(torch.equal(value, weights[name]) for name, value in model.hf.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.hf.generation_config is config and not model.hf.training


def test_another_model_than_the_prepared_one_is_scored_when_it_is_measured():
    edited = tiny_model()
    edited.hf.get_output_embeddings().weight.data.neg_()
    stage = Efficacy(generated=0)
    across, alone = (compare([stage], unedited, edited, FACTS) for unedited in (tiny_model(), edited))
    keys = [key for key in alone if key.startswith(("edit/success", "edit/accuracy", "edit/magnitude"))]
    assert keys and {key: across[key] for key in keys} == {key: alone[key] for key in keys}


def test_retention_between_measurements_is_that_of_the_draw_alone():
    facts = [replace(FACTS[0], id=f"{i}") for i in range(30)]
    stage = Efficacy(sample=5, first=20, generated=0)
    stage.prepare(tiny_model(), facts)
    seen = Observation(count=30, total=90, seen=facts, latest=facts[-1:])
    drawn = {30 - facts.index(fact) for fact in stage._sample(facts)}
    bins = {int(key.rpartition("/")[2]) for key in stage.measure(tiny_model(), seen) if "retention" in key}
    edges = [0, 10, 20, 50]
    assert bins == {high for low, high in pairwise(edges) if any(low < age <= high for age in drawn)}


def test_a_locality_prompt_without_an_answer_is_left_out():
    fact = replace(FACTS[0], locality=(("Who walks to town?", ""), ("People speak", "French")))
    found = measured([fact])
    assert found["edit/invariance/seen.locality"] == 1


def test_what_follows_from_an_edit_counts_where_the_model_says_it_and_changes_no_other_score():
    prompt = "The mother tongue of {} is"
    said = first_choice(tiny_model(), prompt.replace("{}", "Ada")).strip()
    asked = prompt.replace("{}", "Ada")
    plain = measured([FACTS[0]])
    for answer, share in ((said, 1.0), ("zzz", 0.0)):
        found = measured([replace(FACTS[0], portability=((asked, answer),))])
        assert found["edit/accuracy/seen.portability"] == share
        assert all(found[key] == plain[key] for key in plain if key.startswith("edit/"))
    assert not any("portability" in key for key in plain)
