"""Checks facts without a run: `python -m pipeline facts FILE [model=…] [out=known.csv]`.

In place of a file, `data=` and its options choose facts as for a run (`data=atlas`). Prints layout, counts,
skipped rows with reasons, and an example. With a model also the longest fact in tokens, the example's tokens,
the number of facts that the model knows, and the number that it already answers with the new object; `out`
then writes the facts with a column `known`. Other options are those of a run.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editors.data import SLOT, Fact
from editors.errors import ConfigError, NormscopeError, listed
from editors.text_files import local_path
from pipeline.config.instances import instance
from pipeline.config.overrides.quoting import in_quotes
from pipeline.config.schema import composed
from pipeline.data.fact_files.fact_file import FactFile, file_layout
from pipeline.data.fact_files.layouts import unread_names
from pipeline.data.fact_files.written import as_csv, row_of
from pipeline.data.factset import FactSet

if TYPE_CHECKING:
    from analysis.inference.knowledge import Knowledge
    from editors.models.model import Model

USAGE = "python -m pipeline facts FILE [model=…] [data.limit=N] [out=known.csv]; data=… in place of FILE"
_SHOWN = 20
"""Relations whose rates are printed."""


def main(arguments: Sequence[str]) -> str | int:
    """Check the file of the command line; returns an exit status, or the message of an error."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)  # noqa: T201
        return 0
    reader = logging.getLogger("pipeline.data")
    level = reader.level
    reader.setLevel(logging.ERROR)  # the report says the same in more detail
    try:
        for line in report(arguments):
            print(line, flush=True)  # noqa: T201
    except NormscopeError as error:
        return f"error: {error}"
    except BrokenPipeError:
        raise  # nobody reads the output any more
    except OSError as error:
        return f"error: {error.filename} cannot be written ({error.strerror})"
    finally:
        reader.setLevel(level)
    return 0


def report(arguments: Sequence[str]) -> Iterator[str]:
    """The lines of the report; raises ConfigError or DataError for a mistake in the options or the file."""
    named = any(argument.startswith("data=") for argument in arguments)
    path, *options = ["", *arguments] if named else arguments
    if "=" in path and not Path(path).exists():
        raise ConfigError(f"{path!r} comes where the file is expected; usage: {USAGE}")
    outs = [local_path(option.removeprefix("out=")) for option in options if option.startswith("out=")]
    out = outs[-1] if outs else None
    overrides = [option for option in options if not option.startswith("out=")]
    has_model = any(option.startswith("model=") for option in overrides)
    if out and not has_model:
        raise ConfigError(f"out={out} needs a model, which knows the facts or not: add model=…")
    groups = ("model", "data") if has_model else ("data",)
    file = [] if named else ["data=file", f"data.path={in_quotes(path)}"]
    nodes = composed([*file, *overrides], groups)
    source = instance(nodes["data"])
    if out:
        _check_writable(out, nodes["data"].get("path"))
    factset = source.load()
    if isinstance(source, FactFile):
        yield from layout_of_file(source, factset)
    else:
        yield f"{factset.name}: {len(factset.facts):,} facts"
    yield from described(factset)
    if has_model:
        yield from _with_model(nodes["model"], factset.facts, out)
    else:
        yield from _example(factset.facts[0])
        yield "add model=… for tokens, and for the facts that a model knows"


def _check_writable(out: Path, path: str | None) -> None:
    """Raise a ConfigError if a file cannot be written, or is the one that the facts are read from."""
    if path and out.exists() and local_path(path).exists() and out.samefile(local_path(path)):
        raise ConfigError(f"out={out} is the file that the facts are read from: give another one")
    if out.is_dir():
        raise ConfigError(f"out={out} is a folder: name a file in it, such as out={out / 'known.csv'}")
    if not out.parent.is_dir():
        raise ConfigError(
            f"out={out} cannot be written: there is no folder {out.parent} (now in {Path.cwd()})"
        )
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        raise ConfigError(f"out={out} cannot be written: choose a folder that you may write to")


def layout_of_file(source: FactFile, factset: FactSet) -> Iterator[str]:
    """The layout, and fields that are not read."""
    entries = source.entries()
    layout = file_layout(entries, source.path)
    yield f"{source.path}: {layout.name} layout, {len(factset.facts):,} facts in {len(entries):,} rows"
    if unread := unread_names([entry.row for entry in entries if entry.row], layout):
        yield f"  fields that are not read: {listed(unread, most=8)}"


def described(factset: FactSet) -> Iterator[str]:
    """Counts, and rows that were skipped."""
    facts = factset.facts
    for reason, count in factset.counts.items():
        first = next(row for row in factset.skipped if row.reason == reason)
        yield f"  skipped, {reason}: {count:,} rows, first {first}"
    yield f"  different subjects: {len({fact.subject for fact in facts}):,}; relations: {_relations(facts)}"
    yield f"  with a true object: {sum(bool(fact.target_true) for fact in facts):,}"
    yield f"  with paraphrases: {sum(bool(fact.paraphrases) for fact in facts):,}"
    yield f"  with neighbours: {sum(bool(fact.neighbours) for fact in facts):,}"
    yield f"  with unrelated questions: {sum(bool(fact.locality) for fact in facts):,}"
    yield f"  with questions that follow from the edit: {sum(bool(fact.portability) for fact in facts):,}"
    longest = max(facts, key=lambda fact: len(fact.statement))
    yield f"  longest prompt: {len(longest.statement)} characters, fact {longest.id}"


def _relations(facts: Sequence[Fact]) -> str:
    named = {fact.relation for fact in facts} - {""}
    return f"{len(named):,}" if named else "not named"


def _example(fact: Fact) -> Iterator[str]:
    yield f"example, fact {fact.id}:"
    yield f"  prompt: {fact.statement!r}"
    yield f"  subject: {fact.subject!r}"
    yield f"  new object: {fact.target_new!r}"
    yield f"  true object: {fact.target_true!r}" if fact.target_true else "  true object: none"


def _with_model(node: Any, facts: Sequence[Fact], out: Path | None) -> Iterator[str]:
    # imported here, because torch takes seconds to import
    import transformers

    from analysis.inference.knowledge import knowledge, rates
    from pipeline.build import build_model
    from pipeline.tracking.display import progress_view

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with progress_view() as view:
        model = build_model({"model": node}).load(view.report)
        answers = knowledge(model, facts, report=view.report)
    yield from _readable(model, answers)
    with_object = [answer for answer in answers if answer.known is not None]
    known = sum(bool(answer.known) for answer in with_object)
    if with_object:
        yield f"{model.name} knows {known:,} of {len(with_object):,} facts with a true object"
        preferred = sum(bool(answer.prefers_new) for answer in with_object)
        yield f"  in {preferred:,} of them it prefers the new object to the true one: ES before any edit"
    counts = rates(answers)
    for relation, (right, total) in sorted(counts.items(), key=lambda item: -item[1][1])[:_SHOWN]:
        if relation:
            yield f"  {relation}: {right:,} of {total:,} ({right / total:.0%})"
    read = [answer for answer in answers if not answer.fault]
    new = sum(bool(answer.answers_new) for answer in read)
    yield f"{model.name} already answers {new:,} of {len(read):,} facts with the new object"
    if out:
        rows = [row_of(answer.fact) | {"known": answer.known} for answer in answers]
        out.write_text(as_csv(rows), encoding="utf-8")
        yield f"written to {out}"


def _readable(model: "Model", answers: Sequence["Knowledge"]) -> Iterator[str]:
    """Facts that the model cannot read, the longest one, and the first one as the model reads it."""
    from editors.models.tokenization import longest_fact, tokenize, tokenize_prompt

    faulty = [answer for answer in answers if answer.fault]
    read = [answer.fact for answer in answers if not answer.fault]
    if faulty:
        first = faulty[0]
        yield f"  unreadable for {model.name}: {len(faulty):,} facts, first {first.fact.id}: {first.fault}"
    if not read:
        return
    longest = longest_fact(model.tokenizer, read)
    length = len(tokenize_prompt(model.tokenizer, longest, target=longest.target_new).ids)
    yield f"  longest fact: {length} tokens of at most {model.max_tokens}, fact {longest.id}"
    fact = read[0]
    prompt = tokenize_prompt(model.tokenizer, fact, target=fact.target_new)
    tokens = tokenize(model.tokenizer, f"{fact.statement} {fact.target_new}")
    texts = model.tokenizer.convert_ids_to_tokens(list(prompt.ids))
    yield from _example(fact)
    yield f"  tokens: {' '.join(map(repr, texts))}"
    start = fact.prompt.index(SLOT)
    span = tokens.within(start, start + len(fact.subject))
    last = texts[prompt.subject_last]
    yield f"  tokens of the subject: {span.start} to {span.stop - 1}, the last one {last!r}"
    yield f"  tokens of the new object: {' '.join(map(repr, texts[-len(prompt.target_ids) :]))}"
