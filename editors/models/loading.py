"""Loading a checkpoint from a folder or the hub, with errors that name the way out."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from editors.data import Corpus
from editors.errors import ModelError, first_line
from editors.models.model import Model

Precision = Literal["float64", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model to load: its place, precision and device.

    Only safetensors weights are read, and no code from a checkpoint is run.
    """

    name: str
    """Short name, used in results and to look up published values."""
    path: str
    """A folder or a Hugging Face id."""
    revision: str | None = None
    """Commit, tag or branch on the hub; pin it where numbers matter."""
    dtype: Precision = "float32"
    """Precision of the forward pass; edited matrices are accumulated in at least float32."""
    device: str = "auto"
    """`auto` is the first GPU if there is one, otherwise the CPU."""
    device_map: str | dict[str, int | str] | None = None
    """transformers' `device_map`, such as `auto`, for a model too large for one device; replaces `device`."""
    depth: int | None = None
    """Number of blocks; stated so that a configuration can be checked before anything is loaded."""
    corpus: Corpus | None = None
    """Text that represents the training data of the model; editors collect their statistics on it."""

    def load(self) -> Model:
        """The model in evaluation mode, with its tokenizer.

        Raises:
            ModelError: if the folder, the id, the tokenizer or the weights cannot be loaded.
        """
        tokenizer = self._tokenizer()
        weights = self._weights()
        if self.device_map is None:
            weights.to(self._device())  # pyright: ignore[reportArgumentType] - decorated upstream
        elif any(parameter.is_meta for parameter in weights.parameters()):
            raise ModelError(
                f"model.device_map={self.device_map} leaves weights of {self.name} on the disk or in main "
                "memory, where they cannot be edited: give it more devices, or set model.dtype=bfloat16"
            )
        model = Model(weights, tokenizer, name=self.name, files=self._files())
        if self.depth not in (None, model.depth):
            raise ModelError(
                f"model.depth={self.depth}, but {self.path} has {model.depth} blocks; correct it"
            )
        return model

    def _device(self) -> torch.device:
        if self.device != "auto":
            return torch.device(self.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        folder = Path(self.path)
        if folder.is_dir() and not any(folder.glob("tokenizer*")) and not any(folder.glob("vocab*")):
            raise ModelError(
                f"the folder {self.path} holds no tokenizer; save one there with save_pretrained"
            )
        try:
            return AutoTokenizer.from_pretrained(self.path, revision=self.revision or "main")
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(self._sentence("tokenizer", error)) from error

    def _weights(self) -> PreTrainedModel:
        try:
            return AutoModelForCausalLM.from_pretrained(
                self.path,
                revision=self.revision or "main",
                dtype=getattr(torch, self.dtype),
                use_safetensors=True,
                device_map=self.device_map,
            )
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(self._sentence("weights", error)) from error

    def _files(self) -> list[Path]:
        """The loaded safetensors files that lie on this machine."""
        names = ["model.safetensors"]
        if self._local(names[0]) is None and (index := self._local("model.safetensors.index.json")):
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        return [path for path in map(self._local, names) if path is not None]

    def _local(self, name: str) -> Path | None:
        if Path(self.path).is_dir():
            path = Path(self.path) / name
            return path if path.is_file() else None
        cached = try_to_load_from_cache(self.path, name, revision=self.revision or "main")
        return Path(cached) if isinstance(cached, str) else None

    def _sentence(self, part: str, error: Exception) -> str:
        if Path(self.path).is_dir():
            return f"the {part} in {self.path} cannot be read: {first_line(error)}"
        return (
            f"the {part} of {self.path!r}: no folder of that name, not in the local cache, and not to be "
            f"had from the hub ({first_line(error)}); check the id, or set model.path to a folder"
        )
