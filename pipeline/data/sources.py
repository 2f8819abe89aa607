"""Sources of facts: CounterFact and zsRE, from a file or the hub, read into a `FactSet`."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

from editors.data import Fact
from editors.errors import ConfigError
from pipeline.data.factset import FactSet, read_facts
from pipeline.data.fields import Fields, Unusable, with_slot
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
    def parse(self, row: Fields, identity: str) -> Fact:
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

    def parse(self, row: Fields, identity: str) -> Fact:
        """The fact of a row in either layout; raises `Unusable`."""
        rewrite = row if row.row.get("requested_rewrite") is None else row.of("requested_rewrite")
        subject = rewrite.text("subject")
        return Fact(
            id=identity,
            prompt=with_slot(rewrite.text("prompt"), subject),
            subject=subject,
            target_new=rewrite.target("target_new"),
            target_true=rewrite.target("target_true"),
            relation=rewrite.name("relation_id"),
            paraphrases=row.texts("paraphrase_prompts"),
            neighbours=row.texts("neighborhood_prompts"),
        )


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

    def parse(self, row: Fields, identity: str) -> Fact:
        """The fact of a row; raises `Unusable`."""
        subject = row.text("subject")
        answers = row.texts("answers")
        if not answers:
            raise Unusable("empty target")
        counterfactual = self.target == "alternative"
        if counterfactual and row.target("alt") in answers:
            raise Unusable("identical targets")
        return Fact(
            id=identity,
            prompt=with_slot(row.text("src"), subject),
            subject=subject,
            target_new=row.target("alt") if counterfactual else answers[0],
            target_true=answers[0] if counterfactual else "",
            paraphrases=(row.prompt("rephrase"),),
            locality=self._locality(row),
        )

    def _locality(self, row: Fields) -> tuple[tuple[str, str], ...]:
        if row.row.get("loc") is None:
            return ()
        question, answer = row.prompt("loc"), row.prompt("loc_ans")
        # with a question mark, as in the locality prompts of kmeng01/memit experiments/py/eval_utils_zsre.py.
        return ((f"{question}?", answer),) if question else ()
