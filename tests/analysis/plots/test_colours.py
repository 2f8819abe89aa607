"""An editor has one colour in every figure."""

import pandas as pd

from analysis.plots.charts.canvas import PALETTE
from analysis.plots.figures.curves import EDITORS, palette


def rows(*series: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame(series, columns=["series", "editor"])


def test_an_editor_has_its_colour_whatever_stands_beside_it():
    alone, among = palette(rows(("encore", "encore"))), palette(rows(("rome", "rome"), ("encore", "encore")))
    assert alone["encore"] == among["encore"] == PALETTE[EDITORS.index("encore")]


def test_series_of_one_editor_differ_and_leave_the_colours_of_others():
    several = palette(rows(("memit", "memit"), ("memit, x=1", "memit"), ("rome", "rome"), ("other", "mine")))
    assert len(set(several.values())) == 4
    assert several["memit"] == PALETTE[0] and several["rome"] == PALETTE[1]


def test_every_series_has_a_colour_though_there_are_more_than_colours():
    many = palette(rows(*((f"memit {n}", "memit") for n in range(20))))
    assert len(many) == 20 and set(many.values()) <= set(PALETTE)


def test_every_editor_of_the_list_has_its_own():
    assert len(EDITORS) == len(set(EDITORS)) <= len(PALETTE)


def test_colours_that_are_given_go_before_all():
    table = rows(("a", "memit"), ("b", "rome")).assign(colour=["#000001", "#000002"])
    assert palette(table) == {"a": "#000001", "b": "#000002"}
