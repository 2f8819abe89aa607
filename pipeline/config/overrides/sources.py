"""`intervention.source=` of a command line, in the form that a configuration can keep.

A configuration has to mean the same run for ever, but the link `latest` moves to the next run, and a
beginning of a name may become that of two.
"""

from collections.abc import Sequence

from analysis.selection import SETTINGS_END, by_settings, selected, selected_one
from editors.text_files import local_path
from pipeline.config.overrides.quoting import SYNTAX, in_quotes

_SOURCE = "intervention.source="


def with_sources(arguments: Sequence[str]) -> list[str]:
    """The arguments, with the folder of a run in place of `latest` and of beginnings of its name.

    A selection by settings is put in quotes, because Hydra's grammar has its own use for commas; each run of
    a sweep may take another one of the runs that it names. Several values are those of a sweep.

    Raises:
        DataError: if an experiment has no such run, or several.
    """
    return [_with_source(each) if each.startswith(_SOURCE) else each for each in arguments]


def _with_source(argument: str) -> str:
    value = argument.removeprefix(_SOURCE)
    if (SYNTAX - {","}) & set(value):
        return argument
    return _SOURCE + ",".join(map(_lasting, SETTINGS_END.split(value)))


def _lasting(text: str) -> str:
    if by_settings(text):
        return in_quotes(text)
    return text if selected(text) == [local_path(text)] else in_quotes(str(selected_one(text)))
