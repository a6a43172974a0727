"""Figures of what students have learned: norms, shares of the coefficients, clusters of units."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from lit_aux.drawing.layout import Curve, Layout, Panel
from lit_aux.drawing.style import TIMES
from lit_aux.errors import ConfigurationError
from lit_aux.figures.curves import Mean, at_factor_one, curve, grouped, with_measures
from lit_aux.figures.request import Request
from lit_aux.figures.students import setup_looks, setups_of
from lit_aux.figures.tables import by_task, entries, pattern_title, shared_title
from lit_aux.runs.typed import Row

TASK = ("k_main", "overlap", "correlation", "magnitude")
"""Columns that say which task it is."""
_ACROSS, _WRAPPED = 6, 4
"""Most tasks side by side, and how many where there are more."""
NORMS = {
    "l1": r"$\ell_1$ norm",
    "l2": r"$\ell_2$ norm",
    "l12": r"$\ell_{1,2}$ norm, both tasks",
    "F_1": r"$F_1$ norm",
    "F_12": r"$F_{1,2}$ norm, both tasks",
}
SHARES = {"top_share": r"$|\beta|^2$ in the top $k$", "aux_share": r"$|\beta|^2$ in auxiliary entries"}
_N_MAIN = "main-task examples"


class Spot(NamedTuple):
    """The place of a task: a column, and a block of rows with one for each quantity."""

    column: int
    block: int
    title: str
    """Written over the block."""
    side: str
    """Written at its right."""


def spots(tasks: Sequence[Row]) -> list[Spot]:
    """Return the spot of each task.

    Where many tasks differ in their number of main features, columns are numbers and blocks what is shared;
    where they differ in size, columns are what is shared and blocks sizes; else all stand side by side, four
    in a block if there are many.

    Args:
        tasks: A row of the table for each.
    """
    counts = sorted({row["k_main"] for row in tasks})
    sizes = sorted({row.get("magnitude") or 1.0 for row in tasks}, reverse=True)
    patterns = list(dict.fromkeys(pattern_title(row) for row in sorted(tasks, key=by_task)))
    heads = [f"{row['k_main']} {entries(row, row['k_main'])}" for row in tasks]
    if len(counts) > 1 and len(sizes) == 1 and len(tasks) <= _ACROSS:
        order = sorted(tasks, key=lambda row: (row["k_main"], -by_task(row)[0]))
        titles = [f"{head}, {shared_title(row)}" for row, head in zip(tasks, heads, strict=True)]
        return [Spot(order.index(row), 0, title, "") for row, title in zip(tasks, titles, strict=True)]
    if len(counts) > 1:
        keys = [(-by_task(row)[0], shared_title(row), _size(row, sizes)) for row in tasks]
        stripes = sorted({*keys})
        return [
            Spot(counts.index(row["k_main"]), stripes.index(key), head, ", ".join(filter(None, key[1:])))
            for row, key, head in zip(tasks, keys, heads, strict=True)
        ]
    places = [(patterns.index(pattern_title(row)), row) for row in tasks]
    if len(sizes) > 1:
        return [Spot(i, sizes.index(row["magnitude"]), patterns[i], _size(row, sizes)) for i, row in places]
    across = len(patterns) if len(patterns) <= _ACROSS else _WRAPPED
    return [Spot(i % across, i // across, patterns[i], "") for i, _ in places]


def _size(row: Row, sizes: Sequence[float]) -> str:
    return f"output {TIMES} {row['magnitude']:g}" if len(sizes) > 1 else ""


def norms(rows: Sequence[Row], measures: Sequence[Row], how: Request) -> Layout:
    """Lay out norms of the solutions against n_main, with the teacher's."""
    return _against_n_main(rows, measures, NORMS)


def top_share(rows: Sequence[Row], measures: Sequence[Row], how: Request) -> Layout:
    """Lay out share of |beta|^2 in the top k and in the auxiliary entries."""
    return _against_n_main(rows, measures, SHARES)


def features(rows: Sequence[Row], measures: Sequence[Row], how: Request) -> Layout:
    """Lay out k-means inertia of the units, alignment with main and auxiliary teacher."""
    names = {line["measure"] for line in measures}
    matches = (re.fullmatch(r"inertia_k(\d+)", name or "") for name in names)
    inertias = sorted(int(match[1]) for match in matches if match)
    aligned = [name for name in names if re.fullmatch(r"alignment_k\d+(_aux)?", name or "")]
    if not inertias:
        raise ConfigurationError(_missing("inertia_k"))
    wanted = [*(f"inertia_k{k}" for k in inertias), *aligned]
    rows, notes = at_factor_one(with_measures(rows, measures, wanted))
    most = max((row["n_main"] for row in rows), default=0)
    # a measure's name holds the number of units, which the panels' tasks differ in
    named = [_with_features(row, inertias, aligned) for row in rows]
    largest = [long for row in named if row["n_main"] == most for long in _by_clusters(row, inertias)]
    quantities = {
        "main inertia": r"inertia at $K = k_\mathrm{main}$",
        "main alignment": "alignment with\nmain teacher",
        "aux alignment": "alignment with\nauxiliary teacher",
    }
    panels = [
        *_grid(largest, {"inertia": f"inertia, n = {most}"}, "K (at 1, around the origin)", "K", of=4),
        *_grid(named, quantities, _N_MAIN, "n_main", after=1, of=4),
    ]
    notes += ("inertia at K = 1 is relative to the origin, at others to the mean",)
    return Layout(tuple(panels), len(rows), setup_looks(panels), notes)


def _against_n_main(rows: Sequence[Row], measures: Sequence[Row], names: dict[str, str]) -> Layout:
    """Lay out measures of student and teacher against n_main."""
    measured, notes = at_factor_one(with_measures(rows, measures, names))
    students = {f"student {name}": text for name, text in names.items()}
    quantities = {name: text for name, text in students.items() if any(name in row for row in measured)}
    if not quantities:
        raise ConfigurationError(_missing(" or ".join(names)))
    panels = _grid(measured, quantities, _N_MAIN, "n_main")
    return Layout(tuple(panels), len(measured), setup_looks(panels), notes)


def _grid(
    rows: Sequence[Row], quantities: Mapping[str, str], x_label: str, x: str, *, after: int = 0, of: int = 0
) -> list[Panel]:
    """Lay out a panel for each task and quantity.

    Args:
        rows: With the quantities as columns.
        quantities: Their names and labels.
        x_label: Of the x axis.
        x: Its column.
        after: How many quantities stand above these.
        of: How many there are in all; these alone by default.
    """
    panels = []
    tasks = grouped(rows, TASK)
    places = spots([group[0] for group in tasks.values()])
    for (task, members), spot in zip(tasks.items(), places, strict=True):
        for number, (name, text) in enumerate(quantities.items(), start=after):
            if present := [row for row in members if row.get(name) is not None]:
                place = spot.block * (of or len(quantities)) + number, spot.column
                titles = spot.title if number == 0 else "", spot.side
                taught = _teacher(present, x, name.replace("student ", "teacher "))
                curves, group = setups_of(present, x, name), str(members[0].get("magnitude"))
                made = Panel((*task, name), place, curves, x_label, text, *titles, group, y_scale="linear")
                panels.append(replace(made, teacher=taught))
    return panels


def _teacher(rows: Sequence[Row], x: str, name: str, mean: Mean = "arithmetic") -> Curve | None:
    """Return the teacher's own value: that of each seed once, whatever setups learned from it."""
    once = {(row.get("seed"), row[x]): {**row, "setup": "", "solver": "", "rescale": None} for row in rows}
    taught = [row for row in once.values() if row.get(name) is not None]
    return curve(taught, x, name, "teacher", mean) if taught and name.startswith("teacher ") else None


def _with_features(row: Row, inertias: Sequence[int], aligned: Sequence[str]) -> Row:
    own = f"student inertia_k{row['k_main']}"
    found = {**row, "main inertia": row.get(own)}
    for name in aligned:
        if f"student {name}" in row:
            aux = name.endswith("_aux")
            if aux or name == f"alignment_k{row['k_main']}":
                found["aux alignment" if aux else "main alignment"] = row[f"student {name}"]
    return found


def _by_clusters(row: Row, inertias: Sequence[int]) -> list[Row]:
    """Return a row for each number of clusters."""
    return [
        {**row, "K": k, "inertia": row[f"student inertia_k{k}"]}
        for k in inertias
        if row.get(f"student inertia_k{k}") is not None
    ]


def _missing(name: str) -> str:
    return (
        f"no run has {name} in measures.csv beside the table (reproduce, sweep and fit write it there; keep "
        "the two together)"
    )
