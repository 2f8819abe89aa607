"""A language model with named sites, so that methods are independent of the architecture."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
import transformers
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedTokenizerBase
from transformers.cache_utils import Cache
from transformers.pytorch_utils import Conv1D

from editors.digests import digest_of_text, digest_of_values
from editors.errors import ConfigError, DataError, ModelError, NumericsError
from editors.models.architectures import SITES, Family, family_of
from editors.models.modules.four_bits import FourBitLinear
from editors.models.stored.weight_files import WeightFiles
from editors.models.tokenization import Side, pad, tokenize, tokenizer_description
from editors.updates import Site, WeightUpdate

_NOT_THE_FUNCTION = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
"""Entries of a configuration without influence on the computed function."""


class Model:
    """A Hugging Face causal language model, its tokenizer and its family.

    Weights are read and written as (out, in) matrices by site name. Edited matrices of a model in half
    precision have a float32 master, because small sequential updates would be rounded away. Matrices that
    stay as they are can be held in four bits (`freeze`). `files` are the safetensors from which it was
    loaded, if they stay in place.
    """

    def __init__(
        self,
        hf: "transformers.PreTrainedModel",
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "model",
        files: Sequence[Path] = (),
    ) -> None:
        if not tokenizer.is_fast:
            raise ModelError(f"{name}: its tokenizer gives no character spans; load it with use_fast=True")
        self.hf = hf.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.family: Family = family_of(hf)
        self._masters: dict[Site, Tensor] = {}
        self._files = WeightFiles(files)

    def __repr__(self) -> str:
        """Name, size, precision and device."""
        precision = str(self.dtype).removeprefix("torch.")
        return f"<{self.name}: {self.depth} blocks of width {self.width}, {precision} on {self.device}>"

    @cached_property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, lowest first."""
        return cast(nn.ModuleList, self.hf.get_submodule(self.family.blocks))

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return self.hf.config.hidden_size

    @property
    def max_tokens(self) -> int:
        """Longest text, in tokens, that the position encoding allows."""
        return self.hf.config.max_position_embeddings

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the forward pass."""
        return self.hf.dtype

    @property
    def embedding(self) -> nn.Module:
        """The module that turns token ids into vectors."""
        return self.hf.get_input_embeddings()

    @property
    def device(self) -> torch.device:
        """Device of the embedding, and so of the inputs."""
        return cast(Tensor, self.embedding.weight).device

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the matrices that every block of this family has."""
        return tuple(name for name in SITES if name in self.family.sites)

    @property
    def has_normed_mlp(self) -> bool:
        """Whether a norm lies between the MLP and the residual stream (Gemma 2 and 3, OLMo 2).

        The stream is then no linear function of the down projection, and growth of that matrix by a factor
        changes nothing. Targets of editors are outputs of the MLP, before that norm.
        """
        return "mlp" in self.family.output_norms

    @cached_property
    def digest(self) -> str:
        """Twelve hex digits that identify this checkpoint, for caches of values computed on it.

        A hash over the configuration, the values of every parameter at the time of the first call (in any
        precision that holds them exactly), codes and scales of matrices in four bits, and everything that
        determines how a text is split into tokens.
        """
        shape = {k: v for k, v in self.hf.config.to_dict().items() if k not in _NOT_THE_FUNCTION}
        frozen = {
            f"{name}.{part}": values
            for name, module in self.hf.named_modules()
            if isinstance(module, FourBitLinear)
            for part, values in module.named_buffers()
        }
        parts = (
            json.dumps(shape, sort_keys=True, default=str),
            digest_of_values({**dict(self.hf.named_parameters()), **frozen}),
            tokenizer_description(self.tokenizer),
        )
        return digest_of_text("\0".join(parts))[:12]

    def block(self, layer: int) -> nn.Module:
        """The transformer block `layer`."""
        return self.blocks[layer]

    def module(self, site: str, layer: int) -> nn.Module:
        """The linear module that holds `site`; `attention`, `mlp` and `block` name the whole sub-module."""
        paths = {"attention": self.family.attention, "mlp": self.family.mlp, "block": ""} | dict(
            self.family.sites
        )
        if site not in paths:
            raise ConfigError(f"{self.name} has no site {site!r}; it has {', '.join(self.sites)}")
        return self.block(layer).get_submodule(paths[site])

    def output_norm(self, part: str, layer: int) -> nn.Module | None:
        """The norm between the output of `attention` or `mlp` and the residual stream, if there is one."""
        path = self.family.output_norms.get(part)
        return None if path is None else self.block(layer).get_submodule(path)

    def writer(self, part: str, layer: int) -> nn.Module:
        """The module whose output `attention` or `mlp` adds to the residual stream; `block` names the block.

        It is the norm after the sub-module, if there is one, or the sub-module itself.
        """
        return self.output_norm(part, layer) or self.module(part, layer)

    def check_layers(self, layers: Sequence[int], key: str = "layers.edit") -> None:
        """Raise a `ConfigError` that names the first layer the model does not have."""
        if not layers:
            raise ConfigError(f"{key} is empty; name at least one block of {self.name} (0..{self.depth - 1})")
        for layer in layers:
            if not 0 <= layer < self.depth:
                raise ConfigError(
                    f"{key}={list(layers)} but {self.name} has {self.depth} blocks (0..{self.depth - 1})"
                )

    def check_changeable(self, sites: Iterable[Site]) -> None:
        """Raise a `ConfigError` that names the first matrix that is held in four bits."""
        for site in sites:
            if self.is_frozen(site):
                raise ConfigError(
                    f"{site} of {self.name} is in 4 bits (model.bits=4) and cannot be changed: leave out "
                    f"model.bits; in Python, load the model with edited=[{str(site)!r}]"
                )

    # --- weights -------------------------------------------------------------------------------------

    def freeze(self, changed: Iterable[Site], device: torch.device) -> None:
        """Hold all matrices of the blocks in four bits, on a device, but those of the modules that change.

        Embeddings, head, norms and biases stay as they are. A frozen matrix reads as its dequantised values,
        and cannot be written.
        """
        kept = {(self.family.sites.get(site.name), site.layer) for site in changed}
        for layer, block in enumerate(self.blocks):
            for path in dict.fromkeys(self.family.sites.values()):
                if (path, layer) not in kept:
                    block.set_submodule(path, FourBitLinear(block.get_submodule(path), device))

    def is_frozen(self, site: Site) -> bool:
        """Whether the matrix is held in four bits."""
        return isinstance(self._holder(*site), FourBitLinear)

    def weight(self, site: str, layer: int) -> Float[Tensor, "out in"]:
        """The matrix of a site as (out, in): a view, except where heads interleave q, k and v (GPT-NeoX).

        Of a frozen matrix it is a dequantised copy.
        """
        return self._rows(site, self._matrix(site, layer))

    def stored(self, site: Site) -> Float[Tensor, "out in"] | None:
        """The matrix as the checkpoint's file holds it, memory-mapped on the CPU; None if there is none.

        It is a view if `weight` is one, in the file's precision. The model may have changed since. No file
        holds the values of a frozen matrix.
        """
        if self.is_frozen(site):
            return None
        raw = self.in_file(f"{self.family.blocks}.{site.layer}.{self.family.sites[site.name]}.weight")
        if raw is None or raw.shape != self._holder(*site).weight.shape:
            return None
        return self._rows(site.name, self._oriented(self._holder(*site), raw))

    def in_file(self, name: str) -> Tensor | None:
        """A parameter as the checkpoint's file holds it, as `stored`; None if there is none."""
        # files of the bare model, without its head, omit the prefix
        return self._files.find(name, name.removeprefix(f"{self.hf.base_model_prefix}."))

    def _matrix(self, site: str, layer: int) -> Float[Tensor, "out in"]:
        module = self._holder(site, layer)
        weight = module.weight
        assert isinstance(weight, Tensor)
        return self._oriented(module, weight.detach())

    def _holder(self, site: str, layer: int) -> nn.Module:
        """The plain module of a site, even if an adapter wraps it."""
        module = self.module(site, layer)
        return getattr(module, "base_layer", module)

    def _oriented(self, module: nn.Module, weight: Tensor) -> Float[Tensor, "out in"]:
        return weight.T if isinstance(module, Conv1D) else weight

    def _rows(self, site: str, matrix: Float[Tensor, "all in"]) -> Float[Tensor, "out in"]:
        """The rows of a site in the matrix of its module."""
        rows = self.family.fused.get(site)
        return matrix if rows is None else matrix[rows(self.hf.config)]

    def master(self, site: Site) -> Float[Tensor, "out in"]:
        """The matrix in the precision in which edits accumulate: at least float32."""
        weight = self.weight(site.name, site.layer)
        if torch.finfo(weight.dtype).bits >= 32:
            return weight
        return self._masters.setdefault(site, weight.float())

    @property
    def masters(self) -> dict[Site, Tensor]:
        """The masters of edited matrices; set them to undo the updates applied since."""
        return dict(self._masters)

    @masters.setter
    def masters(self, masters: Mapping[Site, Tensor]) -> None:
        self._masters = dict(masters)

    def current(self, site: Site) -> Float[Tensor, "out in"]:
        """The current matrix: its master if it was edited, otherwise the weight."""
        return self._masters.get(site, self.weight(site.name, site.layer))

    def was_trained(self) -> None:
        """Drop masters and digest, which are outdated once training has changed the weights."""
        self._masters.clear()
        self.was_edited()

    def was_edited(self) -> None:
        """Drop the digest, so that the next one is of the present weights.

        A sequence of edits does not call this: its caches are of the model before the first edit.
        """
        self.__dict__.pop("digest", None)

    def apply(self, update: WeightUpdate) -> None:
        """Add every change to its weight.

        Raises:
            NumericsError: for NaN or infinity in a changed weight; no weight was touched then.
            DataError: for a change of another shape than its weight, which would be repeated to fit.
            ConfigError: for a frozen matrix.
        """
        self.check_changeable(update)
        changed: dict[Site, Tensor] = {}
        for site, delta in update.items():
            master = self.master(site)
            change = delta.dense().to(master)
            if change.shape != master.shape:
                raise DataError(
                    f"an update of {site} has the shape {tuple(change.shape)}, but that of {self.name} "
                    f"has {tuple(master.shape)}: it was made for another model"
                )
            changed[site] = master + change
            if not bool(changed[site].to(self.weight(site.name, site.layer).dtype).isfinite().all()):
                raise NumericsError(f"the update of {site} leads to NaN or infinity; nothing was applied")
        for site, value in changed.items():
            self.write(site, value)

    @torch.no_grad()
    def write(self, site: Site, value: Float[Tensor, "out in"]) -> None:
        """Set the matrix of a site, and its master if it has one; raises ConfigError for a frozen matrix."""
        self.check_changeable([site])
        if (master := self._masters.get(site)) is not None:
            # in the layout of the first master, as without an interruption: sums depend on it
            self._masters[site] = torch.empty_like(master).copy_(value)
        matrix = self._matrix(site.name, site.layer)
        if (rows := self.family.fused.get(site.name)) is None:
            matrix.copy_(value)
        else:
            matrix[rows(self.hf.config)] = value.to(matrix)

    def snapshot(self, sites: Iterable[Site]) -> dict[Site, Tensor]:
        """Copies of the matrices, for `restore`."""
        return {site: self.master(site).clone() for site in sites}

    def restore(self, snapshot: Mapping[Site, Tensor]) -> None:
        """Write copied matrices back, bit for bit."""
        for site, value in snapshot.items():
            self.write(site, value)

    # --- tokens and forward passes -------------------------------------------------------------------

    def encode(
        self, texts: Sequence[str], side: Side = "right"
    ) -> tuple[Int[Tensor, "row token"], Bool[Tensor, "row token"]]:
        """Token ids and mask of a batch of texts, on the model's device."""
        ids, mask = pad([tokenize(self.tokenizer, text).ids for text in texts], side)
        return ids.to(self.device), mask.to(self.device)

    def hidden(
        self, ids: Int[Tensor, "row token"], mask: Bool[Tensor, "row token"]
    ) -> Float[Tensor, "row token width"]:
        """The last hidden states, before the head; padding on either side changes nothing."""
        return self.hf.base_model(**_inputs(ids, mask)).last_hidden_state

    def hidden_next(self, ids: Int[Tensor, "row token"], cache: Cache) -> Float[Tensor, "row token width"]:
        """`hidden` of tokens that follow those of a cache, which is extended by their keys and values."""
        seen = ids.new_ones(len(ids), cache.get_seq_length() + ids.shape[1])  # no token of it is padding
        inputs = {"input_ids": ids, "attention_mask": seen, "past_key_values": cache, "use_cache": True}
        return self.hf.base_model(**inputs).last_hidden_state

    def hidden_after(
        self, update: WeightUpdate, ids: Int[Tensor, "row token"], mask: Bool[Tensor, "row token"]
    ) -> Float[Tensor, "row token width"]:
        """`hidden` with the update applied, and differentiable by it; the weights are not changed."""
        base = self.hf.base_model
        names = {id(parameter): name for name, parameter in base.named_parameters()}
        edited: dict[str, Tensor] = {}
        for site, delta in update.items():
            module = self.module(site.name, site.layer)
            weight = cast(Tensor, module.weight)
            name = names[id(weight)]
            change = self._widened(site, delta.dense())
            change = change.T if isinstance(module, Conv1D) else change
            edited[name] = (edited.get(name, weight) + change).to(weight.dtype)
        return functional_call(base, edited, (), _inputs(ids, mask)).last_hidden_state

    def _widened(self, site: Site, change: Float[Tensor, "out in"]) -> Float[Tensor, "all in"]:
        """A change of one site as a change of the whole matrix that holds it."""
        if (rows := self.family.fused.get(site.name)) is None:
            return change
        whole = change.new_zeros(self._matrix(site.name, site.layer).shape)
        whole[rows(self.hf.config)] = change
        return whole

    def normed(self, hidden: Float[Tensor, "*any width"]) -> Float[Tensor, "*any width"]:
        """The final norm, for hidden states taken from inside the stack."""
        return self.hf.get_submodule(self.family.final_norm)(hidden)

    def logits(self, hidden: Float[Tensor, "*any width"]) -> Float[Tensor, "*any vocabulary"]:
        """The head on normed hidden states, at least in float32.

        The head is the model's own output embedding, tied or not, with its bias if it has one. If the
        configuration caps its logits (Gemma 2), they are cap · tanh(logits / cap).
        """
        head = self.hf.get_output_embeddings()
        assert head is not None
        logits = head(hidden)
        logits = logits.float() if torch.finfo(logits.dtype).bits < 32 else logits
        cap = getattr(self.hf.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * (logits / cap).tanh()

    def log_probability(self, hidden: Float[Tensor, "*any width"]) -> Float[Tensor, "*any vocabulary"]:
        """Log-probabilities through final norm and head, for hidden states from inside the stack."""
        return self.logits(self.normed(hidden)).log_softmax(dim=-1)


def position_ids(mask: Bool[Tensor, "row token"]) -> Int[Tensor, "row token"]:
    """Positions that count real tokens only; padding gets position 0."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def _inputs(ids: Int[Tensor, "row token"], mask: Bool[Tensor, "row token"]) -> dict[str, object]:
    return {
        "input_ids": ids,
        "attention_mask": mask.long(),
        "position_ids": position_ids(mask),
        "use_cache": False,
    }
