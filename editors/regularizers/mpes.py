"""Most-probable early stopping: stop once the target is the model's own first choice."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool
from torch import Tensor

from editors.errors import ConfigError
from editors.regularizers.base import Regularizer


@dataclass(frozen=True, kw_only=True)
class MPES(Regularizer):
    """Most-probable early stopping: stop once the target is the model's own first choice.

    Counted over all iterations, not only consecutive ones; the target that satisfied it is kept.
    Source: ENCORE (arXiv 2502.01636) and its code, `prob_cutoff`.
    """

    hits: int = 4
    """Number of iterations with the target as the arg-max everywhere; more make it more probable."""
    rows: Literal["prefixed", "all"] = "prefixed"
    """Monitored templates: `prefixed` excludes the bare prompt, as published; `all` includes it."""

    def __post_init__(self) -> None:
        if self.hits < 1:
            raise ConfigError(
                f"regularizer.mpes.hits={self.hits}, but at least 1 is needed; drop mpes to switch it off"
            )

    @property
    def patience(self) -> int:
        """The value of `hits`."""
        return self.hits

    def satisfied(self, correct: Bool[Tensor, "fact template"]) -> Bool[Tensor, " fact"]:
        """Whether the target is the arg-max at every position of all monitored templates."""
        first = 1 if self.rows == "prefixed" and correct.shape[1] > 1 else 0
        return correct[:, first:].all(dim=1)
