"""Loading a checkpoint from a folder or the hub, with errors that name the way out."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from editors.data import Corpus
from editors.errors import ConfigError, ModelError, first_line
from editors.hub import check_answers
from editors.models.gradients import check_sites
from editors.models.memory import check_fits, weight_bytes
from editors.models.model import Model
from editors.models.modules.four_bits import check_package
from editors.models.stored.checkpoint_files import ADAPTER, CONFIG, CheckpointFiles
from editors.models.stored.gguf import dequantized
from editors.models.stored.weight_files import check_loaded
from editors.phases import Phase, Report, silent
from editors.updates import Site

log = logging.getLogger(__name__)

Precision = Literal["float64", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model to load: its place, precision and device.

    Only safetensors weights are read, and no code from a checkpoint is run. Every parameter has to come from
    the files, and to be finite.
    """

    name: str
    """Short name, used in results and to look up published values."""
    path: str | None = None
    """A folder or a Hugging Face id."""
    gguf: str | None = None
    """A GGUF file, or `package:<package>/<file>`, instead of `path`; its dequantized copy is edited."""
    source: Literal["hub", "package"] | None = None
    """Of a model with both: `hub` loads `path`, `package` loads `gguf`."""
    licence: str | None = None
    """Licence of the weights, for the record."""
    revision: str | None = None
    """Commit, tag or branch on the hub; pin it where numbers matter."""
    dtype: Precision = "float32"
    """Precision of the forward pass; edited matrices are accumulated in at least float32."""
    bits: Literal[4] | None = None
    """4 holds the matrices of the blocks that are not edited in four bits (NF4), where they cannot change."""
    device: str = "auto"
    """`auto` is the first GPU if there is one, otherwise the CPU."""
    device_map: str | dict[str, int | str] | None = None
    """transformers' `device_map`, such as `auto`, for a model too large for one device; replaces `device`."""
    depth: int | None = None
    """Number of blocks; stated so that a configuration can be checked before anything is loaded."""
    allow_zero: bool = False
    """Whether matrices may be zero throughout, as those of an ablated model; a damaged file has such, too."""
    corpus: Corpus | None = None
    """Text that represents the training data of the model; editors collect their statistics on it."""

    def load(self, report: Report = silent, changed: Sequence[Site] = ()) -> Model:
        """The model in evaluation mode, with its tokenizer; `report` gets the phases of the work.

        If `bits` are 4, only the matrices of `changed` can be edited: they stay in the model's precision.

        Raises:
            ConfigError: for a device or precision that there is not, a precision that the attention does not
                compute in, weights larger than the free memory, or four bits that cannot be had.
            ModelError: if the folder, the id, the tokenizer or the weights cannot be loaded, or are not what
                the configuration of the model says.
        """
        if (gguf := self.loaded_gguf) is not None:
            folder = str(dequantized(gguf, report=report))
            log.info("%s: weights of %s, dequantized in %s", self.name, gguf, folder)
            return replace(self, path=folder, gguf=None, source=None, revision=None).load(report, changed)
        if self.source is not None:
            log.info("%s: weights of %s", self.name, self.path)
        report(Phase(name=f"loading {self.name}"))
        self._check_bits()
        device, files = self._device(), CheckpointFiles(self._place, self.revision)
        self._check_place(files)
        files.check()
        config = self._read("configuration", transformers.AutoConfig)
        config.return_dict = True  # the form of the answer, which a configuration may set, is ours to choose
        if self.depth not in (None, config.num_hidden_layers):
            raise ModelError(
                f"model.depth={self.depth}, but {self.path} has {config.num_hidden_layers} blocks; correct it"
            )
        tokenizer = self._read("tokenizer", transformers.AutoTokenizer)
        check_tokenizer(tokenizer, config, self._shown)
        if files.folder is not None:
            files.check_weights()
        self._check_memory(config, device, changed)
        weights, loaded = self._read(
            "weights",
            transformers.AutoModelForCausalLM,
            config=config,
            dtype=getattr(torch, self.dtype),
            use_safetensors=True,
            device_map=self.device_map,
            ignore_mismatched_sizes=True,  # reported below, with everything else
            output_loading_info=True,
        )
        if any(parameter.is_meta for parameter in weights.parameters()):
            raise ModelError(
                f"model.device_map={self.device_map} leaves weights of {self.name} on the disk or in main "
                "memory, where they cannot be edited: give it more devices, or set model.dtype=bfloat16"
            )
        check_loaded(weights, loaded, self._shown, files.weights, allow_zero=self.allow_zero)
        model = Model(weights, tokenizer, name=self.name, files=files.weights)
        if self.bits is not None:
            _freeze(model, changed, device)
        if self.device_map is None:
            weights.to(device)
        if self.dtype == "float64" and not _reads_padding(model):
            raise ConfigError(
                f"model.dtype=float64, but the attention of {self.name} rounds its masks to float32, where "
                "they overflow: set model.dtype=float32"
            )
        return model

    @property
    def loaded_gguf(self) -> str | None:
        """The GGUF file that is loaded; None if it is `path`.

        Raises:
            ConfigError: if both are given and `source` does not choose.
        """
        if self.path and self.gguf and self.source is None:
            raise ConfigError(
                f"model.path={self.path} and model.gguf={self.gguf} are both given: leave out one of them"
            )
        return None if self.source == "hub" else self.gguf

    @property
    def _place(self) -> str:
        """The path with the home folder in place of `~`."""
        return os.path.expanduser(self.path or "")  # noqa: PTH111 - leaves an id as it is

    @property
    def _shown(self) -> str:
        return self.path or ""

    def _device(self) -> torch.device:
        if self.dtype not in get_args(Precision):
            raise ConfigError(f"model.dtype={self.dtype} has to be one of {', '.join(get_args(Precision))}")
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            torch.empty(1, dtype=getattr(torch, self.dtype), device=device).cpu()
        except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
            count, reason = torch.cuda.device_count(), first_line(error).split(". ")[0]
            there = f"{count} GPU{'s' * (count != 1)} (cuda:0 is the first)" if count else "no GPU"
            raise ConfigError(
                f"model.device={self.device} cannot be used ({reason}): PyTorch has {there} here; "
                "set model.device to auto or cpu"
            ) from error
        return device

    def _check_bits(self) -> None:
        """Raise a ConfigError if the matrices cannot be held in so many bits."""
        if self.bits not in (None, 4):
            raise ConfigError(f"model.bits={self.bits} has to be 4, or null for the precision of model.dtype")
        if self.bits is not None and self.device_map is not None:
            raise ConfigError(
                f"model.bits={self.bits} is for one device, but model.device_map={self.device_map} spreads "
                "the model: leave out one of them"
            )
        if self.bits is not None:
            check_package()

    def _check_place(self, files: CheckpointFiles) -> None:
        """Raise a ModelError if there is neither a folder nor a repository."""
        if not self.path:
            raise ModelError(
                "model.path is empty: set it to the folder of a model or a Hugging Face id, or model.gguf "
                "to a GGUF file"
            )
        if files.folder is not None:
            return
        if Path(self._place).exists():
            instead = f"give model.gguf={self.path} instead"
            instead = instead if self.path.endswith(".gguf") else "name the folder of the model"
            raise ModelError(f"model.path={self.path} is a file: {instead}")
        if Path(self._place).is_absolute():  # no id of the hub
            raise ModelError(f"model.path={self.path}: there is no folder of that name")
        try:
            check_answers(self._place, self.revision)
            files.require(CONFIG)
        except (OSError, ValueError) as error:
            if isinstance(error, ConnectionError) or files.find(ADAPTER) is None:
                check = "the network" if isinstance(error, ConnectionError) else "the id"
                raise ModelError(
                    f"{self.path!r}: no folder of that name, not in the local cache, and the hub does not "
                    f"give it ({first_line(error)}); check {check}, or set model.path to a folder"
                ) from error

    def _check_memory(self, config: PretrainedConfig, device: torch.device, changed: Sequence[Site]) -> None:
        """Raise a ConfigError for weights that do not fit, before they are allocated.

        All are read into main memory in the model's precision, and only then rounded to four bits.
        """
        if self.device_map is not None:
            return  # accelerate spreads them by its own estimate
        dtype = getattr(torch, self.dtype)
        try:
            read = weight_bytes(config, dtype)
            kept = read if self.bits is None else weight_bytes(config, dtype, changed)
        except MemoryError:
            raise
        except Exception as error:  # an entry of config.json raises whatever the class of the model does
            raise ModelError(self._sentence("configuration", error)) from error
        for place, needed in {device: kept, torch.device("cpu"): read}.items():
            smaller = "model.dtype=bfloat16" if place.type == "cpu" else "model.dtype=bfloat16 model.bits=4"
            check_fits(
                f"model={self.name} in {self.dtype}",
                needed,
                place,
                f"check the sizes in its config.json, or set {smaller}, or a larger machine",
            )

    def _read(self, part: str, kind: Any, **options: object) -> Any:
        """What transformers reads, without running code of the checkpoint."""
        try:
            return kind.from_pretrained(
                self._place, revision=self.revision or "main", trust_remote_code=False, **options
            )
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except (
            Exception
        ) as error:  # a broken file raises whatever its parser does, tokenizers' plain Exception
            raise ModelError(self._sentence(part, error)) from error

    def _sentence(self, part: str, error: Exception) -> str:
        spread = part == "weights" and self.device_map is not None
        where = f" with model.device_map={self.device_map}" if spread else ""
        return f"the {part} in {self.path} cannot be read{where}: {first_line(error)}"


def _freeze(model: Model, changed: Sequence[Site], device: torch.device) -> None:
    """Hold in four bits what is not named; raises ConfigError for a name of no matrix."""
    if changed:
        check_sites(model, changed, "the list of edited matrices")
    model.freeze(changed, device)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, path: str) -> None:
    """Raise a ModelError, with all problems, for a tokenizer that does not fit the model."""
    problems = []
    # rows are padded with zeros and a mask, so that a padding token needs no row
    padding = tokenizer.pad_token_id
    largest = max((token for token in tokenizer.get_vocab().values() if token != padding), default=-1)
    if largest < 0:
        problems.append(f"the tokenizer in {path} has no tokens: save it again with save_pretrained")
    if largest >= config.vocab_size:
        problems.append(
            f"the tokenizer in {path} has a token with the id {largest}, but the embedding has "
            f"{config.vocab_size} rows: take the model's own tokenizer, or resize and train the embedding"
        )
    if tokenizer.eos_token_id is None:
        problems.append(
            f"the tokenizer in {path} has no end-of-text token: set eos_token in its tokenizer_config.json"
        )
    if not isinstance(longest := tokenizer.model_max_length, int | float):
        problems.append(
            f"the tokenizer in {path} has model_max_length={longest!r}: make it a number in its "
            "tokenizer_config.json, or take the entry out"
        )
    if dropout := getattr(_backend(tokenizer), "dropout", None):
        problems.append(
            f"the tokenizer in {path} drops merges at random (model.dropout={dropout:g} in tokenizer.json), "
            "so that a text has other tokens every time: set model.dropout to null there"
        )
    if problems:
        raise ModelError("\n".join(problems))


def _backend(tokenizer: PreTrainedTokenizerBase) -> object:
    """The model of a fast tokenizer; None for others."""
    return getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)


@torch.no_grad()
def _reads_padding(model: Model) -> bool:
    """Whether padding before a token leaves its hidden state finite."""
    mask = torch.tensor([[False, True]], device=model.device)
    return bool(model.hidden(torch.zeros_like(mask, dtype=torch.long), mask)[mask].isfinite().all())
