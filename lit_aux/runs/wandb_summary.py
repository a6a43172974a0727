"""Rows of the results table in the summary of a W&B run: to be seen there, and to be read back exactly."""

import json
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from lit_aux.runs.table import COLUMNS, MEASURE_COLUMNS

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

Row = dict[str, Any]
ROWS, MEASURES = "lit_aux_rows", "lit_aux_measures"
"""Keys of the summary under which rows and measures are, each as one text of JSON."""
_FIRST_NUMBER = COLUMNS.index("loss_best")


def log_rows(loggers: Iterable["Logger"], rows: Sequence[Row], measures: Sequence[Row]) -> None:
    """Put the rows of a fit into the summaries of its W&B runs.

    A W&B run gets the columns that place its rows (``setup``, ``seed``, ``n_main``, ...) into its config,
    where all its rows agree on them, so that runs can be grouped by them. Of a single row, what was found
    becomes ``results/loss_final`` and so on. All rows and measures lie as text under ``lit_aux_rows`` and
    ``lit_aux_measures``, since W&B's own numbers do not come back exactly.

    Args:
        loggers: Of the Trainer's first process; those that are not W&B's are passed over.
        rows: Rows of ``results.csv``.
        measures: Rows of ``measures.csv``.
    """
    from lightning.pytorch.loggers import WandbLogger

    for logger in loggers:
        if isinstance(logger, WandbLogger):
            run: Any = logger.experiment
            run.config.update(_places(rows), allow_val_change=True)
            run.summary.update({**_shown(rows), **summary_of(rows, measures)})


def summary_of(rows: Sequence[Row], measures: Sequence[Row]) -> dict[str, str]:
    """Return the entries of a summary that hold rows and measures."""
    numbers = {row["run"]: number for number, row in enumerate(rows)}
    compact = [
        [numbers[measure["run"]], *(measure.get(name) for name in MEASURE_COLUMNS[1:])]
        for measure in measures
    ]
    return {ROWS: json.dumps([_without_gaps(row) for row in rows]), MEASURES: json.dumps(compact)}


def rows_of(summary: Mapping[str, Any]) -> tuple[list[Row], list[Row]]:
    """Return the rows and measures of a summary; none where it has none.

    Raises:
        ValueError: If what lies under their keys is something else.
    """
    if ROWS not in summary:
        return [], []
    try:
        rows = [dict(row) for row in json.loads(summary[ROWS])]
        measures = [
            {"run": rows[number]["run"], **dict(zip(MEASURE_COLUMNS[1:], values, strict=True))}
            for number, *values in json.loads(summary.get(MEASURES, "[]"))
        ]
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError(f"the summary's {ROWS} cannot be read ({error})") from None
    return rows, measures


def _without_gaps(row: Row) -> Row:
    """Return a row without what is empty: JSON has no NaN."""
    return {name: value for name, value in row.items() if value is not None and value == value}


def _places(rows: Sequence[Row]) -> Row:
    """Return the columns before the numbers on which all rows agree."""
    first = _without_gaps(rows[0])
    return {
        name: first[name]
        for name in COLUMNS[1:_FIRST_NUMBER]
        if name in first and all(row.get(name) == first[name] for row in rows)
    }


def _shown(rows: Sequence[Row]) -> Row:
    """Return what a person wants to see of a run with one row; how many there are, of one with several."""
    if len(rows) > 1:
        return {"results/rows": len(rows)}
    row = _without_gaps(rows[0])
    found = {f"results/{name}": row[name] for name in COLUMNS[_FIRST_NUMBER:] if name in row}
    return {name: value for name, value in found.items() if not isinstance(value, float) or isfinite(value)}
