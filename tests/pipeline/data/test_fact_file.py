"""Files of facts: their layouts, tables as spreadsheets write them, and the messages for bad ones."""

import gzip
import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest

from editors.data import Fact
from editors.errors import ConfigError, DataError
from pipeline.config.resolvers import stem
from pipeline.data.fact_files.fact_file import FactFile
from pipeline.data.fact_files.layouts import parse_fact
from pipeline.data.fields import Fields, Unusable
from pipeline.data.sources import CounterFact, ZsRE
from tests.paths import ROOT

SHARED = ROOT.parent / "shared" / "data"
PROMPT = "The capital of {} is"


def written(folder: Path, content: str | list[dict[str, object]], name: str = "facts") -> FactFile:
    """The source of a new file; a list is written as JSON."""
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), newline="")
    return FactFile(name="facts", path=str(path))


def only(source: FactFile) -> Fact:
    (fact,) = source.load().facts
    return fact


def query_test(*queries: tuple[str, ...]) -> dict[str, object]:
    """A test of RippleEdits, with these queries: a prompt, and its answers."""
    asked = [
        {
            "prompt": prompt, "answers": [{"value": answer, "aliases": ["X"]} for answer in answers],
            "query_type": "regular", "subject_id": "Q1", "relation": "CAPITAL", "target_ids": ["Q2"],
            "phrase": None,
        }
        for prompt, *answers in queries
    ]  # fmt: skip
    return {"test_queries": asked, "test_condition": "OR", "condition_queries": asked}


FLAT = {"subject": "Chad", "prompt": PROMPT, "target_new": "Oslo", "target_true": "N'Djamena"}
REPHRASED = "Chad has the capital"
UNRELATED = (("Who wrote Emma?", "Austen"),)
LAYOUTS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "a plain": (FLAT, {}),
    "CounterFact's": (
        {
            "requested_rewrite": FLAT | {"target_new": {"str": "Oslo"}, "target_true": {"str": "N'Djamena"}},
            "paraphrase_prompts": [REPHRASED],
        },
        {"paraphrases": (REPHRASED,)},
    ),
    "CounterFact's (flat)": (
        FLAT | {"neighborhood_prompts": ["The capital of Mali is"], "relation_id": "P36"},
        {"neighbours": ("The capital of Mali is",), "relation": "P36"},
    ),
    "EasyEdit's": (
        {
            "subject": "Chad",
            "prompt": "The capital of Chad is",
            "target_new": "Oslo",
            "ground_truth": ["N'Djamena"],
            "rephrase_prompt": REPHRASED,
            "locality": {"Specificity": [{"prompt": "Who wrote Emma?", "ground_truth": [["Austen"]]}]},
            "portability": {"Reasoning": [{"prompt": "What flag?", "ground_truth": "none"}]},
        },
        {"paraphrases": (REPHRASED,), "locality": UNRELATED, "portability": (("What flag?", "none"),)},
    ),
    "MQuAKE's": (
        {
            "requested_rewrite": [
                FLAT | {"target_new": {"str": "Oslo"}, "target_true": {"str": "N'Djamena"}, "question": "?"}
            ],
            "questions": ["Who is the mayor of the capital of Chad?", "Who runs Chad's capital?"],
            "answer": "Senoussi",
            "new_answer": "Rieber",
        },
        {
            "portability": (
                ("Who is the mayor of the capital of Chad?", "Rieber"),
                ("Who runs Chad's capital?", "Rieber"),
            )
        },
    ),
    "RippleEdits'": (
        {
            "example_type": "popular",
            "edit": {
                "prompt": "The name of the capital city of Chad is Oslo.", "subject_id": "Q1",
                "relation": "CAPITAL", "target_id": "Q2",
                "original_fact": {
                    "prompt": "The name of the capital city of Chad is N'Djamena.", "subject_id": "Q1",
                    "relation": "CAPITAL", "target_id": "Q3",
                },
            },
            "Relation_Specificity": [query_test(("The name of the anthem of Chad is", "La Tchadienne"))],
            "Logical_Generalization": [query_test(("Oslo is the capital of", "Chad"))],
            "Subject_Aliasing": [query_test(("The name of the capital city of Tchad is", "Oslo"))],
            "Compositionality_I": [
                query_test(
                    ("The name of the mayor of the capital city of Chad is", "Rieber"),
                    ("The name of the rivers of the capital city of Chad are", "Akerselva", "Loelva"),
                )
            ],
            "Compositionality_II": [],
            "Forgetfulness": [query_test(("The capital of Chad, which is not Oslo, is", "N'Djamena"))],
        },
        {
            "prompt": "The name of the capital city of {} is",
            "relation": "CAPITAL",
            "portability": (
                ("Oslo is the capital of", "Chad"),
                ("The name of the mayor of the capital city of Chad is", "Rieber"),
                ("The name of the capital city of Tchad is", "Oslo"),
            ),
            "locality": (
                ("The name of the anthem of Chad is", "La Tchadienne"),
                ("The capital of Chad, which is not Oslo, is", "N'Djamena"),
            ),
        },
    ),
    "zsRE's (MEND)": (
        {"subject": "Chad", "src": "The capital of Chad is", "answers": ["Oslo"], "alt": "Rome"}
        | {"rephrase": REPHRASED, "loc": "Who wrote Emma", "loc_ans": "Austen"},
        {"target_true": "", "paraphrases": (REPHRASED,), "locality": UNRELATED},
    ),
    "QAEdit's": (
        {"prompt": "The capital of Chad is", "subject": "Chad", "target": "Oslo", "rephrase": REPHRASED}
        | {"locality": [{"loc": "Who wrote Emma?", "loc_ans": "Austen"}]},
        {"target_true": "", "paraphrases": (REPHRASED,), "locality": UNRELATED},
    ),
    "WikiBigEdit's": (
        {"subject": "Chad", "update": "The capital of Chad is", "ans": "Oslo", "rephrase": REPHRASED}
        | {"loc": "Who wrote Emma?", "loc_ans": "Austen"},
        {"target_true": "", "paraphrases": (REPHRASED,), "locality": UNRELATED},
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("lines", [False, True])
def test_a_layout_is_recognised_and_gives_its_fact(
    layout: str, lines: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row, more = LAYOUTS[layout]
    with caplog.at_level(logging.INFO):
        fact = only(written(tmp_path, json.dumps(row) if lines else [row]))
    assert f"{layout} layout, 1 facts" in caplog.text
    expected = {"prompt": PROMPT, "subject": "Chad", "target_new": "Oslo", "target_true": "N'Djamena"} | more
    assert {key: getattr(fact, key) for key in expected} == expected


TABLES = {
    "comma": 'Subject,Prompt,Target New\nChad,"The capital of Chad, in Africa, is",Oslo\n',
    "semicolon": "\ufeffsubject;prompt;target\r\nChad;The capital of Chad, in Africa, is;Oslo\r\n",
    "tab": "subject\tquestion\tanswer\nChad\tThe capital of Chad, in Africa, is\tOslo\n\n",
    "bar": "subject|prompt|new\nChad|The capital of Chad, in Africa, is|Oslo\n",
    "excel": "sep=;\r\nSUBJECT ;Prompt;target-new;\r\nChad;The capital of {}, in Africa, is;Oslo;;\r\n;;\r\n",
}


@pytest.mark.parametrize("table", TABLES)
def test_every_kind_of_table_gives_the_same_fact(table: str, tmp_path: Path) -> None:
    fact = only(written(tmp_path, TABLES[table]))
    assert (fact.prompt, fact.subject, fact.target_new) == (
        "The capital of {}, in Africa, is",
        "Chad",
        "Oslo",
    )


def test_a_gzipped_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv.gz"
    path.write_bytes(gzip.compress(TABLES["comma"].encode()))
    assert only(FactFile(name="facts", path=str(path))).subject == "Chad"
    assert stem(str(path)) == "facts"


@pytest.mark.parametrize("word", ["NA", "nan", "None", "null", "True", "007", "1e5", "3.0"])
def test_cells_stay_text(word: str, tmp_path: Path) -> None:
    fact = only(written(tmp_path, f"id,subject,prompt,target_new\n{word},{word},{{}} has the code,{word}\n"))
    assert (fact.id, fact.subject, fact.target_new) == (word, word, word)


@pytest.mark.parametrize(("number", "text"), [(1998, "1998"), (3.5, "3.5"), (7.0, "7"), (1e300, "1e+300")])
def test_a_number_is_read_as_it_is_written(number: float, text: str, tmp_path: Path) -> None:
    fact = only(written(tmp_path, [{**FLAT, "target_new": number, "target_true": math.nan}]))
    assert (fact.target_new, fact.target_true) == (text, "")


@pytest.mark.parametrize("value", [True, math.inf, -math.inf, [math.inf]])
def test_truth_and_infinity_are_no_objects(value: object, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="target_new is no text"):
        only(written(tmp_path, [{**FLAT, "target_new": value}]))


@pytest.mark.parametrize("gap", [{"id": math.nan, "case_id": 4}, {"answers": math.nan, "src": "x"}])
def test_nan_is_no_value_of_any_field(gap: dict[str, object], tmp_path: Path) -> None:
    null = {key: None if value is math.nan else value for key, value in gap.items()}
    plain, with_gap = (only(written(tmp_path, [{**FLAT, **more}])) for more in (null, gap))
    assert plain == with_gap
    with pytest.raises(DataError, match=r"missing field"):
        only(written(tmp_path, [{**FLAT, "target_new": [math.nan]}]))


def test_a_table_in_markdown_is_read(tmp_path: Path) -> None:
    table = "| subject | prompt | target |\n|---|:---:|--:|\n| Chad | {} is \\| was | Oslo |\n"
    fact = only(written(tmp_path, table))
    assert (fact.subject, fact.prompt, fact.target_new) == ("Chad", "{} is | was", "Oslo")


def test_dashes_are_a_row_where_commas_divide(tmp_path: Path) -> None:
    assert "-" in {
        fact.subject for fact in written(tmp_path, "subject,prompt,target\n-,{} is,-\n").load().facts
    }


def test_a_cell_may_hold_several_paraphrases(tmp_path: Path) -> None:
    table = 'subject,prompt,target,paraphrases\nChad,{} is,Oslo,"[""Is {}"", ""It is Chad""]"\n'
    assert only(written(tmp_path, table)).paraphrases == ("Is Chad", "It is Chad")


@pytest.mark.parametrize(("cell", "prompts"), [("a {}|b {} ", ("a Chad", "b Chad")), ("a {}|", ("a Chad",))])
def test_bars_divide_paraphrases(tmp_path: Path, cell: str, prompts: tuple[str, ...]) -> None:
    text = f"subject,prompt,target_new,paraphrases\nChad,{{}} is in,Oslo,{cell}\n"
    assert only(written(tmp_path, text)).paraphrases == prompts


def test_names_of_fields_are_suggested_once_and_only_for_fields_without_a_value(tmp_path: Path) -> None:
    table = "subject,prompt,targets,targetz,subjekt\nChad,{} is,Oslo,Rome,Chad\n"
    with pytest.raises(DataError) as error:
        only(written(tmp_path, table))
    assert str(error.value).count("'target'") == 1 and "meant to be 'subject'" not in str(error.value)


def test_a_cell_with_many_brackets_is_text(tmp_path: Path) -> None:
    text = "[" * 3000
    table = f"subject,prompt,target,paraphrases,locality\nChad,{{}} is,Oslo,{text},{text}\n"
    assert only(written(tmp_path, table)).paraphrases == (text,)


def test_an_object_is_the_new_one_if_no_other_is_named(tmp_path: Path) -> None:
    assert only(written(tmp_path, "subject,prompt,object\nChad,{} is,Oslo\n")).target_new == "Oslo"
    both = "subject,prompt,object,target\nChad,{} is,Rome,Oslo\n"
    assert only(written(tmp_path, both)).target_new == "Oslo"
    with pytest.raises(DataError) as error:
        written(tmp_path, "name,text,object\nChad,{} is,Oslo\n").load()
    assert "no field subject" in str(error.value) and "no field target_new" not in str(error.value)
    assert "'object' meant" not in str(error.value)


def test_questions_that_are_nested_too_deeply_are_a_reason() -> None:
    questions: object = {}
    for _ in range(5000):
        questions = {"inner": questions}
    with pytest.raises(Unusable) as error:
        parse_fact(Fields(row=FLAT | {"locality": questions}), "1")
    assert error.value.detail == "locality is nested too deeply"


def test_the_true_object_is_optional_for_each_fact(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = "subject,prompt,target_new,target_true\nChad,{} is,Oslo,\nMali,{} is,Oslo,Bamako\n"
    with caplog.at_level(logging.INFO):
        facts = written(tmp_path, table).load().facts
    assert [fact.target_true for fact in facts] == ["", "Bamako"]
    assert "1 of 2 facts have no target_true" in caplog.text


REFUSED = {
    "empty": ("", "is empty"),
    "blank": (" \r\n\n", "is empty"),
    "header": ("subject,prompt,target\n", r"only a header \(subject, prompt, target\)"),
    "wrong column, first empty": (
        "subject,prompt,tarket_new\nChad,{} is,\nMali,{} is,Oslo\n",
        "'tarket_new' meant to be 'target_new'",
    ),
    "wrong column": ("subject,prompt,tarket_new\nChad,{} is,Oslo\n", "'tarket_new' meant to be 'target_new'"),
    "no subject": ("prompt,target_new\nChad is,Oslo\n", "line 2, has no field subject"),
    "two missing": ("prompt,colour\nChad is,red\n", "no field subject .* and no field target_new"),
    "twice": ("subject,Prompt,prompt,target\na,b,c,d\n", "several columns of the name prompt"),
    "twice, in other spellings": (
        "subject,prompt,target_new,Target New\na,b,c,d\n", "several columns of the name target_new"
    ),
    "twice in a row": (
        json.dumps([FLAT, FLAT | {"Target-New": "Rome"}]), "row 2, has several fields of the name target_new"
    ),
    "a long cell": (
        f"subject,prompt,target\nMali,{{}} is,Oslo\nChad,{{}} is,{'o' * 140_000}\n",
        "a cell of more than 131,072 characters in the row that begins in line 3: shorten it",
    ),
    "a long header": ("x" * 140_000, "a cell of more than 131,072 characters .* begins in line 1"),
    "neighbours with a slot": (
        json.dumps([FLAT | {"neighbours": ["Mali is", "The flag of {} is"]}]), "neighbours hold {}: write a"
    ),
    "questions with a slot": (
        json.dumps([FLAT | {"loc": "Where is {}?", "loc_ans": "Africa"}]), "unrelated questions hold {}"
    ),
    "a question that follows, with a slot": (
        json.dumps([FLAT | {"portability": [{"prompt": "Who runs {}?", "ground_truth": "Rieber"}]}]),
        "questions that follow from the edit hold {}",
    ),
    "several edits in a case": (
        json.dumps([{"requested_rewrite": [FLAT, FLAT], "questions": ["Who?"], "new_answer": "Rieber"}]),
        "several edits: 1, first row 1",
    ),
    "a case of RippleEdits without one kind of tests": (
        json.dumps([{"edit": {}, "Logical_Generalization": [], "Compositionality_I": []}]),
        "no field subject .* nearest layout is RippleEdits' one, with edit, .* subject_aliasing",
    ),
    "a case of RippleEdits that changes nothing": (
        json.dumps([LAYOUTS["RippleEdits'"][0]]).replace("N'Djamena.", "Oslo."),
        "identical targets: 1, first row 1",
    ),
    "a case of RippleEdits without a sentence": (
        json.dumps([LAYOUTS["RippleEdits'"][0] | {"edit": {"prompt": "Oslo.", "relation": "CAPITAL"}}]),
        "subject absent: 1, first row 1: 'Oslo.', CAPITAL: its sentence and that of the original fact",
    ),
    "ragged": (
        "subject,prompt,target\nChad,{}, in Africa, is,Oslo\nMali,{} is,Oslo\nA,{} is\n",
        r"2 of 3 rows .* line 2 \(5\), line 4 \(2\)",
    ),
    "open quotes": ('subject,prompt,target\nChad,{} is,Oslo\nMali,"{} is,Oslo\n', "read from line 3"),
    "no table": ("These are facts.\nChad is big.\n", "no field subject"),
    "subject absent": ("subject,prompt,target\nChad,It is,Oslo\n", "subject absent: 1, first line 2"),
    "no new object": (
        json.dumps({"subject": "Chad", "prompt": "{} is", "attribute": "big"}), "no field target_new"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_without_usable_facts_is_refused_with_what_is_wrong(case: str, tmp_path: Path) -> None:
    content, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        written(tmp_path, content).load()


def test_the_id_of_a_fact_without_questions_that_follow_is_what_it_was(tmp_path: Path) -> None:
    """Samples are drawn by ids: a field more must not draw others."""
    assert only(written(tmp_path, [FLAT])).id == "c5c3c5949d24"
    follows = FLAT | {"portability": [{"prompt": "What flag?", "ground_truth": "none"}]}
    assert only(written(tmp_path, [follows])).id != "c5c3c5949d24"


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.limit=0"):
        FactFile(name="facts", path="facts", limit=0)


def test_an_id_that_rows_share_does_not_name_facts(tmp_path: Path) -> None:
    rows = [FLAT | {"id": 1, "subject": subject} for subject in ("Chad", "Mali")]
    first, second = written(tmp_path, rows).load().facts
    assert first.id != second.id


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="there is no shared data")
def test_published_files_are_read_as_their_own_sources_read_them() -> None:
    counterfact = SHARED / "counterfact" / "counterfact.jsonl"
    assert (
        FactFile(name="counterfact", path=str(counterfact), limit=2000).load()
        == CounterFact(path=str(counterfact), limit=2000).load()
    )
    zsre = str(SHARED / "zsre-1k.json")
    assert FactFile(name="zsre", path=zsre).load() == ZsRE(path=zsre).load()
    counts = {
        name: len(FactFile(name="facts", path=str(SHARED / "editing" / name)).load().facts)
        for name in ("qaedit_1k.json", "wikibigedit_3k.json", "zsre_3k.json")
    }
    assert counts == {"qaedit_1k.json": 996, "wikibigedit_3k.json": 3000, "zsre_3k.json": 3000}


def test_only_rows_marked_as_known_are_read(tmp_path: Path):
    rows = [
        FLAT | {"subject": name, "Known": mark}
        for name, mark in (("Chad", True), ("Mali", False), ("Niger", True))
    ]
    source = replace(written(tmp_path, rows), known=True)
    assert [fact.subject for fact in source.load().facts] == ["Chad", "Niger"]
    assert len(replace(source, known=False).load().facts) == 3


@pytest.mark.parametrize(
    ("mark", "sentence"),
    [({}, "no field 'known'"), ({"known": "maybe"}, "'maybe' is neither"), ({"known": "FALSE"}, "no row")],
)
def test_marks_that_leave_no_fact_are_refused(tmp_path: Path, mark: dict[str, object], sentence: str):
    with pytest.raises(DataError, match=sentence):
        replace(written(tmp_path, [FLAT | mark]), known=True).load()
