"""Sources of facts: CounterFact and zsRE, from a file or the hub, read into a `FactSet`."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

from editors.data import Fact
from editors.errors import ConfigError
from pipeline.data.factset import (
    FactSet,
    Unusable,
    read_facts,
    target_field,
    text_field,
    text_list_field,
    with_slot,
)
from pipeline.data.readers import Entry, read_file, read_hub

ZsreTarget = Literal["answer", "alternative"]


@runtime_checkable
class FactSource(Protocol):
    """A source of facts to edit."""

    @property
    def name(self) -> str:
        """The name of the data set in tables and figures."""
        ...

    def load(self) -> FactSet:
        """The validated facts, always the same and in the same order."""
        ...


@dataclass(frozen=True, kw_only=True)
class _FileOrHub(ABC):
    """Facts from a local file, or, without one, from a data set on the Hugging Face hub."""

    name: str
    path: str | None = None
    """A JSON list, or a file with one JSON object per line; takes precedence over `dataset`."""
    dataset: str | None = None
    """An id on the Hugging Face hub."""
    revision: str | None = None
    """Commit of the data set on the hub; fixes the data behind published figures."""
    split: str = "train"
    """Split on the hub; several are joined as `train+test`."""
    limit: int | None = None
    """Number of usable facts to read, from the beginning; null reads all."""
    drop_conflicts: bool = False
    """Keep only the first of several facts about the same subject and relation, as MultiCounterFact does."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"data.limit={self.limit}, but at least 1 fact is needed (null reads all)")

    @abstractmethod
    def parse(self, row: Mapping[str, object], identity: str) -> Fact:
        """The fact that a row holds; raises `Unusable` with the reason."""

    def load(self) -> FactSet:
        """The validated facts; raises DataError if the source is missing or has none."""
        return read_facts(
            self._entries(),
            self.parse,
            name=self.name,
            source=self.path or str(self.dataset),
            limit=self.limit,
            drop_conflicts=self.drop_conflicts,
        )

    def _entries(self) -> Iterator[Entry]:
        if self.path:
            return read_file(self.path)
        if self.dataset:
            return read_hub(self.dataset, split=self.split, revision=self.revision)
        raise ConfigError(f"data={self.name} needs a local file (data.path=…) or a hub id (data.dataset=…)")


@dataclass(frozen=True, kw_only=True)
class CounterFact(_FileOrHub):
    """Counterfactual rewrites with paraphrases and neighbours (Meng et al. 2022, arXiv 2202.05262).

    Reads the authors' layout (`requested_rewrite`) and a flat one (`prompt`, `subject`, `target_new`, …).
    """

    name: str = "counterfact"

    def parse(self, row: Mapping[str, object], identity: str) -> Fact:
        """The fact of a row in either layout; raises `Unusable`."""
        rewrite = row.get("requested_rewrite")
        flat = _flattened(rewrite) if isinstance(rewrite, Mapping) else row
        subject = text_field(flat, "subject").strip()
        return Fact(
            id=identity,
            prompt=with_slot(text_field(flat, "prompt"), subject),
            subject=subject,
            target_new=target_field(flat, "target_new"),
            target_true=target_field(flat, "target_true"),
            relation=str(flat.get("relation_id") or ""),
            paraphrases=text_list_field(row, "paraphrase_prompts"),
            neighbours=text_list_field(row, "neighborhood_prompts"),
        )


def _flattened(rewrite: Mapping[str, object]) -> dict[str, object]:
    """The authors' `requested_rewrite` with {"str": object} unwrapped."""
    return {key: value.get("str") if isinstance(value, Mapping) else value for key, value in rewrite.items()}


@dataclass(frozen=True, kw_only=True)
class ZsRE(_FileOrHub):
    """Questions of zero-shot relation extraction in MEND's layout (Mitchell et al., arXiv 2110.11309)."""

    name: str = "zsre"
    target: ZsreTarget = "answer"
    """The edit's target: `answer`, the recorded answer, as ROME, MEMIT and their successors score it (without
    true object), or `alternative`, MEND's counterfactual, with the recorded answer as the true object."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target not in get_args(ZsreTarget):
            raise ConfigError(
                f"data.target={self.target}, but it is one of {', '.join(get_args(ZsreTarget))}"
            )

    def parse(self, row: Mapping[str, object], identity: str) -> Fact:
        """The fact of a row; raises `Unusable`."""
        subject = text_field(row, "subject").strip()
        answers = [answer.strip() for answer in text_list_field(row, "answers") if answer.strip()]
        if not answers:
            raise Unusable("empty target")
        counterfactual = self.target == "alternative"
        if counterfactual and target_field(row, "alt") in answers:
            raise Unusable("identical targets")
        # with a question mark, as in the locality prompts of kmeng01/memit experiments/py/eval_utils_zsre.py.
        locality = ((f"{text_field(row, 'loc')}?", text_field(row, "loc_ans")),) if row.get("loc") else ()
        return Fact(
            id=identity,
            prompt=with_slot(text_field(row, "src"), subject),
            subject=subject,
            target_new=target_field(row, "alt") if counterfactual else answers[0],
            target_true=answers[0] if counterfactual else "",
            paraphrases=(text_field(row, "rephrase"),),
            locality=locality,
        )
