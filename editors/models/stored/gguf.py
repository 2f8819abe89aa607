"""Models in GGUF, the format of llama.cpp: copies with dequantized matrices.

transformers dequantizes: each block of 32 or 256 weights is w = scale · code + offset, computed in float32.
The copy is a folder of safetensors, tokenizer and configuration, which is read like any other.
"""

import importlib.util
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from filelock import FileLock

from editors.digests import digest_of_files
from editors.disk import PART, checksum, remove_parts
from editors.errors import ModelError, first_line
from editors.models.stored.config_numbers import MOST
from editors.models.stored.gguf_header import CACHE, gguf_file, read_header
from editors.models.stored.model_types import LOSSY_IN_GGUF, unsupported
from editors.phases import Phase, Report, silent

log = logging.getLogger(__name__)

_DIGEST = "digest.txt"
"""The file of a copy that holds the digest of its other files."""


def header_problem(header: Mapping[str, object], name: str) -> str | None:
    """A sentence if a header is of an architecture that is not supported, or of a depth that no model has."""
    architecture = header.get("general.architecture")
    if sentence := unsupported(architecture):
        return f"model.gguf={name}: {sentence}"
    if architecture in LOSSY_IN_GGUF:
        return (
            f"model.gguf={name}: transformers does not read every constant of {architecture} from a GGUF "
            "file, such as the scale of attention: give the folder of the model as model.path"
        )
    if experts := header.get(key := f"{architecture}.expert_count"):
        return (
            f"model.gguf={name}: {key} is {experts}, but mixtures of experts are not supported: take a dense "
            "model"
        )
    key = f"{architecture}.block_count"
    blocks = header.get(key)
    if not isinstance(blocks, int) or not 1 <= blocks <= MOST:
        return f"model.gguf={name}: {key} is {blocks}, but has to be 1 to {MOST:,}: copy the file again"
    return None


def dequantized(name: str, cache: Path = CACHE, report: Report = silent) -> Path:
    """The folder of the dequantized copy of a GGUF file, made unless it is there.

    It is named by the SHA-256 of the file; one process makes it, others wait. A copy with other content than
    was written is made again.

    Raises:
        ModelError: for a file that cannot be read or is of another family, or without the package gguf.
    """
    file = gguf_file(name)
    if problem := header_problem(read_header(file), name):
        raise ModelError(problem)
    folder = cache / checksum(file)[:16]
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f".{folder.name}.lock"):
        if not folder.is_dir():
            _write(file, folder, report)
        elif not _is_unchanged(folder):
            log.warning("%s is damaged, or of an earlier version: dequantizing %s again", folder, file)
            _write(file, folder, report)
    return folder


def _is_unchanged(folder: Path) -> bool:
    """Whether a copy holds what was written: about 0.1 s per GB, if the disk need not be read."""
    try:
        return (folder / _DIGEST).read_text(encoding="ascii") == _digest(folder)
    except (OSError, ValueError):
        return False


def _digest(folder: Path) -> str:
    return digest_of_files(path for path in folder.iterdir() if path.name != _DIGEST)


def _write(file: Path, folder: Path, report: Report) -> None:
    """Dequantize a file into a folder, which appears only when it is complete."""
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"{file} is read with the package gguf, which is not installed: pip install gguf")
    log.info("dequantizing %s into %s", file, folder)
    remove_parts(folder.parent, folder.name)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{PART}{folder.name}-"))
    try:
        place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
        tokenizer = transformers.AutoTokenizer.from_pretrained(**place)
        with _counted(report):
            model = transformers.AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
        _plain(model).save_pretrained(part)
        tokenizer.save_pretrained(part)
        (part / _DIGEST).write_text(_digest(part), encoding="ascii")
    except Exception as error:  # whatever the parsers of a damaged file raise
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise ModelError(
            f"{file} cannot be dequantized ({first_line(error)}): copy the file again, or give another one"
        ) from error
    part.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


@contextmanager
def _counted(report: Report) -> Iterator[None]:
    """Report the tensors that transformers dequantizes, instead of its progress bar."""
    from transformers import modeling_gguf_pytorch_utils as reader  # here: it imports all of the models

    def counted(tensors: Sequence[object], **_: object) -> Iterator[object]:
        for done, tensor in enumerate(tensors):
            report(Phase(name="dequantizing", count=done, total=len(tensors), unit="tensors"))
            yield tensor

    bar = reader.tqdm
    reader.tqdm = counted  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        reader.tqdm = bar


def _plain(model: "transformers.PreTrainedModel") -> "transformers.PreTrainedModel":
    """The model without transformers' marks of a quantized one, which would refuse to be saved."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # pyright: ignore[reportAttributeAccessIssue]
    model.hf_quantizer = None  # pyright: ignore[reportArgumentType]
    model.is_quantized = False  # pyright: ignore[reportArgumentType]
    return model
