"""The files of a checkpoint, a folder's or a repository's, checked before anything is built from them.

Nothing in them is believed: weights that are something else, a configuration with impossible sizes or
with entries that bring in other weights or code, an adapter beside the weights, shards outside the folder.
"""

import codecs
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils.hub import cached_file, cached_files

from editors.errors import ModelError, listed
from editors.models.stored.config_numbers import number_problems
from editors.models.stored.model_types import unsupported

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIG, ADAPTER = "config.json", "adapter_config.json"
TOKENIZER_CONFIG, GENERATION = "tokenizer_config.json", "generation_config.json"

_QUANTIZED = ("quantization_config", "compression_config")
_REFUSED = {
    "transformers_weights": "names a file of weights of its own",
    "fusion_config": "changes the modules of the model",
}
"""Entries of a configuration that change what is loaded."""
_ATTENTION = (None, "eager", "sdpa")
"""Implementations of attention that are part of transformers; others are fetched from the hub."""
_OTHER_WEIGHTS = {
    "*.bin": "pickles",
    "*.pt": "pickles",
    "*.pth": "pickles",
    "*.ckpt": "pickles",
    "*.h5": "TensorFlow's weights",
    "*.msgpack": "Flax's weights",
}
_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_TOKENIZER_FILES = ("tokenizer.json", TOKENIZER_CONFIG, "special_tokens_map.json", "vocab.json", "merges.txt")


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of a folder, or of a Hugging Face id at a revision."""

    path: str
    revision: str | None = None

    @cached_property
    def folder(self) -> Path | None:
        """The folder; None for a Hugging Face id."""
        return Path(self.path) if Path(self.path).is_dir() else None

    def find(self, name: str) -> Path | None:
        """A file on this machine, downloaded if it has to be; None if there is none."""
        if self.folder is not None:
            return self.folder / name if (self.folder / name).is_file() else None
        try:
            return Path(self.require(name))
        except (OSError, ValueError):
            return None

    def require(self, name: str) -> str:
        """The path of a file of a repository; raises OSError or ValueError, with the reason, without it."""
        path = cached_file(self.path, name, revision=self.revision or "main")
        assert path is not None
        return path

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The content of `config.json`.

        Raises:
            ModelError: if it is not a JSON object.
        """
        return _json_object(self._named(CONFIG))

    @cached_property
    def weights(self) -> Sequence[Path]:
        """The safetensors files of the model.

        Raises:
            ModelError: if an index names files that are absent or outside of the folder.
        """
        if (path := self.find(WEIGHTS)) is not None:
            return [path]
        if (index := self.find(INDEX)) is None:
            return []
        shards = _shards(index)
        if self.folder is None:
            paths = cached_files(self.path, shards, revision=self.revision or "main") or []
            return [Path(path) for path in paths]
        absent = [shard for shard in shards if not (self.folder / shard).is_file()]
        if absent:
            raise ModelError(f"{index} names {listed(absent)}, but there is no such file: copy all of them")
        return [self.folder / shard for shard in shards]

    def check(self) -> None:
        """Check everything that can be known before the weights are read.

        Raises:
            ModelError: with all problems, one per line.
        """
        problems = list(self._problems())
        if problems:
            raise ModelError("\n".join(problems))

    def check_weights(self) -> None:
        """Open every file of weights and compare their names.

        Raises:
            ModelError: with all problems, one per line.
        """
        problems, holders = [], Counter[str]()
        for path in self.weights:
            try:
                with safe_open(path, framework="pt") as stored:
                    holders.update(stored.keys())
            except (SafetensorError, OSError) as error:
                problems.append(_unreadable(path, error))
        twice = [name for name, count in holders.items() if count > 1]
        if twice:
            problems.append(f"several files of {self.path} hold {listed(twice)}: leave one of them")
        blocks = self.config.get("num_hidden_layers", self.config.get("n_layer", 0))
        if not problems and blocks > holders.total():
            problems.append(
                f"{self._named(CONFIG)} asks for {blocks} blocks, but there are {holders.total()} tensors"
            )
        if problems:
            raise ModelError("\n".join(problems))

    def _problems(self) -> Iterator[str]:
        if self.find(ADAPTER) is not None:
            yield (
                f"{self.path} holds an adapter ({ADAPTER}), which transformers would apply unasked: merge it "
                "with peft's merge_and_unload and save that model, or remove it to use the model alone"
            )
            if self.find(CONFIG) is None:
                return
        for name in _TOKENIZER_FILES:
            if (path := self.find(name)) is not None and (unfit := _unfit(path)):
                yield unfit
        try:
            yield from self._config_problems()
        except ModelError as error:
            yield str(error)
        if self.folder is not None:
            yield from self._folder_problems(self.folder)
        yield from self._code(TOKENIZER_CONFIG)
        if (path := self.find(GENERATION)) is not None:
            try:
                _json_object(path)
            except ModelError as error:
                yield str(error)

    def _config_problems(self) -> Iterator[str]:
        path, config = self._named(CONFIG), self.config
        if sentence := unsupported(config.get("model_type")):
            yield f"{path}: {sentence}"
        if any(config.get(key) for key in _QUANTIZED):
            yield f"{path}: the weights are quantized, and edits need plain matrices: dequantize it first"
        yield from self._code(CONFIG)
        for key, effect in _REFUSED.items():
            if config.get(key) is not None:
                yield f"{path}: {key} {effect}; take the entry out, with the weights as they then have to be"
        for key in ("attn_implementation", "_attn_implementation"):
            if config.get(key) not in _ATTENTION:
                yield f"{path}: {key}={config[key]!r} would be fetched from the hub; take the entry out"
        if config.get("is_encoder_decoder"):
            yield f"{path}: is_encoder_decoder=true, but only models of a decoder alone can be edited"
        yield from (f"{path}: {problem}" for problem in number_problems(config))

    def _folder_problems(self, folder: Path) -> Iterator[str]:
        if not any(folder.glob("tokenizer*")) and not any(folder.glob("vocab*")):
            yield f"the folder {folder} holds no tokenizer; save one there with save_pretrained"
        if any(folder.glob("shard-*-model-*.safetensors")):
            yield f"{folder} holds a checkpoint of a distributed training: save the whole model instead"
        try:
            weights = self.weights
        except ModelError as error:
            yield str(error)
            return
        yield from filter(None, map(_instead, weights))
        yield from _rivals(folder)
        if not weights:
            if files := sorted(folder.glob("*.gguf")):
                yield f"{folder} holds GGUF and no {WEIGHTS}: give model.gguf={files[0]} instead"
                return
            others = [kind for pattern, kind in _OTHER_WEIGHTS.items() if any(folder.glob(pattern))]
            holds = f"holds {others[0]}, which are not read, and" if others else "holds"
            yield (
                f"{folder} {holds} no {WEIGHTS}: save the model there with save_pretrained, which writes "
                "safetensors"
            )

    def _code(self, name: str) -> Iterator[str]:
        """A sentence if a file of settings names code of the checkpoint."""
        if (path := self.find(name)) is None or _unfit(path):
            return
        try:
            settings = _json_object(path)
        except ModelError as error:
            if name != CONFIG:  # that of the model is reported by `config`
                yield str(error)
            return
        if settings.get("auto_map"):
            yield (
                f"{path}: auto_map names code of the checkpoint, which is never run; take the entry out if "
                "transformers' own class computes the same"
            )

    def _named(self, name: str) -> Path:
        path = self.find(name)
        if path is None:
            raise ModelError(f"{self.path} holds no {name}: it is not the folder of a model")
        return path


def _rivals(folder: Path) -> Iterator[str]:
    """A sentence if a folder holds its weights both in one file and in shards."""
    whole, index = folder / WEIGHTS, folder / INDEX
    if not (whole.is_file() and index.is_file()):
        return
    try:
        shards = [shard for shard in _shards(index) if shard != WEIGHTS and (folder / shard).is_file()]
    except ModelError as error:
        yield str(error)
        return
    if shards:
        yield (
            f"{folder} holds both {WEIGHTS} and {INDEX} with {listed(shards)}: remove the weights that are "
            "not the model's"
        )


def _shards(index: Path) -> list[str]:
    places = _json_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise ModelError(f"{index} has no weight_map of tensors to files: download it again")
    shards = sorted(set(places.values()))
    outside = [shard for shard in shards if Path(shard).is_absolute() or ".." in Path(shard).parts]
    if outside:
        raise ModelError(f"{index} names {listed(outside)} outside of its folder: download it again")
    return shards


def _json_object(path: Path) -> Mapping[str, Any]:
    if unfit := _unfit(path):
        raise ModelError(unfit)
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON ({error}): download it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a JSON {type(content).__name__} instead of an object")
    return content


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _unfit(path: Path) -> str | None:
    """A sentence if a text file is something else, or JSON behind a byte order mark."""
    if path.suffix == ".json" and _start(path).startswith(_MARKS):
        return f"{path} begins with a byte order mark, which transformers cannot read: save it without"
    return _instead(path)


def _instead(path: Path) -> str | None:
    """A sentence if a web page or a pointer of Git LFS lies in place of a file."""
    start = _start(path).lstrip()
    if start.startswith(b"version https://git-lfs"):
        return f"{path} is a pointer of Git LFS instead of the file: fetch it with git lfs pull"
    if start.startswith(b"<"):
        return f"{path} is a web page instead of the file: download it again"
    return None


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _unreadable(path: Path, error: Exception) -> str:
    return _instead(path) or f"{path} is truncated or no safetensors file ({error}): download it again"
