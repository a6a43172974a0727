"""Where the panels of a task stand in a figure that shows several quantities of each."""

from collections.abc import Sequence
from typing import NamedTuple

from lit_aux.figures.curves import Row
from lit_aux.figures.style import TIMES
from lit_aux.figures.tasks import by_task, entries, pattern_title, shared_title

TASK = ("k_main", "overlap", "correlation", "magnitude")
"""Columns that say which task it is."""
_ACROSS, _WRAPPED = 6, 4
"""Most tasks side by side, and how many where there are more."""


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
    if len(counts) > 1 and len(sizes) == 1 and len(tasks) <= _ACROSS:
        order = sorted(tasks, key=lambda row: (row["k_main"], -by_task(row)[0]))
        return [
            Spot(
                order.index(row), 0, f"{row['k_main']} {entries(row, row['k_main'])}, {shared_title(row)}", ""
            )
            for row in tasks
        ]
    if len(counts) > 1:
        stripes = sorted({(-by_task(row)[0], shared_title(row), _size(row, sizes)) for row in tasks})
        return [
            Spot(
                counts.index(row["k_main"]),
                stripes.index((-by_task(row)[0], shared_title(row), _size(row, sizes))),
                f"{row['k_main']} {entries(row, row['k_main'])}",
                ", ".join(filter(None, (shared_title(row), _size(row, sizes)))),
            )
            for row in tasks
        ]
    if len(sizes) > 1:
        return [
            Spot(
                patterns.index(pattern_title(row)),
                sizes.index(row["magnitude"]),
                pattern_title(row),
                _size(row, sizes),
            )
            for row in tasks
        ]
    across = len(patterns) if len(patterns) <= _ACROSS else _WRAPPED
    places = [divmod(patterns.index(pattern_title(row)), across) for row in tasks]
    return [
        Spot(column, block, pattern_title(row), "")
        for (block, column), row in zip(places, tasks, strict=True)
    ]


def _size(row: Row, sizes: Sequence[float]) -> str:
    return f"output {TIMES} {row['magnitude']:g}" if len(sizes) > 1 else ""
