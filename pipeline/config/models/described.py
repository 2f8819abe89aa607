"""Name, family and depth of a model, from its configuration alone."""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, try_to_load_from_cache

from editors.errors import ModelError, first_line
from editors.hub import check_answers, is_offline
from editors.models.stored.gguf_header import PACKAGED, gguf_file, read_header
from editors.text_files import local_path

_CACHED = re.compile(r"models--(?:.+?--)?(.+)")
"""The folder of a model in the hub's cache, `models--<owner>--<name>/snapshots/<commit>`."""


def model_name(path: str | None, gguf: str | None) -> str:
    """The last part of a folder, id or file, fit for the name of a folder; empty without either."""
    text = (path or gguf or "").removeprefix(PACKAGED)
    parts = [part for part in str(local_path(text)).split("/") if part not in ("", ".")]
    cached = [match[1] for part in parts if (match := _CACHED.fullmatch(part))]
    last = (
        cached[-1] if cached else Path(*parts).resolve().name if parts and parts[-1] == ".." else parts[-1:]
    )
    name = last if isinstance(last, str) else "".join(last)
    return re.sub(r"[^\w.-]+", "-", name.removesuffix(".gguf")).strip("-.").lower()


def model_depth(path: str | None, revision: str | None, gguf: str | None) -> int | None:
    """The number of blocks; None if the configuration cannot be read, which is reported elsewhere."""
    try:
        return description(path, revision, gguf)[1]
    except ModelError:
        return None


@cache  # several values of a configuration ask, and every run of a sweep
def description(path: str | None, revision: str | None, gguf: str | None) -> tuple[object, int | None]:
    """The `model_type` and the number of blocks.

    Raises:
        ModelError: if there is no such model, or its configuration cannot be read.
    """
    if gguf:
        header = read_header(gguf_file(gguf))
        family = header.get("general.architecture")
        return family, _whole(header.get(f"{family}.block_count"))
    config = _config(path or "", revision)
    return config.get("model_type"), _whole(config.get("num_hidden_layers", config.get("n_layer")))


def _config(path: str, revision: str | None) -> Mapping[str, Any]:
    if not path:
        raise ModelError(
            "model.path has no value: give the folder of a model or a Hugging Face id, or model.gguf"
        )
    folder = local_path(path)
    if folder.is_file():
        key = "model.gguf" if path.endswith(".gguf") else "the folder of the model"
        raise ModelError(f"model.path={path} is a file: give {key} instead")
    file = folder / "config.json" if folder.is_dir() else _downloaded(path, revision)
    if not file.is_file():
        raise ModelError(f"model.path={path} holds no config.json: give the folder of a model")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read ({first_line(error)}): download it again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{file} holds no JSON object: download it again")
    return config


def _downloaded(path: str, revision: str | None) -> Path:
    """`config.json` of a repository, from the cache if it is there."""
    if not is_hub_id(path):
        raise ModelError(f"{absent(path)}, and no Hugging Face id: check the spelling")
    try:
        cached = try_to_load_from_cache(path, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached)
        if is_offline():
            raise ModelError(
                f"{absent(path)} and not in the hub's cache, and HF_HUB_OFFLINE forbids to ask the hub"
            )
        check_answers(path, revision)
        return Path(hf_hub_download(path, "config.json", revision=revision, etag_timeout=2))
    except ModelError:
        raise
    except Exception as error:  # of the network, the hub, or the spelling of an id
        raise ModelError(
            f"{absent(path)}, and the hub does not give it ({first_line(error)}): check the id"
        ) from error


def absent(path: str) -> str:
    """The beginning of a sentence about a path that is no folder."""
    return f"model.path={path} is no folder here (now in {Path.cwd()})"


def is_hub_id(path: str) -> bool:
    """Whether a path has the form of the id of a Hugging Face repository."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) is not None and not path.startswith(".")


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
