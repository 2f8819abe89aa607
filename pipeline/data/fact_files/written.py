"""Facts written to a file that `data=file` reads again, with further columns."""

import csv
import io
import json
from collections.abc import Mapping, Sequence

from editors.data import Fact


def row_of(fact: Fact) -> dict[str, object]:
    """The fields of a fact by the names of CounterFact and EasyEdit."""
    return {
        "case_id": fact.id,
        "subject": fact.subject,
        "prompt": fact.prompt,
        "target_new": fact.target_new,
        "target_true": fact.target_true,
        "relation_id": fact.relation,
        "paraphrase_prompts": list(fact.paraphrases),
        "neighborhood_prompts": list(fact.neighbours),
        "locality": [{"prompt": prompt, "ground_truth": answer} for prompt, answer in fact.locality],
        "portability": [{"prompt": prompt, "ground_truth": answer} for prompt, answer in fact.portability],
    }


def as_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """A table of the rows; lists are written as JSON."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {
            name: json.dumps(value, ensure_ascii=False) if isinstance(value, list | bool) else value
            for name, value in row.items()
        }
        writer.writerow({name: "" if cell == "[]" else cell for name, cell in cells.items()})
    return text.getvalue()
