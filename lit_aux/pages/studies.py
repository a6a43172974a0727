"""Trajectories and regimes on a page."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

from lit_aux.errors import ConfigurationError, one_line, printable
from lit_aux.pages.grid import Grid, number_of
from lit_aux.pages.pictures import Picture, drawn, of_file
from lit_aux.reporting import DIMENSIONS
from lit_aux.results.selection import spelled
from lit_aux.results.sheet import Sheet
from lit_aux.verdicts import BORDERLINE

_MOST_RUNS = 400
Found = tuple[list[Grid], list[Picture], list[str]]
"""Tables, pictures and notes."""


def trajectories(files: Sequence[Path]) -> Found:
    """Return what ``lit-aux trajectories`` prints and draws of runs.

    Args:
        files: Every ``trajectory.csv``.
    """
    if not files:
        return [], [], []
    from lit_aux.trajectories.analysis import analyse
    from lit_aux.trajectories.reading import read_trajectories
    from lit_aux.trajectories.sheets import sheets
    from lit_aux.trajectories.study import study_of

    if len(files) > _MOST_RUNS:
        return (
            [],
            [],
            [f"{len(files):,} trajectories are too many for a page; lit-aux trajectories compares them"],
        )
    try:
        runs, notes = read_trajectories(files)
        found = analyse(study_of(runs))
    except ConfigurationError as error:
        return [], [], [f"trajectories are not compared: {str(error).removeprefix('RUN: ')}"]
    pictures, left_out = [], []
    for one in _pictures(found):
        if isinstance(one, str):
            left_out.append(one)
        else:
            pictures.append(one)
    return [Grid.of(sheet) for sheet in sheets(found)], pictures, [*notes, *found.notes, *left_out]


def _pictures(found: Any) -> Iterator[Picture | str]:
    from lit_aux.figures.trajectories import figures_of_study

    tasks = f"Tasks: {', '.join(found.study.tasks)}."
    try:
        for one in figures_of_study(found):
            yield drawn(one.title, f"{one.title}. {tasks}", partial(getattr, one, "figure"), "", one.notes)
    except Exception as error:  # of a picture, whatever names it bears; the tables are worth more
        yield f"not drawn: {printable(one_line(error))}"


# Regimes


def regimes(files: Sequence[Path]) -> Found:
    """Return what ``lit-aux regime`` found, as it wrote it.

    Args:
        files: Every ``regime.json``.
    """
    grids: list[Grid] = []
    pictures: list[Picture] = []
    notes: list[str] = []
    for path in files:
        name = path.parent.resolve().name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            sheet = _students(content, name) if "cells" in content else _factors(content, name)
            grids.append(Grid.of(sheet))
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            notes.append(f"{path}: is no regime.json of lit-aux regime ({one_line(error)})")
            continue
        picture = of_file(path.with_suffix(".png"), f"Regimes, {name}", sheet.title)
        pictures += [] if picture is None else [picture]
    return grids, pictures, notes


def _students(content: Mapping[str, Any], name: str) -> Sheet:
    """Return where the students of each cell are."""
    cells = content["cells"]
    axes = list(dict.fromkeys(axis for cell in cells for axis in cell["cell"]))
    places = list(dict.fromkeys(place for cell in cells for place in cell["shares"]))
    columns = [*axes, "seeds", *places, "l-order", "dependence", "pretrained", "suggested factor"]
    sheet = Sheet(f"Shares of |β| in each regime, {name}", columns, labels=len(axes))
    for cell in cells:
        labels = [spelled(_plain(cell["cell"].get(axis))) for axis in axes]
        shares = [f"{number_of(cell['shares'].get(place)):.0%}" for place in places]
        numbers = [f"{number_of(cell[key]):.2f}" for key in ("l_order", "dependence")]
        share, factor = f"{number_of(cell['pretrained_share']):.0%}", cell["suggestion"].get("factor")
        told = "" if factor is None else f"{factor:g}"
        sheet.rows.append([*labels, str(len(cell["seeds"])), *shares, *numbers, share, told])
    sheet.notes.append(str(content.get("note", "")))
    return sheet


def _factors(content: Mapping[str, Any], name: str) -> Sheet:
    """Return what each rescale factor did to the layer that a sweep is judged by."""
    said = content["conclusion"]
    layer = said["layer"]
    columns = ["rescale", "fits", "val accuracy", "val loss", *DIMENSIONS.values(), "verdict"]
    sheet = Sheet(f"{layer} at each rescale factor, {name}", columns)
    for one in content["factors"]:
        found = one["layers"].get(layer)
        values = [number_of(one.get(key)) for key in ("val_accuracy", "val_loss")]
        values += [nan if found is None else number_of(found.get(key)) for key in DIMENSIONS]
        word = "diverged" if found is None else str(found["verdict"])
        if found is not None and BORDERLINE in str(found.get("note", "")):
            word = f"({word})"
        digits = [3, 3, *[2] * 5]
        texts = ["" if v != v else f"{v:.{d}f}" for v, d in zip(values, digits, strict=True)]
        sheet.rows.append([f"{number_of(one['factor']):g}", str(one["fits"]), *texts, word])
    nested = ", ".join(f"{number_of(factor):g}" for factor in said["nested"]) or "no factor of these"
    sheet.notes.append(f"nested at {layer}: {nested}")
    if said.get("best") is not None:
        sheet.notes.append(f"best on validation data: {number_of(said['best']):g}")
    if said.get("best_nested") is not None:
        sheet.notes.append(f"best of the nested ones: {number_of(said['best_nested']):g}")
    return sheet.without_empty("val accuracy", "val loss")


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
