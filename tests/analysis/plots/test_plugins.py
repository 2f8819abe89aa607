"""Figures of a user, in a package outside of the project."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from analysis import plugins
from analysis.__main__ import main
from analysis.plots.figures.plugin_figures import figures_with
from analysis.plots.figures.registry import FIGURES
from tests.fake_runs import keep_metrics

MODULE = '''
"""One figure of each table of runs, and one of a metric that no run has."""

from analysis.plots.figures.curves import chart_of, curves
from analysis.plots.figures.registry import FigureSpec


def seconds(data):
    lines = {"": curves(data.metrics, "time/step/seconds")}
    return chart_of(lines, x_label="edits", y_label="seconds")


def spec(number, name, build):
    return FigureSpec(number=number, name=name, title="Time of a step", caption="Seconds.", build=build)


FIGURES = (spec("90", "mine", seconds), spec("91", "absent", lambda data: None))
'''
OTHER = """
from my_figures.times import FIGURES as times, spec

FIGURES = (spec("92", "second", times[0].build),)
"""
BROKEN = {
    "absent_figures": (None, "cannot be imported (ModuleNotFoundError: No module named 'absent_figures')"),
    "bad_code": ("1 / 0\n", "cannot be imported (ZeroDivisionError: division by zero)"),
    "no_figures": ("", "define FIGURES, a tuple of analysis.plots.figures.registry.FigureSpec"),
    "bad_figures": ("FIGURES = ('norms',)\n", "define FIGURES, a tuple of"),
    "same_name": (MODULE.replace('"mine"', '"norms"'), "a figure norms exists already; give it another name"),
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of a user on the module path, with two modules of figures."""
    folder = tmp_path / "packages" / "my_figures"
    folder.mkdir(parents=True)
    for name, text in {"__init__": "", "times": MODULE, "other": OTHER}.items():
        (folder / f"{name}.py").write_text(text)
    for name in ("my_figures", "my_figures.times", "my_figures.other"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(folder.parent)
    return folder


def figure_files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "figures").iterdir()}


def test_figures_of_plugins_are_drawn(package: Path, experiment: Path, tmp_path: Path, capsys):
    """By name and by number, of several modules; the registry itself does not change."""
    keep_metrics(experiment, "norm/frobenius_ratio/", "activation/", "time/")
    command = ["figures", str(experiment), "--format", "svg", "--plugin", "my_figures.times"]
    command += ["--plugin", "my_figures.other"]
    assert main([*command, "--to", str(tmp_path / "a"), "--only", "mine,92,norms"]) == 0
    assert figure_files(tmp_path / "a") == {"mine.svg", "second.svg", "norms.svg"}
    assert main([*command, "--to", str(tmp_path / "b")]) == 0
    assert {"mine.svg", "second.svg", "norms.svg"} < figure_files(tmp_path / "b")
    assert "absent.svg" not in figure_files(tmp_path / "b")
    capsys.readouterr()
    assert main([*command[:-2], "--only", "91"]) == 2
    assert "no run measured what the figures 91 show" in capsys.readouterr().err
    assert main(["figures", str(experiment), "--only", "mine"]) == 2
    message = capsys.readouterr().err
    assert "figure 'mine' does not exist" in message and "--plugin" in message


def test_a_report_shows_the_figures_of_a_plugin(package: Path, experiment: Path):
    keep_metrics(experiment, "norm/frobenius_ratio/edited", "time/")
    assert main(["report", str(experiment), "--plugin", "my_figures.times"]) == 0
    page = (experiment / "report.html").read_text()
    assert "· Time of a step</h3>" in page and "<code>--only 90</code>" in page and 'id="figure-mine"' in page
    assert {"mine.png", "mine.svg", "mine.pdf"} < figure_files(experiment)
    again = "with the <code>--plugin</code> of this report"
    assert again in page
    assert main(["report", str(experiment)]) == 0
    assert again not in (experiment / "report.html").read_text()


def test_installed_plugins_need_no_option(package: Path, monkeypatch: pytest.MonkeyPatch):
    """An entry point adds its figures; one whose module has none, but other classes, adds nothing."""
    points = [
        EntryPoint(name=name, value=name, group=plugins.ENTRY_POINTS)
        for name in ("my_figures", "my_figures.times")
    ]
    monkeypatch.setattr(
        plugins, "entry_points", lambda group: points if group == plugins.ENTRY_POINTS else []
    )
    plugins.installed_plugins.cache_clear()
    try:
        assert [spec.name for spec in figures_with()[len(FIGURES) :]] == ["mine", "absent"]
        assert figures_with(["my_figures.times"]) == figures_with()
    finally:
        plugins.installed_plugins.cache_clear()


@pytest.mark.parametrize("module", BROKEN)
def test_a_broken_plugin_is_one_sentence(
    module: str, tmp_path: Path, experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    text, sentence = BROKEN[module]
    if text is not None:
        (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, module, raising=False)
    assert main(["figures", str(experiment), "--plugin", module]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: --plugin {module}") and message.count("\n") == 1
    assert sentence in message and not (experiment / "figures").exists()
