"""How many edits took, and which step failed for the others."""

from analysis.results.outcome import in_words, mostly_missed, outcome_of, sentences


def fact(took: bool, target: bool | None = None, steps: int = 3) -> dict[str, object]:
    """The row of a checked fact; without `target` the method has no targets."""
    aimed = {} if target is None else {"target_correct": float(target), "optimiser_steps": float(steps)}
    return {"edit": 1, "id": "a", "took": float(took), **aimed}


def test_edits_that_nobody_checked_have_no_outcome():
    assert outcome_of([]) is None
    assert outcome_of([{"edit": 1, "id": "a", "target_correct": 0.0}]) is None


def test_a_miss_is_the_targets_if_the_target_was_wrong_and_else_the_insertions():
    """A wrong target of an edit that took nevertheless explains nothing."""
    rows = [fact(True, True, 3), fact(True, False, 19), fact(False, False, 19), fact(False, True, 5)]
    outcome = outcome_of([*rows, fact(False, True, 4)])
    assert outcome == {
        "edits": 5, "checked": 5, "took": 2, "targets_failed": 1, "insertions_failed": 2,
        "median_steps": 5.0, "most_steps": 19,
    }  # fmt: skip
    lines = list(sentences(outcome, {"target": "more steps", "insertion": "less weight", "edit": "x"}))
    assert lines[0].startswith("2 of 5 edits took, ")
    assert lines[1:] == [
        "1 missed because their target was not found (Adam steps: median 5, most 19); to try: more steps",
        "2 missed although their target was right: the insertion failed; to try: less weight",
    ]


def test_causes_without_a_miss_are_not_mentioned():
    (line,) = sentences(outcome_of([fact(True, True)]) or {}, {"target": "more steps"})  # pyright: ignore[reportArgumentType]
    assert line.startswith("1 of 1 edits took, ")


def test_without_targets_the_misses_have_no_cause_and_only_the_editors_advice():
    outcome = outcome_of([fact(False), fact(True), fact(False)])
    assert outcome == {"edits": 3, "checked": 3, "took": 1}
    assert list(sentences(outcome, {"edit": "raise editor.steps (5)"}))[1:] == [
        "2 missed; to try: raise editor.steps (5)"
    ]
    assert list(sentences(outcome, {}))[1:] == ["2 missed"]


def test_edits_that_were_not_checked_are_neither_hits_nor_misses():
    outcome = outcome_of([fact(True), fact(False), *[{"edit": 3, "id": "b"}] * 8])
    assert outcome == {"edits": 10, "checked": 2, "took": 1}
    assert in_words(outcome) == "1 of 2 checked edits took"
    assert not mostly_missed(outcome), "half is not most"
    assert mostly_missed({"edits": 10, "checked": 3, "took": 1})
