"""The tasks that come with the lm-evaluation-harness, found by name without importing it.

A generated file includes the official one and overrides only the place of the data, the number of examples,
and that accuracy is reported. Prompts, choices and descriptions stay the official ones.
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
"""Content of a task file."""


class _Loader(yaml.SafeLoader):
    """Reads `!function` as the function's name."""


_Loader.add_multi_constructor("!", lambda loader, _, node: _FunctionName(loader.construct_scalar(node)))


class _FunctionName(str):
    """Name of a function in a task file, which does not show the fields that the function reads."""


@dataclass(frozen=True, kw_only=True)
class OfficialTask:
    """A task, group or tag of the harness."""

    name: str
    path: Path
    content: Content
    """Content of its file, merged with the files that it includes."""

    @property
    def is_task(self) -> bool:
        """Whether it is neither a group nor a tag."""
        return self.content.get("task") == self.name

    @property
    def fields(self) -> list[str]:
        """Fields of a document that prompt, choices and answer name; without those that functions read."""
        texts = (self.content.get(key) for key in ("doc_to_text", "doc_to_choice", "doc_to_target"))
        return sorted({field for text in texts if type(text) is str for field in _template_fields(text)})

    @property
    def overrides(self) -> Content:
        """Content of a file that includes this one, reports accuracy, and belongs to no tag."""
        metrics = self.content.get("metric_list") or []
        has_accuracy = any(metric.get("metric") == "acc" for metric in metrics)
        return {
            "include": str(self.path),
            "task": self.name,
            "tag": None,
            "metric_list": metrics if has_accuracy else [*metrics, ACC],
        }


def official_tasks(folders: Sequence[str], option: str) -> dict[str, OfficialTask]:
    """All tasks, groups and tags in these folders of the harness, by name.

    Raises:
        ConfigError: for a folder that the harness does not have.
    """
    tasks: dict[str, OfficialTask] = {}
    for folder in folders:
        for path in sorted(_task_folder(folder, option).rglob("*.yaml")):
            content = _read_content(path)
            for name in _loadable_names(content):
                tasks.setdefault(name, OfficialTask(name=name, path=path, content=content))
    return tasks


def select_tasks(
    names: Sequence[str], known: Mapping[str, OfficialTask], folders: Sequence[str], option: str
) -> list[OfficialTask]:
    """The tasks of these names; raises ConfigError with the nearest name for an unknown one, or for none."""
    if not names:
        raise ConfigError(f"{option}.tasks is empty; name at least one, for example {next(iter(known))}")
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(list(known)[:12])}"
            raise ConfigError(f"{option}.tasks: {name} is no task in {', '.join(folders)} of lm-eval; {hint}")
    return [known[name] for name in names]


def harness_folder() -> Path:
    """The folder of the harness' own tasks."""
    spec = find_spec("lm_eval")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "tasks"


def _task_folder(name: str, option: str) -> Path:
    home = harness_folder()
    path = home / name
    if not path.is_dir():
        near = difflib.get_close_matches(name, [p.name for p in home.iterdir() if p.is_dir()], n=1)
        hint = f"did you mean {near[0]}?" if near else f"its folders are those of {home}"
        raise ConfigError(f"{option}.folders: {name} is no folder of lm-eval's tasks; {hint}")
    return path


def _read_content(path: Path) -> Content:
    """The content of a file, merged over that of the files that it includes."""
    with path.open() as file:
        content: Content = yaml.load(file, Loader=_Loader)
    included = content.pop("include", [])
    merged: Content = {}
    for name in included if isinstance(included, list) else [included]:
        merged |= _read_content(path.parent / name)
    return merged | content


def _loadable_names(content: Content) -> list[str]:
    """Names by which a file can be loaded: its own, and its tags."""
    own, tags = content.get("group") or content.get("task"), content.get("tag") or []
    names = [own, *(tags if isinstance(tags, list) else [tags])]
    return [name for name in names if isinstance(name, str)]


def _template_fields(text: str) -> set[str]:
    """Variables of a template; a bare word is the name of a field."""
    return {text} if text.isidentifier() else meta.find_undeclared_variables(Environment().parse(text))
