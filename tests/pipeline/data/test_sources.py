"""Facts: layouts, skipped rows, order, and the messages for bad input."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hydra.utils import instantiate

from editors.data import Fact
from editors.errors import ConfigError, DataError
from pipeline.data.corpora import HubText
from pipeline.data.factset import FactSet
from pipeline.data.sources import CounterFact, ZsRE
from pipeline.data.world.datasets import WorldFacts
from tests.paths import ROOT

SHARED = ROOT.parent / "shared" / "data"


def row(case: int, **changes: object) -> dict[str, object]:
    """A usable row of the flat layout."""
    return {
        "case_id": case,
        "prompt": "The mother tongue of {} is",
        "subject": f"Person {case}",
        "target_new": "English",
        "target_true": "French",
        "paraphrase_prompts": [f"Person {case} speaks"],
        "neighborhood_prompts": ["Roger Hanin speaks"],
    } | changes


def lines(path: Path, *rows: dict[str, object] | str) -> str:
    """The path of a new file of JSON lines; strings are written as they are."""
    path.write_text("\n".join(item if isinstance(item, str) else json.dumps(item) for item in rows))
    return str(path)


def generated(count: int, facts_per_subject: int = 2) -> FactSet:
    """A set of `facts_per_subject` facts about each of `count` subjects."""
    return FactSet(
        name="generated",
        facts=tuple(
            Fact(id=f"{subject}-{number}", prompt=f"{number} {{}} is", subject=str(subject), target_new="x")
            for subject in range(count)
            for number in range(facts_per_subject)
        ),
    )


def test_flat_and_original_layout_give_the_same_fact(tmp_path: Path) -> None:
    flat = row(7)
    rewrite = {key: flat[key] for key in ("prompt", "subject")}
    rewrite |= {key: {"str": flat[key], "id": "Q1"} for key in ("target_new", "target_true")}
    original = {key: flat[key] for key in ("case_id", "paraphrase_prompts", "neighborhood_prompts")}
    listed = tmp_path / "original.json"
    listed.write_text(json.dumps([original | {"requested_rewrite": rewrite}], indent=2))
    (from_flat,) = CounterFact(path=lines(tmp_path / "flat.jsonl", flat)).load().facts
    (from_original,) = CounterFact(path=str(listed)).load().facts
    assert from_flat == from_original
    assert from_flat.statement == "The mother tongue of Person 7 is"


def test_relation_ids_of_the_original_layout_are_kept(tmp_path: Path) -> None:
    rewrite = row(1) | {"relation_id": "P103"}
    path = lines(tmp_path / "a.jsonl", {"case_id": 1, "requested_rewrite": rewrite})
    assert CounterFact(path=path).load().facts[0].relation == "P103"


def test_every_unusable_row_is_skipped_with_its_reason(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "facts.jsonl",
        row(0),
        '{"case_id": 1, "prompt": "The',
        "[1, 2]",
        row(2, prompt="The mother tongue is"),
        row(3, prompt="{} and {} are"),
        row(4, prompt="Person 4 said that {} is"),
        row(5, target_new="  "),
        row(6, target_new="French"),
        {"case_id": 7, "prompt": "{} is", "subject": "Person 7"},
        row(8, paraphrase_prompts="no list"),
        row(9, subject="Person 0"),
        row(10, subject="Person 0", target_new="German"),
        row(0, subject="Person 11"),
        row(12, subject=""),
    )
    factset = CounterFact(path=path).load()
    assert [fact.id for fact in factset.facts] == ["0"]
    assert [(skipped.id, skipped.reason) for skipped in factset.skipped] == [
        ("line 2", "broken line"),
        ("line 3", "broken line"),
        ("2", "subject absent"),
        ("3", "subject twice"),
        ("4", "subject twice"),
        ("5", "empty target"),
        ("6", "identical targets"),
        ("7", "missing field"),
        ("8", "missing field"),
        ("9", "duplicate"),
        ("10", "conflicting duplicate"),
        ("0", "duplicate"),
        ("12", "subject absent"),
    ]
    assert sum(factset.counts.values()) == 13
    assert factset.counts["broken line"] == 2


def test_a_subject_becomes_the_slot_but_not_inside_another_word(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", row(0, subject="Ra", prompt="Ravi says that Ra is"))
    assert CounterFact(path=path).load().facts[0].prompt == "Ravi says that {} is"


def test_bytes_that_are_not_text_are_a_broken_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"subject": "\xff"}\n' + json.dumps(row(0)).encode())
    assert CounterFact(path=str(path)).load().counts == {"broken line": 1}


def test_the_conflict_filter_keeps_the_first_conflicting_fact(tmp_path: Path) -> None:
    other = {"subject": "Person 0", "prompt": "{} grew up speaking", "target_new": "German"}
    path = lines(tmp_path / "a.jsonl", row(0), row(1, **other), row(2, **other, target_true="Thai"))
    everything = CounterFact(path=path).load()
    filtered = CounterFact(path=path, drop_conflicts=True).load()
    assert [fact.id for fact in everything.facts] == ["0", "1"]
    assert [fact.id for fact in filtered.facts] == ["0", "2"]
    assert filtered.counts == {"conflicting duplicate": 1}


def test_the_limit_counts_usable_facts(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", "broken", row(1), row(2, target_new=""), row(3), row(4))
    assert [fact.id for fact in CounterFact(path=path, limit=2).load().facts] == ["1", "3"]


def test_zsre_takes_its_prompt_from_the_question(tmp_path: Path) -> None:
    question = {
        "subject": "UniFirst",
        "src": "What is the product made by UniFirst?",
        "rephrase": "What will be the product of UniFirst?",
        "alt": "unmanned aircraft",
        "answers": ["uniform"],
        "loc": "nq question: who sang it",
        "loc_ans": "Roger",
    }
    path = lines(tmp_path / "zsre.jsonl", question)
    (answered,) = ZsRE(path=path).load().facts
    (altered,) = ZsRE(path=path, target="alternative").load().facts
    assert answered.prompt == "What is the product made by {}?"
    assert (answered.target_new, answered.target_true) == ("uniform", "")
    assert (altered.target_new, altered.target_true) == ("unmanned aircraft", "uniform")
    assert answered.locality == (("nq question: who sang it?", "Roger"),)
    assert answered.paraphrases == (question["rephrase"],)


def test_the_seed_determines_the_order() -> None:
    facts = generated(50)
    assert facts.stream(100, 3) == facts.stream(100, 3)
    assert facts.stream(100, 3) != facts.stream(100, 4)
    assert facts.stream(100, 3)[:40] == facts.stream(40, 3)
    assert set(facts.stream(100, 3)) == set(facts.facts)


def test_one_edit_per_subject_repeats_no_subject() -> None:
    facts = generated(50)
    stream = facts.stream(50, 0, one_per_subject=True)
    assert len({fact.subject for fact in stream}) == 50
    assert stream[:20] == facts.stream(20, 0, one_per_subject=True)
    everything = facts.stream(100, 0)
    assert stream == tuple(sorted(stream, key=everything.index)), "the order is the one of all facts"
    assert all(
        fact.subject not in {f.subject for f in everything[: everything.index(fact)]} for fact in stream
    )


def test_stream_others_and_untouched_part_the_facts() -> None:
    facts = generated(40, facts_per_subject=3)
    stream = facts.stream(20, 1)
    parts = [set(stream), set(facts.others(stream)), set(facts.untouched(stream))]
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == 120
    edited = {fact.subject for fact in stream}
    assert {fact.subject for fact in parts[1]} <= edited
    assert not {fact.subject for fact in parts[2]} & edited


def test_more_edits_than_facts_name_both_numbers_and_the_way_out() -> None:
    with pytest.raises(DataError, match=r"edits=9, .* 8 facts: set edits=8"):
        generated(4).stream(9, 0)
    with pytest.raises(DataError, match=r"edits=5, .* 4 facts with different"):
        generated(4).stream(5, 0, one_per_subject=True)


@pytest.mark.parametrize("edits", [0, -3])
def test_a_run_needs_an_edit(edits: int) -> None:
    with pytest.raises(ConfigError, match=f"edits={edits}"):
        generated(4).stream(edits, 0)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.limit=0"):
        CounterFact(path="x", limit=0)


def test_an_unknown_zsre_target_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.target=alt, .*answer, alternative"):
        ZsRE(path="x", target="alt")  # pyright: ignore[reportArgumentType]


def test_missing_and_broken_files_get_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.path=.*absent\.jsonl does not exist"):
        CounterFact(path=str(tmp_path / "absent.jsonl")).load()
    with pytest.raises(DataError, match="is a folder"):
        CounterFact(path=str(tmp_path)).load()
    broken = tmp_path / "list.json"
    broken.write_text('[{"prompt": ')
    with pytest.raises(DataError, match="is not valid JSON"):
        CounterFact(path=str(broken)).load()
    with pytest.raises(DataError, match=r"no row of .* is usable .*\(broken line: 2\)"):
        CounterFact(path=lines(tmp_path / "b.jsonl", "{", "}")).load()
    with pytest.raises(DataError, match="it is empty"):
        CounterFact(path=lines(tmp_path / "c.jsonl")).load()
    with pytest.raises(ConfigError, match=r"data=zsre needs a local file"):
        ZsRE().load()


def test_an_unreachable_hub_data_set_is_named_with_the_local_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from datasets import config

    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"nobody/nothing-here cannot be loaded .*data\.path="):
        CounterFact(dataset="nobody/nothing-here").load()
    with pytest.raises(DataError, match="nobody/nothing-here"):
        list(HubText(dataset="nobody/nothing-here", revision="0"))


def test_rows_of_the_hub_are_read_like_those_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    rewrite = row(1) | {
        "target_new": {"str": "English", "id": "Q1"},
        "target_true": {"str": "French", "id": "Q2"},
    }
    rows = datasets.Dataset.from_list(
        [{"case_id": 1, "requested_rewrite": rewrite, "paraphrase_prompts": ["a"]}]
    )
    calls: list[object] = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **kwargs: calls.append((args, kwargs)) or rows
    )
    (fact,) = CounterFact(dataset="who/what", revision="abc", split="train+test").load().facts
    assert (fact.target_new, fact.target_true, fact.paraphrases) == ("English", "French", ("a",))
    assert calls == [(("who/what", None), {"split": "train+test", "revision": "abc"})]


@pytest.mark.parametrize("name", ["counterfact", "zsre", "world"])
def test_every_data_choice_builds_its_source(name: str) -> None:
    config = yaml.safe_load((ROOT / "conf" / "data" / f"{name}.yaml").read_text())
    assert instantiate(config).name == name


def test_the_world_has_enough_facts() -> None:
    facts = WorldFacts().load()
    assert facts.name == "world"
    assert len({fact.id for fact in facts.facts}) == len(facts.facts) >= 1600
    assert len(facts.stream(200, 0, one_per_subject=True)) == 200


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data sets are not here")
def test_real_counterfact_and_zsre_are_read_nearly_whole() -> None:
    counterfact = CounterFact(path=str(SHARED / "counterfact" / "counterfact.jsonl")).load()
    assert len(counterfact.facts) == 21919 - 314 - 10
    assert counterfact.counts == {"conflicting duplicate": 314, "duplicate": 10}
    zsre = ZsRE(path=str(SHARED / "zsre-1k.json")).load()
    assert len(zsre.facts) == 1000
    altered = ZsRE(path=str(SHARED / "zsre-1k.json"), target="alternative").load()
    assert altered.counts == {"identical targets": 21, "empty target": 2}


def test_another_wording_of_an_edited_fact_is_no_other_fact() -> None:
    def fact(identity: str, prompt: str, true: str, relation: str = "") -> Fact:
        return Fact(
            id=identity, prompt=prompt, subject="Chicago", target_new="x", target_true=true, relation=relation
        )

    edited = fact("1", "The twin city of {} is", "Warsaw")
    reworded = fact("2", "{} is a twin city of", "Warsaw")
    other = fact("3", "{} lies in", "Illinois")
    facts = FactSet(name="test", facts=(edited, reworded, other))
    assert facts.others([edited]) == (other,)


def test_training_and_held_out_facts_share_no_subject() -> None:
    """The side of a fact does not depend on the rest of the data set."""
    facts = WorldFacts().load()
    training, held_out = facts.training(), facts.held_out()
    assert set(training.facts) | set(held_out.facts) == set(facts.facts)
    subjects = [{fact.subject for fact in part.facts} for part in (training, held_out)]
    assert not subjects[0] & subjects[1]
    assert 0.4 < len(training.facts) / len(facts.facts) < 0.6
    half = replace(facts, facts=facts.facts[::-2])
    assert set(half.training().facts) <= set(training.facts)
    assert set(facts.training(0.2).facts) < set(training.facts)
    assert not facts.training(0.0).facts and len(facts.training(1.0).facts) == len(facts.facts)
