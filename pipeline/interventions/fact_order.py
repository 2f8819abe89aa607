"""The same facts in another order: by how much their keys resemble each other in the unedited model."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from editors.data import SLOT, Fact
from editors.locate.keys import keys_of
from editors.models.model import Model
from editors.updates import Site

Order = Literal["given", "reverse", "clustered", "dispersed"]


def ordered(model: Model, facts: Sequence[Fact], order: Order, edited: Sequence[Site]) -> Sequence[Fact]:
    """The facts as they are given, backwards, or in a chain that begins with the first.

    `clustered` appends the fact whose key is most similar to that of the fact before, `dispersed` the least
    similar. Similarity is the cosine of keys, less their mean: the inputs of the down projection of the
    lowest edited block at the last token of the subject of the bare prompt.
    """
    if order == "given":
        return facts
    if order == "reverse":
        return facts[::-1]
    layer = min(site.layer for site in edited)
    keys = torch.cat([keys_of(model, [fact], ((SLOT,),), [layer])[layer] for fact in facts], dim=1).T
    return [facts[place] for place in chain(keys, largest=order == "clustered")]


def chain(keys: Float[Tensor, "n in"], *, largest: bool) -> list[int]:
    """Rows in a chain from the first: the next is the unused one most similar to the last, or the least."""
    centred = keys.double() - keys.double().mean(dim=0)
    units = centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-30)
    unused = torch.ones(len(units), dtype=torch.bool, device=units.device)
    unused[0], places = False, [0]
    while len(places) < len(units):
        similarity = (units @ units[places[-1]]) * (1 if largest else -1)
        places.append(int(similarity.masked_fill(~unused, -torch.inf).argmax()))
        unused[places[-1]] = False
    return places
