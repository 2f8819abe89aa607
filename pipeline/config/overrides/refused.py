"""What is wrong with an override that Hydra refuses, and what was probably meant."""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.overrides.quoting import in_quotes, quoted
from pipeline.paths import CONF

_NO_KEY = re.compile(r"Could not override '(?P<key>[^']+)'")
_NO_FILE = re.compile(r"Could not (?:find|load) '(?P<file>[^']+)'")


def sentence(error: Exception, overrides: Sequence[str], own: Path | None = None) -> str:
    """A line on every key and file of a configuration that does not exist; empty for every other error.

    `own` is the folder of the user's own files, which `--config-dir` names.
    """
    rest, refused = list(overrides), list[tuple[re.Match[str], str]]()
    config: DictConfig | Exception = error
    while isinstance(config, Exception):
        if (match := _refused(config)) is None:
            return ""
        given = next((one for one in rest if _is_given(one, match)), "")
        refused.append((match, given or match[0]))
        if not given:
            break
        rest.remove(given)
        config = _composed(rest, own)
    lines = [
        _no_file(match["file"], given, own) if match.re is _NO_FILE else _no_key(match["key"], given, config)
        for match, given in refused
    ]
    return "\n".join(lines) if all(lines) else ""


def _refused(error: Exception) -> re.Match[str] | None:
    """The place of the message that names a file or key; None if the error is about something else."""
    if isinstance(error, MissingConfigException):
        return _NO_FILE.search(str(error))
    match = _NO_KEY.search(str(error))
    if match is None or (CONF / match["key"]).is_dir() or match["key"].partition(".")[0] == "hydra":
        return None
    return match


def _is_given(override: str, match: re.Match[str]) -> bool:
    key, _, value = override.lstrip("+~").partition("=")
    if match.re is _NO_KEY:
        return key == match["key"]
    group, _, name = match["file"].rpartition("/")
    return key.partition("@")[0] == group and name in value


def _no_file(file: str, given: str, own: Path | None) -> str:
    """`file` is a path in `conf/` without its ending, such as `editor/memmit`; `given` is the override."""
    group, _, name = file.rpartition("/")
    folders = [CONF / group, *([own / group] if own else [])]
    names = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    if not names:
        return ""
    place = f"conf/{group} has no {name}" + (f", and neither has --config-dir {own}" if own else "")
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}? There are" if close else "there are"
    more = "" if own else "; a file of your own is found with --config-dir FOLDER"
    return f"{given}: {place}; {hint} {', '.join(names)}{more}"


def _no_key(key: str, given: str, config: DictConfig | Exception) -> str:
    """`key` is that of the override `given`, which the configuration without it lacks, or a part of it."""
    if isinstance(config, Exception):
        return ""
    groups = [path.relative_to(CONF).as_posix() for path in CONF.glob("*/")]
    keys = [*_keys(OmegaConf.to_container(config, resolve=False)), *groups]
    if meant := _meant(key, keys):
        return f"{given}: there is no {key} here; did you mean {meant}?"
    parent, _, _ = key.rpartition(".")
    beside = dict.fromkeys(one for one in keys if one.rpartition(".")[0] == parent)
    if not beside:
        return _no_key(parent, given, config) if parent else ""
    if (CONF / parent / f"{key.rpartition('.')[2]}.yaml").is_file():  # one of several choices of a group
        chosen = ",".join(one.rpartition(".")[2] for one in (*beside, key))
        return f"{given}: there is no {key} here; choose it with '{parent}=[{chosen}]'"
    return f"{given}: there is no {key} here; there are {', '.join(beside)} (+{given} adds it)"


def _meant(key: str, keys: Sequence[str]) -> str:
    """The key that is most similar in its first unknown part: beside it, or else below the nearest part."""
    *parts, last = key.split(".")
    parent = ".".join(parts)
    if parent and parent not in keys and (meant := _meant(parent, keys)):
        whole = f"{meant}.{last}"
        return whole if whole in keys else _meant(whole, keys) or meant
    beside = {one.rpartition(".")[2]: one for one in keys if one.rpartition(".")[0] == parent}
    below = [
        {one.rpartition(".")[2]: one for one in reversed(keys) if one.startswith(f"{'.'.join(parts[:n])}.")}
        for n in range(len(parts), 0, -1)
    ]
    for known, similarity in ((beside, 0.6), *((each, 0.75) for each in below)):
        if close := difflib.get_close_matches(last, known, n=1, cutoff=similarity):
            return known[close[0]]
    return ""


def _keys(node: object, path: str = "") -> Iterator[str]:
    """The dotted keys of a nested mapping, outer ones first."""
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        yield f"{path}{key}"
        yield from _keys(value, f"{path}{key}.")


def _composed(overrides: Sequence[str], own: Path | None) -> DictConfig | Exception:
    """The configuration with these overrides, or the error of Hydra that refuses them."""
    GlobalHydra.instance().clear()
    search = [f"hydra.searchpath=[{in_quotes(f'file://{own.absolute()}')}]"] if own else []
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", [*quoted(overrides), *search])
    except (HydraException, OmegaConfBaseException) as error:
        return error
