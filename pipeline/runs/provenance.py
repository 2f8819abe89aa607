"""Where a run's numbers come from: code, versions, machine, command line. No environment, no secrets."""

import hashlib
import json
import platform
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hydra.core.hydra_config import HydraConfig

from pipeline.paths import PACKAGE, ROOT
from pipeline.runs.atomic_files import read_json

PACKAGES = (
    "normscope", "torch", "transformers", "tokenizers", "safetensors", "datasets", "hydra-core", "omegaconf",
    "wandb", "numpy", "pandas", "scikit-learn", "lm-eval",
)  # fmt: skip
NUMERICAL = ("torch", "transformers", "tokenizers", "peft", "numpy", "scikit-learn")
GIT = "git.json"
"""What a copy of the code knows of the checkout that it was made from."""
_NAME = r"""(?<![\w-])
    (?! (?:[\w-]*_)? (?i:longest|shortest|first|last|sort|public|eos|bos|pad|unk|mask) _ (?i:key|token) \b)
    (?: [\w-]* (?i:passw(?:or)?d|passphrase|secret|credential|(?:api|access|private|auth)[_-]?key) [\w-]*
      | [\w-]* (?i:token) [_-]?\d*                          # hf_token, but neither tokens nor tokenizer
      | [\w-]+ (?: [_-](?i:key) | (?<=[a-z])Key ) [_-]?\d*  # openai_key, but neither keys nor key_mode
      | (?:[A-Z\d]+_)* (?:KEY|TOKEN) (?:_[A-Z\d]+)*         # OPENAI_KEY_2, a variable
    ) (?![\w-])"""
"""What is called like something that must not be written down."""
_SECRET = re.compile(_NAME, re.VERBOSE)
_GIVEN = re.compile(
    rf"""({_NAME} (?:\\*["'])? \s*) (?:
        (?P<sign>[=:]\s*) (?P<quote>\\*["']) (?:(?!(?P=quote)).)* (?:(?P=quote)|$)
      | (?P<equals>=\s*) [^\s"'\\&;]+? (?=[)\]}},]* (?:[\s"'\\&;]|$))
      | (?P<colon>:\s*) [^\s"'\\&;,)\]}}]+
    )""",
    re.VERBOSE | re.DOTALL,
)
_ACCOUNT = re.compile(r"(?<=://)[^\s/?#\"']+@")
"""Who asks, in an address."""
BLANK = "***"


def provenance() -> dict[str, object]:
    """What produced a run, as far as this process can tell.

    `git` is null outside a checkout of the project.
    """
    return {
        "started": now(),
        "command": shlex.join(without_secrets(sys.argv)),
        "overrides": _overrides(),
        "git": git(PACKAGE),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "platform": platform.platform(),
        "host": socket.gethostname(),
    }


@cache
def code() -> Mapping[str, str]:
    """What decides about the bits of a number: a digest of our sources, and versions of libraries.

    As they were when this was asked first: files that are edited later are not what this process runs.
    """
    digest = hashlib.sha256()
    for package in ("editors", "analysis", "pipeline"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT).as_posix()}\n".encode() + path.read_bytes())
    versions = {name: _version(name) or "" for name in NUMERICAL}
    return MappingProxyType({"sources": digest.hexdigest()[:10], **versions})


def _overrides() -> list[str]:
    """What was chosen on the command line, or for this run by its sweep."""
    chosen = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return without_secrets(list(chosen))


def attempts(path: Path) -> list[dict[str, Any]]:
    """What the attempts before this one told of themselves, oldest first."""
    last = read_json(path)
    return [*last.pop("earlier", []), last] if last else []


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def is_secret(key: str) -> bool:
    """Whether a configuration key is called like something that must not be written down."""
    return bool(_SECRET.search(str(key)))


def without_secrets(arguments: Sequence[str]) -> list[str]:
    """A command line with the values of `…api_key=…` and the like blanked, also inside other values."""
    parts = (argument.partition("=") for argument in arguments)
    return [
        f"{key}={BLANK}" if sign and is_secret(key) else masked(f"{key}{sign}{value}")
        for key, sign, value in parts
    ]


def masked(value: object) -> Any:
    """A configuration, or a part of it, without what must not be written down; all else stays as it is.

    Blanked are the values of keys that are called like a secret, and inside texts what is assigned to such
    a name (`HF_TOKEN=…`, `password: …`) and the account in an address.
    """
    if isinstance(value, str):
        return _GIVEN.sub(_blanked, _ACCOUNT.sub(f"{BLANK}@", value))
    if isinstance(value, Mapping):
        return {
            key: BLANK if is_secret(key) and not _is_switch(entry) else masked(entry)
            for key, entry in value.items()
        }
    return [masked(entry) for entry in value] if isinstance(value, list | tuple) else value


def _is_switch(entry: object) -> bool:
    return isinstance(entry, bool) or entry in (None, "")


def _blanked(given: re.Match[str]) -> str:
    sign = given["sign"] or given["equals"] or given["colon"]
    quote = given["quote"] or ""
    return f"{given[1]}{sign}{quote}{BLANK}{quote}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git(folder: Path) -> Mapping[str, object] | None:
    """Commit of the checkout that this package lies in, or was copied from, and whether it has changes.

    Changes in `docs` are none: the page of results is written there, and nothing is computed from it. None
    outside a checkout of the project.
    """
    if (folder / GIT).is_file():
        return json.loads((folder / GIT).read_text(encoding="utf-8"))
    if _run_git(folder, "ls-files", "--error-unmatch", "__main__.py") is None:
        return None  # installed, perhaps inside somebody else's checkout
    commit = _run_git(folder, "rev-parse", "HEAD")
    changes = _run_git(folder, "status", "--porcelain", "--", ":(top)", ":(top,exclude)docs")
    return {"commit": commit, "dirty": bool(changes)}


def _run_git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command, None where it fails or there is no git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
