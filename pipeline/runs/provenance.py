"""Origin of a run's numbers: code, versions, machine, command line; no environment variables or secrets."""

import hashlib
import json
import platform
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from threadpoolctl import threadpool_info

from analysis.plugins import installed_plugins
from analysis.results.run_files import read_object
from analysis.results.run_folder import RunFolder
from editors.disk import checksum
from editors.models.stored.gguf_header import PACKAGED, located
from pipeline.config.secrets import without_secrets
from pipeline.paths import PACKAGE, ROOT
from pipeline.runs.messages import publishable

PACKAGES = (
    "normscope", "torch", "transformers", "tokenizers", "safetensors", "datasets", "hydra-core", "omegaconf",
    "wandb", "numpy", "pandas", "scikit-learn", "lm-eval",
)  # fmt: skip
NUMERICAL = ("torch", "transformers", "tokenizers", "peft", "numpy", "scikit-learn")
OURS = ("editors", "analysis", "pipeline")
_READERS = ("analysis/plots/", "analysis/claims/", "analysis/reports/")
"""Folders of ours that only read finished runs: no number depends on them."""
_OURSELVES = "normscope"
GIT = "git.json"
"""File in a copy of the code: commit and changes of the checkout that was copied."""
_BUILT_WITH = re.compile(r"(?:BLAS|LAPACK)_INFO=\w+|Math Kernel Library Version [\w.]+|MKL-DNN v[\w.]+")


def provenance(plugins: Sequence[str] = ()) -> dict[str, object]:
    """The content of `provenance.json`: all that determines a run in this process.

    `plugins` are the modules outside the project that the run may use, with digests of their sources;
    `sources` is that of our own; `git` is null outside a checkout of the project. `command` is the command
    that was given, perhaps that of a sweep; `repeat` is one that computes this run alone.
    """
    return {
        "started": now(),
        "command": shlex.join(without_secrets(sys.argv)),
        "repeat": _repeat(),
        "overrides": _overrides(),
        "git": git_state(PACKAGE),
        "python": platform.python_version(),
        "packages": {name: number for name in PACKAGES if (number := _version(name))},
        "sources": code_versions()["sources"],
        "plugins": plugin_digests(plugins),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "machine": machine(),
    }


@cache
def code_versions() -> Mapping[str, str]:
    """All code that determines numbers to the last bit: a digest of our sources, and versions of libraries.

    Computed at the first call only: this process does not run files that are edited later.
    """
    ours = [path for package in OURS for path in sorted((ROOT / package).rglob("*.py"))]
    sources = [path for path in ours if not path.relative_to(ROOT).as_posix().startswith(_READERS)]
    versions = {name: _version(name) or "" for name in NUMERICAL}
    return MappingProxyType({"sources": _digest(ROOT, sources), **versions})


def other_code(folder: Path, plugins: Sequence[str]) -> list[str]:
    """Names of the code that is not as it was when the run in this folder was computed.

    That is a plug-in of `plugins` or an installed one, or normscope itself. Left out is code of which the run
    recorded no digest, or which cannot be found now.
    """
    origin = RunFolder(folder).provenance()
    before = {_OURSELVES: origin.get("sources"), **origin.get("plugins", {})}
    now = {_OURSELVES: code_versions()["sources"], **plugin_digests(plugins)}
    return [name for name, digest in now.items() if digest and before.get(name) not in (None, digest)]


def plugin_digests(plugins: Sequence[str]) -> dict[str, str]:
    """A digest of the Python sources of each named or installed plug-in, by module; empty if it is absent."""
    return {module: _module_digest(module) for module in sorted({*plugins, *installed_plugins()})}


@cache
def _module_digest(module: str) -> str:
    try:
        spec = find_spec(module)
    except Exception:  # whatever a package raises that holds the module
        spec = None
    if spec is None:
        return ""
    if spec.submodule_search_locations is None:
        file = Path(spec.origin or "")
        return _digest(file.parent, [file]) if file.is_file() else ""
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    return _digest(folders[0].parent, [path for folder in folders for path in sorted(folder.rglob("*.py"))])


def _digest(root: Path, sources: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sources:
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:10]


def machine() -> dict[str, object]:
    """The properties of this machine on which rounding depends: processor, threads, numerical libraries.

    `vectors` is the instruction set of PyTorch's own kernels; `extensions` are further instruction sets that
    matrix products may use; `torch` lists the libraries that PyTorch was built with, `libraries` those loaded
    now, one line each.
    """
    import torch  # imported here: a finished run does not need it

    model, flags = _processor()
    built = torch.__config__.show()
    return {
        "processor": model,
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "extensions": [flag for flag in flags if flag.startswith(("amx", "avx512_bf16", "avx512_fp16"))],
        "threads": torch.get_num_threads(),
        "torch": _BUILT_WITH.findall(built),
        "libraries": sorted(_library(entry) for entry in threadpool_info()),
    }


def _processor() -> tuple[str, list[str]]:
    """Model and instruction sets of the first processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), []
    lines = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    fields = {key.strip(): value.strip() for key, _, value in lines}
    model = fields.get("model name") or platform.processor() or platform.machine()
    return model, sorted(fields.get("flags", fields.get("Features", "")).split())


def _library(entry: Mapping[str, object]) -> str:
    """One line such as `blas: libopenblas 0.3.31 (Haswell), 2 threads`."""
    version, kernel = entry.get("version") or "", entry.get("architecture")
    name = f"{entry['prefix']} {version}".strip() + (f" ({kernel})" if kernel else "")
    return f"{entry['user_api']}: {name}, {entry['num_threads']} threads"


def _repeat() -> str:
    """One line to paste that computes this run alone, with as many threads; empty without a command line.

    Launcher and tracker are left out, because they change no number.
    """
    if not HydraConfig.initialized():
        return ""
    import torch

    hydra = HydraConfig.get()
    added = [Path(each.path) for each in hydra.runtime.config_sources if each.provider == "command-line"]
    own = [text for folder in added for text in ("--config-dir", _from_here(folder))]
    # an experiment may be a sweep without -m
    mode = ["hydra.mode=RUN"] if hydra.mode == RunMode.MULTIRUN else []
    threads = f"launcher.threads={torch.get_num_threads()}"
    return shlex.join(["python", "-m", "pipeline", *own, *publishable(hydra.overrides.task), *mode, threads])


def _from_here(path: Path) -> str:
    """A path as it is written in the folder of the command, if it lies in that."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _overrides() -> list[str]:
    """The overrides of the command line, or those that a sweep created for this run."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return without_secrets(list(overrides))


def model_origin(config: Mapping[str, Any]) -> dict[str, object]:
    """Where the weights come from: repository, or GGUF file with SHA-256 and package; and their licence."""
    model = config.get("model") or {}
    origin: dict[str, object] = {"source": model.get("source"), "licence": model.get("licence")}
    gguf = None if model.get("source") == "hub" else model.get("gguf")
    if gguf is None:
        return {**origin, "path": model.get("path"), "revision": model.get("revision")}
    package = gguf.removeprefix(PACKAGED).partition("/")[0] if gguf.startswith(PACKAGED) else None
    file = located(gguf)
    return {
        **origin,
        "gguf": gguf,
        "package": package and f"{package} {_version(package)}",
        "sha256": checksum(file) if file and file.is_file() else None,
        "original": model.get("path"),
    }


def earlier_attempts(path: Path) -> list[dict[str, Any]]:
    """The records of the earlier attempts in a `provenance.json`, oldest first."""
    last = read_object(path) or {}
    return [*last.pop("earlier", []), last] if last else []


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_state(folder: Path) -> Mapping[str, object] | None:
    """The commit of the checkout that this package lies in or was copied from, and whether it has changes.

    Changes in `docs` do not count: the page of results is written there, and no number depends on it. None
    outside a checkout of the project.
    """
    if (folder / GIT).is_file():
        return json.loads((folder / GIT).read_text(encoding="utf-8"))
    if _run_git(folder, "ls-files", "--error-unmatch", "__main__.py") is None:
        return None  # installed, perhaps inside the checkout of another project
    commit = _run_git(folder, "rev-parse", "HEAD")
    changes = _run_git(folder, "status", "--porcelain", "--", ":(top)", ":(top,exclude)docs")
    return {"commit": commit, "dirty": bool(changes)}


def _run_git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command; None if it fails or git is missing."""
    try:
        process = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.strip()
