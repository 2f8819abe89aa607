"""The tasks that come with the lm-evaluation-harness, found by name without importing it.

A generated file includes the official one and changes only what it has to: where the data are, how many
examples there are, and that accuracy is told. Prompts, choices and descriptions stay as they are.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, meta

from analysis.stages.downstream.tasks.source import ACC
from editors.errors import ConfigError

Content = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """Reads `!function` as its name."""


_Loader.add_multi_constructor("!", lambda loader, _, node: _Named(loader.construct_scalar(node)))


class _Named(str):
    """A function, by name: what it needs cannot be told from the file."""


@dataclass(frozen=True, kw_only=True)
class OfficialTask:
    """A task, group or tag of the harness."""

    name: str
    path: Path
    content: Content
    """Of its file, with what the file includes."""

    @property
    def is_task(self) -> bool:
        """Whether it is neither a group nor a tag."""
        return self.content.get("task") == self.name

    @property
    def fields(self) -> list[str]:
        """Fields of a document that prompt, choices and answer name; none of those that functions read."""
        texts = (self.content.get(key) for key in ("doc_to_text", "doc_to_choice", "doc_to_target"))
        return sorted({field for text in texts if type(text) is str for field in _fields(text)})

    @property
    def changes(self) -> Content:
        """A file that includes this one, tells accuracy, and is no part of a tag."""
        told = self.content.get("metric_list") or []
        has = any(metric.get("metric") == "acc" for metric in told)
        return {
            "include": str(self.path),
            "task": self.name,
            "tag": None,
            "metric_list": told if has else [*told, ACC],
        }


def official(folders: Sequence[str], option: str) -> dict[str, OfficialTask]:
    """Everything that can be loaded from these folders of the harness' tasks, by name.

    Raises:
        ConfigError: for a folder that the harness does not have.
    """
    found: dict[str, OfficialTask] = {}
    for folder in folders:
        for path in sorted(_folder(folder, option).rglob("*.yaml")):
            content = _content(path)
            for name in _names(content):
                found.setdefault(name, OfficialTask(name=name, path=path, content=content))
    return found


def chosen(
    names: Sequence[str], among: Mapping[str, OfficialTask], folders: Sequence[str], option: str
) -> list[OfficialTask]:
    """The tasks of these names; raises ConfigError with the nearest name for an unknown one, or for none."""
    if not names:
        raise ConfigError(f"{option}.tasks is empty; name at least one, for example {next(iter(among))}")
    for name in names:
        if name not in among:
            near = difflib.get_close_matches(name, among, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(list(among)[:12])}"
            raise ConfigError(f"{option}.tasks: {name} is no task in {', '.join(folders)} of lm-eval; {hint}")
    return [among[name] for name in names]


def home() -> Path:
    """The folder of the harness' own tasks."""
    spec = find_spec("lm_eval")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "tasks"


def _folder(name: str, option: str) -> Path:
    path = home() / name
    if not path.is_dir():
        near = difflib.get_close_matches(name, [p.name for p in home().iterdir() if p.is_dir()], n=1)
        hint = f"did you mean {near[0]}?" if near else f"its folders are those of {home()}"
        raise ConfigError(f"{option}.folders: {name} is no folder of lm-eval's tasks; {hint}")
    return path


def _content(path: Path) -> Content:
    """A file over the files that it includes."""
    with path.open() as file:
        content: Content = yaml.load(file, Loader=_Loader)
    included = content.pop("include", [])
    merged: Content = {}
    for name in included if isinstance(included, list) else [included]:
        merged |= _content(path.parent / name)
    return merged | content


def _names(content: Content) -> list[str]:
    """What a file can be loaded by: its own name, and its tags."""
    own, tags = content.get("group") or content.get("task"), content.get("tag") or []
    names = [own, *(tags if isinstance(tags, list) else [tags])]
    return [name for name in names if isinstance(name, str)]


def _fields(text: str) -> set[str]:
    """Variables of a template; a bare word is the name of a field."""
    return {text} if text.isidentifier() else meta.find_undeclared_variables(Environment().parse(text))
