"""How many edits of a run took, and at which step the others failed.

An edit took if the new object is the model's first choice after the edited prompt, right after the insertion.
If it did not take, the target failed if the new object was not the first choice with the target itself in
place of the block's output; otherwise the target was right and the insertion failed, regularizers included.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from analysis.results.run_files import Outcome

if TYPE_CHECKING:
    from editors.base import Cause  # which imports torch


def outcome_of(rows: Sequence[Mapping[str, Any]]) -> Outcome | None:
    """The counts over the rows of the table `edits`, one per fact; None if no edit was checked."""
    checked = [row for row in rows if "took" in row]
    if not checked:
        return None
    missed = [row for row in checked if not row["took"]]
    outcome = Outcome(edits=len(rows), checked=len(checked), took=len(checked) - len(missed))
    if all("target_correct" in row for row in checked):
        failed = sum(not row["target_correct"] for row in missed)
        steps = [row["optimiser_steps"] for row in checked]
        outcome["targets_failed"], outcome["insertions_failed"] = failed, len(missed) - failed
        outcome["median_steps"], outcome["most_steps"] = float(median(steps)), int(max(steps))
    return outcome


def mostly_missed(outcome: Outcome) -> bool:
    """Whether more than half of the checked edits did not take."""
    return 2 * outcome["took"] < outcome["checked"]


def in_words(outcome: Outcome) -> str:
    """The share of the edits that took, such as `12 of 50 edits took`."""
    took, checked, edits = outcome["took"], outcome["checked"], outcome["edits"]
    return f"{took} of {checked} {'checked ' if checked < edits else ''}edits took"


def sentences(outcome: Outcome, remedies: Mapping["Cause", str]) -> Iterator[str]:
    """The share of the edits that took, and a sentence per cause of the misses with what to try.

    `remedies` are those of the editor, by the cause.
    """
    yield f"{in_words(outcome)}, that is, made the new object the model's first choice right after insertion"
    for cause, count, why in _causes(outcome):
        if count:
            advice = f"; to try: {remedies[cause]}" if cause in remedies else ""
            yield f"{count} missed{why}{advice}"


def _causes(outcome: Outcome) -> Iterator[tuple["Cause", int, str]]:
    """Each cause with the number of misses that it explains, and the end of a sentence about them."""
    if "targets_failed" not in outcome or "insertions_failed" not in outcome:
        yield "edit", outcome["checked"] - outcome["took"], ""
        return
    steps = f"Adam steps: median {outcome.get('median_steps', 0):g}, most {outcome.get('most_steps', 0)}"
    yield "target", outcome["targets_failed"], f" because their target was not found ({steps})"
    yield "insertion", outcome["insertions_failed"], " although their target was right: the insertion failed"
