"""Memory of published models, and of editors on them, by the product's own estimate from their shapes."""

from collections.abc import Iterator
from types import MappingProxyType

import torch
from hydra import compose, initialize_config_dir
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from editors.locate.memory_estimate import statistics_bytes
from editors.models.memory import GIB, weight_bytes
from editors.models.model import Model
from editors.moments.moment_sources import SITE
from editors.updates import sites_of
from pipeline.config.resolvers import register_resolvers
from tests.paths import CONF
from tests.tiny import tokenizer

MODELS = MappingProxyType(
    {
        "gpt2-xl": GPT2Config(n_embd=1600, n_layer=48, n_head=25),
        "gpt-j-6b": GPTJConfig(),
        "llama2-7b": LlamaConfig(),
        "llama3-8b": LlamaConfig(
            hidden_size=4096, intermediate_size=14336, num_key_value_heads=8, vocab_size=128256
        ),
        "qwen2.5-7b": Qwen2Config(
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            vocab_size=152064,
        ),
    }
)
"""By name of `conf/model`: the configuration of the hub, as far as it gives shapes."""
EDITORS = ("rome", "memit", "alphaedit", "emmet", "pmet")
"""Editors that solve with second moments; those of the same blocks need the same."""


def page() -> str:
    """A table of models, as Markdown: parameters, weights in three forms, second moments by editor."""
    forms = ["float32", "bfloat16", "`bits=4`"]
    heading = ["model", "parameters", *forms, *(f"`{editor}`" for editor in EDITORS)]
    rows = [heading, ["---"] * len(heading), *_rows()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _rows() -> Iterator[list[str]]:
    for name, config in MODELS.items():
        model = _without_data(config)
        width = model.weight(SITE, 0).shape[1]
        parameters = sum(parameter.numel() for parameter in model.hf.parameters())
        weights = [_gib(weight_bytes(config, dtype)) for dtype in (torch.float32, torch.bfloat16)]
        weights.append(_gib(_in_four_bits(config, model, _layers(name, "memit"))))
        layers = [_layers(name, editor) for editor in EDITORS]
        moments = [f"{_gib(statistics_bytes(width, count))} ({count})" if count else "–" for count in layers]
        yield [f"`{name}`", f"{parameters / 1e9:.2f} B", *weights, *moments]


def _in_four_bits(config: PreTrainedConfig, model: Model, edited: int) -> int:
    """Bytes of the weights in bfloat16 and four bits, and of the float32 masters of the edited matrices."""
    sites = sites_of(range(edited), [SITE])
    masters = sum(torch.float32.itemsize * model.weight(*site).numel() for site in sites)
    return weight_bytes(config, torch.bfloat16, sites) + masters


def _without_data(config: PreTrainedConfig) -> Model:
    with torch.device("meta"):
        return Model(AutoModelForCausalLM.from_config(config), tokenizer())


def _layers(model: str, editor: str) -> int:
    """Number of blocks that the editor edits by the published values; 0 if there are none for the model."""
    if not (CONF / "hparams" / model / f"{editor}.yaml").is_file():
        return 0
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return len(compose("config", [f"model={model}", f"editor={editor}", "~hydra/sweeper"]).layers.edit)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"
