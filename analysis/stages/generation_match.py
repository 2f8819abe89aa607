"""Free generation: does the model write the new object when it is asked, and nothing else elsewhere?

Teacher forcing gives a model the right first tokens of an answer, and takes a choice between two objects for
knowledge. Here it answers alone, greedily, up to a full stop or the end of the line. The answer is compared
with the object after both are normalised as in SQuAD: small letters, no articles, no punctuation, single
spaces.

    exact      normalised answer = normalised object
    contains   the object's words stand in a row among those of the answer

The protocol is that of Yang et al. 2025 (arXiv 2502.11177) without a judge: 50 tokens, stop at "." and line
end. Deviation: the answer ends at the first stop even inside a token. The same facts are judged by first
choices and by the choice between two objects, so that a run shows how far the three disagree.
"""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from analysis.inference.continuations import free_texts
from analysis.inference.scoring import Scorer
from analysis.stages.base import Cadence, Measurement, Observation, Stage, spread_over
from editors.data import Fact, as_it_is
from editors.errors import ConfigError
from editors.models.model import Model

Form = Literal["question", "instruction", "chat"]
INSTRUCTION = "Please answer the question:\n\nQ: {}\nA:"
_STOPS = re.compile(r"[.\n]")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(kw_only=True)
class GenerationMatch(Stage):
    """Exact match and containment of greedy answers on prompts and paraphrases of the edits so far.

    Keys: `edit/written/<kind>.exact` and `.contains` for `rewrite` and `paraphrase`, of the new object.
    Beside them `.first_choice`: all its tokens are the model's first choices after the plain prompt; and
    `.likelier`: it is more probable there than the true one, of facts that have one.
    `edit/written/unrelated.same`: share of prompts about other subjects (neighbours, or zsRE's questions)
    whose answer is the unedited model's.
    """

    name: str = "generation_match"
    cadence: Cadence = field(default_factory=lambda: Cadence(at=(100, 1000, 10_000)))
    form: Form = "question"
    """The prompt alone; the prompt after an instruction; or as a message in the tokenizer's chat template."""
    tokens: int = 50
    """Most tokens of an answer."""
    facts: int | None = 200
    """Most edits that are asked about, spread over those so far; None asks about all."""
    batch_tokens: int = 8192

    def __post_init__(self) -> None:
        self.check_minimums(tokens=1, facts=1, batch_tokens=1)

    def prepare(self, model: Model, planned: Sequence[Fact] = ()) -> None:
        """Answer the prompts about other subjects; raises a ConfigError if there is no chat template."""
        if self.form == "chat" and not model.tokenizer.chat_template:
            raise ConfigError(
                f"stage.{self.name}.form=chat, but the tokenizer of {model.name} has no chat template: "
                "choose question or instruction"
            )
        self._scorer, self._reader = Scorer(model), as_it_is
        self._planned = planned
        others = [prompt for fact in spread_over(planned, self.facts) for prompt in _unrelated(fact)]
        self._others = dict(zip(others, self._answers(model, others), strict=True))

    def measure(self, model: Model, observation: Observation) -> Measurement:
        """Ask about the edits so far; before the first, about those that are planned."""
        facts = spread_over(observation.seen or self._planned, self.facts)
        self._scorer.model = model
        self._scorer.reader = self._reader = observation.reader
        result: Measurement = {}
        for kind in ("rewrite", "paraphrase"):
            asked = [(fact, prompt) for fact in facts for prompt in _prompts(fact, kind)]
            if asked:
                result |= self._scores(model, kind, asked)
        if facts and self._others:
            now = self._answers(model, [*self._others])
            same = [new == old for new, old in zip(now, self._others.values(), strict=True)]
            result["edit/written/unrelated.same"] = sum(same) / len(same)
        return result

    def _scores(self, model: Model, kind: str, asked: Sequence[tuple[Fact, str]]) -> Measurement:
        """The four numbers of a kind of prompt."""
        answers = self._answers(model, [prompt for _, prompt in asked])
        pairs = [(answer, fact.target_new) for answer, (fact, _) in zip(answers, asked, strict=True)]
        forced = self._scorer.score([(prompt, fact.target_new) for fact, prompt in asked])
        numbers = {
            "exact": _share([normalised(answer) == normalised(target) for answer, target in pairs]),
            "contains": _share([contains(answer, target) for answer, target in pairs]),
            "first_choice": float(forced.exact.double().mean()),
        }
        rivals = [place for place, (fact, _) in enumerate(asked) if fact.target_true]
        if rivals:
            true = self._scorer.score([(asked[place][1], asked[place][0].target_true) for place in rivals])
            numbers["likelier"] = float(
                (forced.log_probability[rivals] > true.log_probability).double().mean()
            )
        return {f"edit/written/{kind}.{name}": value for name, value in numbers.items()}

    def _answers(self, model: Model, prompts: Sequence[str]) -> list[str]:
        """Greedy answers up to the first stop; empty ones from a model whose scores are no numbers."""
        asked = [self._question(model, self._reader(prompt)) for prompt in prompts]
        texts = free_texts(model, asked, tokens=self.tokens, batch_tokens=self.batch_tokens)
        return [until_stop(text) for text in texts]

    def _question(self, model: Model, prompt: str) -> str:
        if self.form == "instruction":
            return INSTRUCTION.format(prompt)
        if self.form == "question":
            return prompt
        tokenizer = model.tokenizer
        message = [{"role": "user", "content": prompt}]
        text = cast(str, tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
        # the tokenizer writes its first token again
        begins = tokenizer("").input_ids[:1] == [tokenizer.bos_token_id] and bool(tokenizer.bos_token)
        return text.removeprefix(str(tokenizer.bos_token)) if begins else text


def normalised(text: str) -> str:
    """Small letters without articles and punctuation, words separated by one space (SQuAD 1.1)."""
    plain = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def contains(answer: str, target: str) -> bool:
    """Whether the words of the normalised target stand in a row in the normalised answer."""
    words = normalised(target)
    return bool(words) and f" {words} " in f" {normalised(answer)} "


def until_stop(text: str) -> str:
    """The text before its first full stop or line end."""
    return _STOPS.split(text, maxsplit=1)[0]


def _prompts(fact: Fact, kind: str) -> Sequence[str]:
    return [fact.statement] if kind == "rewrite" else fact.paraphrases


def _unrelated(fact: Fact) -> Sequence[str]:
    """Prompts about other subjects whose answers an edit should leave as they are."""
    return [*fact.neighbours[:1], *(question for question, _ in fact.locality[:1])]


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits)
