"""A model in memory as a language model of the lm-evaluation-harness: it answers requests.

Requests for likelihoods are tokenised once, as by the harness' own wrapper of Hugging Face models, and read
off few passes. Texts are written greedily, with a cache of keys and values.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text

from analysis.inference.continuations import greedy_tokens
from analysis.inference.scoring import Ids, Query
from analysis.stages.downstream.answers import documents
from analysis.stages.downstream.likelihoods import Likelihoods
from editors.errors import DataError, NumericsError
from editors.models.model import Model
from editors.models.tokenization import tokenize, tokenize_all

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChoiceGroup:
    """The requests of one document's choices, and a wrong one of them.

    A document counts as answered with the wrong choice if a likelihood is NaN.
    """

    requests: Sequence[Instance]
    wrong: Instance


class InMemoryLM(LM):
    """Computes the likelihoods of fixed requests, tokenised in the constructor, and writes texts."""

    def __init__(
        self,
        requests: Sequence[Instance],
        model: Model,
        batch_tokens: int,
        groups: Sequence[ChoiceGroup] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self._batch_tokens = batch_tokens
        place = {id(request): i for i, request in enumerate(requests)}
        self._groups = [([place[id(r)] for r in group.requests], place[id(group.wrong)]) for group in groups]
        self._pairs = [_pair(request) for request in requests]
        queries = tokenize_requests(self._pairs, model)
        self._likelihoods = Likelihoods(queries, model, batch_tokens=batch_tokens)

    def loglikelihood(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether all its tokens are the model's first choice."""
        assert [_pair(request) for request in requests] == self._pairs, "the list of requests is fixed"
        total, exact = self._likelihoods.compute(self.model)
        total, is_nan = total.clone(), total.isnan()
        for group, wrong in self._groups:
            if bool(is_nan[group].any()):
                # the harness would take the first choice
                total[group], total[wrong] = -1.0, 0.0
        return list(zip(total.tolist(), (exact & ~is_nan).tolist(), strict=True))

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Never called: tasks that need it are refused when they are loaded."""
        raise NotImplementedError

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """The greedy text after each context, before the first text at which its task stops.

        Empty from a model whose scores are no numbers.
        """
        texts: dict[int, str] = {}
        groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for place, request in enumerate(requests):
            options = cast(Mapping[str, Any], normalize_gen_kwargs(dict(request.arguments[1])))
            groups.setdefault((options["max_gen_toks"], tuple(options["until"])), []).append(place)
        for (tokens, stops), places in groups.items():
            contexts = [str(requests[place].arguments[0]) for place in places]
            texts |= zip(places, self._written(contexts, tokens, stops), strict=True)
        return [texts[place] for place in range(len(requests))]

    def _written(self, contexts: Sequence[str], tokens: int, stops: Sequence[str]) -> list[str]:
        """Greedy texts of at most `tokens` tokens; a context that leaves no room loses its beginning."""
        tokenizer, room = self.model.tokenizer, self.model.max_tokens - tokens
        if room < 1:
            raise DataError(
                f"a downstream task writes {tokens} tokens, but {self.model.name} reads only "
                f"{self.model.max_tokens}: leave it out"
            )
        begin = tokenizer.bos_token
        has_begin = [bool(begin) and context.startswith(str(begin)) for context in contexts]
        ids = [
            tokenize(tokenizer, context, special=not has).ids[-room:]
            for context, has in zip(contexts, has_begin, strict=True)
        ]
        try:
            new = greedy_tokens(self.model, ids, tokens=tokens, stop=stops, batch_tokens=self._batch_tokens)
        except NumericsError:
            return [""] * len(contexts)
        decoded = [str(tokenizer.decode(list(each), skip_special_tokens=True)) for each in new]
        return [postprocess_generated_text(text, [*stops], None) for text in decoded]


def choice_groups(task: ConfigurableTask) -> Iterator[ChoiceGroup]:
    """The choices of every document of a task, if it has several."""
    for document in documents(task):
        if len(document.requests) > 1:
            wrong = next(r for i, r in enumerate(document.requests) if i not in document.right)
            yield ChoiceGroup(document.requests, wrong)


def _pair(request: Instance) -> tuple[str, str]:
    """Context and continuation."""
    context, continuation = request.arguments
    return context, continuation


def tokenize_requests(pairs: Sequence[tuple[str, str]], model: Model) -> list[Query]:
    """Contexts and continuations in tokens, split as by the harness' own wrapper.

    White space at a context's end belongs to the continuation, whose tokens are those of the whole beyond the
    context's number of tokens. An empty context is the token that begins a text. If a context is too long for
    one of its continuations, it is cut at its beginning for all, so that they are compared after the same
    text.
    """
    split = [len(context.rstrip()) for context, _ in pairs]
    cut = [(context[:at], context + end) for at, (context, end) in zip(split, pairs, strict=True)]
    texts = list(dict.fromkeys(text for both in cut for text in both if text))
    ids = dict(zip(texts, (t.ids for t in tokenize_all(model.tokenizer, texts)), strict=True))
    queries = [_query(ids[context] if context else (), ids[whole], model) for context, whole in cut]
    excess: dict[Ids, int] = {}
    for query in queries:
        over = len(query.inputs) - model.max_tokens
        excess[query.context] = max(over, excess.get(query.context, 0))
    long = sum(excess[query.context] > 0 for query in queries)
    if long:
        log.warning(
            "%d of %d prompts of downstream tasks are longer than the %d tokens that %s reads: they lose "
            "their beginning", long, len(queries), model.max_tokens, model.name,
        )  # fmt: skip
    return [Query(query.context[excess[query.context] :], query.target) for query in queries]


def _query(context: Ids, whole: Ids, model: Model) -> Query:
    """Raises DataError for a choice that has no token, or more than the model reads."""
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
