"""How a model in memory answers the lm-evaluation-harness' requests for likelihoods.

Requests are tokenised once, as the harness' own wrapper of Hugging Face models does, and read off few passes.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask

from analysis.inference.texts import Document
from analysis.stages.downstream.likelihoods import Query, Reading
from editors.errors import DataError
from editors.models.model import Model
from editors.models.tokenization import tokenize_all

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choices:
    """The requests of one document's choices, and one of them that is not right.

    A document for which a model gives no number counts as answered so.
    """

    requests: Sequence[Instance]
    wrong: Instance


class Answers(LM):
    """Answers requests for likelihoods; they are tokenised when it is made and read off few passes."""

    def __init__(
        self, requests: Sequence[Instance], model: Model, batch_tokens: int, choices: Sequence[Choices] = ()
    ) -> None:
        super().__init__()
        self.model = model
        place = {id(request): i for i, request in enumerate(requests)}
        self._choices = [([place[id(r)] for r in each.requests], place[id(each.wrong)]) for each in choices]
        self._pairs = [_pair(request) for request in requests]
        queries = _queries(self._pairs, model)
        self._reading = Reading(queries, model, batch_tokens=batch_tokens)

    def loglikelihood(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether it is the model's first choice throughout."""
        assert [_pair(request) for request in requests] == self._pairs, "the requests were built once"
        total, exact = self._reading.answer(self.model)
        total, nameless = total.clone(), total.isnan()
        for group, wrong in self._choices:
            if bool(nameless[group].any()):
                # the harness would take the first choice
                total[group], total[wrong] = -1.0, 0.0
        return list(zip(total.tolist(), (exact & ~nameless).tolist(), strict=True))

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Not asked: such tasks are refused when they are loaded."""
        raise NotImplementedError

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Not asked: such tasks are refused when they are loaded."""
        raise NotImplementedError


def choices_of(task: ConfigurableTask) -> Iterator[Choices]:
    """The choices of every document of a task that has such."""
    groups: dict[int | None, list[Instance]] = {}
    for request in task.instances:
        groups.setdefault(request.doc_id, []).append(request)
    for requests in groups.values():
        if len(requests) > 1:
            right = _right(task, requests[0].doc)
            yield Choices(requests, next(r for i, r in enumerate(requests) if i not in right))


def _right(task: ConfigurableTask, document: Mapping[str, Any]) -> set[int]:
    """Numbers of the right choices."""
    gold: Any = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
    choices = task.doc_to_choice(document)
    given = gold if isinstance(gold, list) else [gold]
    return {choices.index(each) if each in choices else each for each in given}


def _pair(request: Instance) -> tuple[str, str]:
    """Context and continuation."""
    context, continuation = request.arguments
    return context, continuation


def _queries(pairs: Sequence[tuple[str, str]], model: Model) -> list[Query]:
    """Contexts and continuations as tokens, as the harness' own wrapper makes them.

    White space at a context's end belongs to the continuation, whose tokens are those of the whole beyond the
    context's number of tokens. An empty context is the token that begins a text. Where a context is too long
    for one of its continuations, it loses its beginning for all: they are compared after the same text.
    """
    split = [len(context.rstrip()) for context, _ in pairs]
    cut = [(context[:at], context + end) for at, (context, end) in zip(split, pairs, strict=True)]
    texts = list(dict.fromkeys(text for both in cut for text in both if text))
    ids = dict(zip(texts, (t.ids for t in tokenize_all(model.tokenizer, texts)), strict=True))
    found = [_query(ids[context] if context else (), ids[whole], model) for context, whole in cut]
    excess: dict[Document, int] = {}
    for query in found:
        over = len(query.fed) - model.max_tokens
        excess[query.context] = max(over, excess.get(query.context, 0))
    long = sum(excess[query.context] > 0 for query in found)
    if long:
        log.warning(
            "%d of %d prompts of downstream tasks are longer than the %d tokens that %s reads: they lose "
            "their beginning", long, len(found), model.max_tokens, model.name,
        )  # fmt: skip
    return [Query(query.context[excess[query.context] :], query.target) for query in found]


def _query(context: Document, whole: Document, model: Model) -> Query:
    if not context:
        begins = model.tokenizer.bos_token_id
        first = model.tokenizer.eos_token_id if begins is None else begins
        assert isinstance(first, int)
        whole = whole if whole[0] == first else (first, *whole)
        context = whole[:1]
    target = whole[len(context) :]
    if not 0 < len(target) <= model.max_tokens:
        text = model.tokenizer.decode(list(whole))
        raise DataError(
            f"the choice at the end of {text[-200:]!r} has {len(target)} tokens; leave its row out"
        )
    return Query(context, target)
