"""Facts: layouts, skipped rows, order, and the messages for bad input."""

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hydra.utils import instantiate

from editors import hub
from editors.data import Fact
from editors.errors import ConfigError, DataError
from pipeline.data import readers
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
        row(0),
        row(12, subject=""),
        row(13, target_new="Engl\ud800ish"),
        row(14, paraphrase_prompts=["Person 14 \0 speaks"]),
        row(15, case_id=[15]),
        row(16, prompt=["{} is"]),
        row(17, target_new=1889),
        '{"case_id": ' + 100_000 * "[",
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
        ("13", "broken text"),
        ("14", "broken text"),
        ("line 17", "unusable id"),
        ("16", "missing field"),
        ("17", "missing field"),
        ("line 20", "broken line"),
    ]
    assert sum(factset.counts.values()) == 19
    assert factset.counts["broken line"] == 3


def test_the_first_row_of_each_reason_is_named_with_its_field(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "facts.jsonl",
        row(1, target_true=None),
        row(2, prompt="Somebody is"),
        row(3, target_new=7),
        row(4, prompt="Nobody is"),
    )
    expected = (
        r"\(missing field: 2, first line 1: target_true; "
        r"subject absent: 2, first line 2: 'Person 2' in .*write \{\} once in"
    )
    with pytest.raises(DataError, match=expected):
        CounterFact(path=path).load()


def test_a_subject_becomes_the_slot_but_not_inside_another_word(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", row(0, subject="Ra", prompt="Ravi says that Ra is"))
    assert CounterFact(path=path).load().facts[0].prompt == "Ravi says that {} is"


@pytest.mark.parametrize(
    "space", [" ", "\t\n", "\u00a0", "\u3000", "\u200b", "\ufeff", "\u200e \u00ad", "\u3164\u2800"]
)
def test_space_around_a_text_is_no_part_of_it(tmp_path: Path, space: str) -> None:
    texts = ("prompt", "subject", "target_new", "target_true")
    spaced = {key: f"{space}{row(0)[key]}{space}" for key in texts}
    lists = ("paraphrase_prompts", "neighborhood_prompts")
    spaced |= {key: [f"{space}{prompt}{space}" for prompt in row(0)[key]] for key in lists}  # pyright: ignore
    (fact,) = CounterFact(path=lines(tmp_path / "a.jsonl", row(0))).load().facts
    assert CounterFact(path=lines(tmp_path / "b.jsonl", row(0) | spaced)).load().facts == (fact,)


def test_blank_prompts_are_left_out_with_a_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    changes: dict[str, object] = {
        "paraphrase_prompts": ["", "Person 0 speaks", " \u00a0"],
        "neighborhood_prompts": [None, "\t"],
    }
    (fact,) = CounterFact(path=lines(tmp_path / "a.jsonl", row(0, **changes))).load().facts
    assert (fact.paraphrases, fact.neighbours) == (("Person 0 speaks",), ())
    assert "left out 4 blank paraphrases, neighbours and questions" in caplog.text


def test_blank_questions_of_zsre_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    question: dict[str, object] = {
        "subject": "Rob",
        "src": "Who is Rob?",
        "answers": ["", "a poet"],
        "rephrase": " ",
        "loc": " ",
    }
    (fact,) = ZsRE(path=lines(tmp_path / "a.jsonl", question | {"loc_ans": "Roger"})).load().facts
    assert (fact.target_new, fact.paraphrases, fact.locality) == ("a poet", (), ())
    assert "left out 3 blank" in caplog.text


def test_facts_without_an_id_are_named_by_their_content(tmp_path: Path) -> None:
    bare = {key: value for key, value in row(0).items() if key != "case_id"}
    others: list[dict[str, object]] = [
        {"subject": "Person 1"},
        {"subject": "Person 2", "case_id": None},
        {"subject": "Person 3", "case_id": float("nan")},
        {"subject": "Person 4", "case_id": " "},
    ]
    rows = [row(0), *({**bare, "prompt": "{} speaks", **other} for other in others)]
    (first, *rest) = CounterFact(path=lines(tmp_path / "a.jsonl", *rows)).load().facts
    reordered = CounterFact(path=lines(tmp_path / "b.jsonl", *reversed(rows))).load().facts
    assert first.id == "0"
    assert [fact.subject for fact in rest] == ["Person 1", "Person 2", "Person 3", "Person 4"]
    assert len({fact.id for fact in rest}) == 4
    assert list(reordered) == [*reversed(rest), first]


@pytest.mark.parametrize("again", [0, "0", 0.0, " 0 "])
def test_a_fact_that_is_repeated_with_its_id_is_one(tmp_path: Path, again: object) -> None:
    factset = CounterFact(path=lines(tmp_path / "a.jsonl", row(0), row(0, case_id=again))).load()
    assert len(factset.facts) == 1 and factset.counts == {"duplicate": 1}


@pytest.mark.parametrize(
    "change", [{"subject": "Person 11"}, {"target_new": "Dutch"}, {"paraphrase_prompts": []}]
)
def test_an_id_of_different_facts_is_a_conflict(tmp_path: Path, change: dict[str, object]) -> None:
    path = lines(tmp_path / "a.jsonl", row(1), row(0), row(2), row(0, **change))
    with pytest.raises(DataError, match=r"a\.jsonl have the same case_id: 0 \(line 2 and line 4\)"):
        CounterFact(path=path).load()


def test_both_forms_of_an_accent_are_one_subject(tmp_path: Path) -> None:
    composed = row(0, prompt="Café is", subject="Café", paraphrase_prompts=[])
    decomposed = row(1, prompt="Cafe\u0301 serves", subject="Cafe\u0301", paraphrase_prompts=[])
    mixed = row(2, prompt="Cafe\u0301 has", subject="Café", paraphrase_prompts=[])
    facts = CounterFact(path=lines(tmp_path / "a.jsonl", composed, decomposed, mixed)).load()
    assert [fact.statement for fact in facts.facts] == ["Café is", "Café serves", "Café has"]
    assert len(facts.untouched(facts.facts[:1])) == 0


FACT = json.dumps(row(0), ensure_ascii=False)
READ = {
    "byte order mark": f"\ufeff{FACT}".encode(),
    "byte order mark of a list": f"\ufeff[{FACT}]".encode(),
    "gzip": gzip.compress(FACT.encode(), mtime=0),
    "gzip of a list": gzip.compress(f"[{FACT}]".encode(), mtime=0),
    "CR": FACT.encode() + b"\r" + FACT.encode(),
    "CRLF": FACT.encode() + b"\r\n\r\n",
    "line separator in a string": json.dumps(row(0, note="\u2028\x85"), ensure_ascii=False).encode(),
}
REFUSED = {
    "is text in UTF-16: save it as UTF-8": FACT.encode("utf-16"),
    "is text in UTF-32: save it as UTF-8": FACT.encode("utf-32"),
    "is text in UTF-16 or UTF-32, or no text at all: save it as UTF-8": FACT.encode("utf-16-le"),
    r"is not UTF-8 \(line 2 holds the byte 0xe9\): save it as UTF-8": b"\n" + "é".encode("latin-1"),
    "is a damaged gzip file": gzip.compress(FACT.encode(), mtime=0)[:-9],
    "unpacks to more than 200 times its size": gzip.compress(b"\n" * (1 << 27), mtime=0),
    "line 2, has an object with two fields 'subject'": f'{FACT}\n{FACT[:-1]}, "subject": "x"}}'.encode(),
    "has an object with two fields 'str'": f'[{FACT}, {{"a": {{"str": 1, "str": 2}}}}]'.encode(),
    "is a zip archive, as spreadsheets are: unpack it": b"PK\x03\x04" + bytes(60),
    "is a Parquet file: save it as JSON lines": b"PAR1" + bytes(60),
    "is a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "is an HTML page": b"<!doctype html><html>",
    "is one JSON object: give a list": json.dumps(row(0), indent=1).encode(),
    "is not valid JSON": f"[{FACT},]".encode(),
    "holds no JSON object .*it begins with 'prompt,subject'": b"prompt,subject\n{} is,Rob\n",
    r"no row of .* is usable .*it is empty": b"",
    "is not valid JSON .*recursion": 100_000 * b"[",
}


@pytest.mark.parametrize("kind", READ)
def test_files_of_every_usual_form_are_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / "facts").write_bytes(READ[kind])
    (fact,) = CounterFact(path=str(tmp_path / "facts")).load().facts
    assert fact.statement == "The mother tongue of Person 0 is"


@pytest.mark.parametrize("sentence", REFUSED)
def test_files_that_cannot_be_read_are_refused_by_their_kind(tmp_path: Path, sentence: str) -> None:
    (tmp_path / "facts").write_bytes(REFUSED[sentence])
    with pytest.raises(DataError, match=sentence):
        CounterFact(path=str(tmp_path / "facts")).load()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is a pipe or device: give the path of a file"):
        CounterFact(path=str(tmp_path / "pipe")).load()


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
    with pytest.raises(DataError, match=r"no row of .* is usable .*\(broken line: 2, first line 1\)"):
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


def test_without_a_network_a_hub_data_set_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library would try for half a minute; a hub that answers, if only with a refusal, is left to it."""
    monkeypatch.setattr(readers, "is_offline", lambda: False)
    monkeypatch.setattr(hub, "refusal", lambda dataset, **_: ConnectionError("no network"))
    told = r"nobody/nothing-here is not on this machine, and the hub does not answer \(no network\)"
    with pytest.raises(DataError, match=told):
        CounterFact(dataset="nobody/nothing-here").load()
    monkeypatch.setattr(hub, "refusal", lambda dataset, **_: None)
    with pytest.raises(DataError, match="nobody/nothing-here cannot be loaded"):
        CounterFact(dataset="nobody/nothing-here").load()


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
