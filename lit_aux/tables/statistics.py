"""Means over seeds, with standard errors, cell by cell."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from statistics import fmean
from typing import Any

from lit_aux.errors import ConfigurationError
from lit_aux.experiments.means import Stat, mean_of, scaled, unscaled_error
from lit_aux.tables.reading import Row

Key = tuple[Any, ...]
PLACES = (
    "experiment",
    "task",
    "quantity",
    "layer",
    "k_main",
    "overlap",
    "correlation",
    "magnitude",
    "solver",
)
"""Columns that say where in a grid a row is, beside setup, rescale factor, n_main and seed."""
SETUPS = ("STL", "MTL", "PT+FT", "STL (LP)", "PT+FT (LP)", "STL (NTK)", "PT+FT (NTK)")


@dataclass
class Cell:
    """What the runs of one cell of the grid have in a column.

    Attributes:
        by_seed: The value of each seed, the mean of its runs where it has several.
        published: Mean and standard error where a table tells nothing else.
        failed: Runs that failed.
        empty: Runs that went well and have no value in the column.
        converged: Runs that converged.
        runs: Runs that did not fail.
    """

    by_seed: dict[Any, float] = field(default_factory=dict)
    published: Stat | None = None
    failed: int = 0
    empty: int = 0
    converged: int = 0
    runs: int = 0

    @property
    def stat(self) -> Stat | None:
        """Mean over seeds; None where there is no value."""
        if self.published is not None:
            return self.published
        return mean_of(list(self.by_seed.values())) if self.by_seed else None


def key_of(row: Mapping[str, Any], names: Iterable[str]) -> Key:
    """Return what a row has in some columns."""
    return tuple(row.get(name) for name in names)


def cells(rows: Iterable[Row], value: str, names: Sequence[str], log: bool = False) -> dict[Key, Cell]:
    """Put rows into the cells that some columns make, in the order of those columns' values.

    Args:
        rows: Of :func:`~lit_aux.tables.reading.read_rows`.
        value: The column to look at. Rows with ``seeds`` and ``VALUE_se`` are means already.
        names: The columns that tell cells apart.
        log: Whether means are taken of log10 of the values.
    """
    found: dict[Key, Cell] = {}
    values: dict[Key, dict[Any, list[float]]] = {}
    for row in rows:
        key = key_of(row, names)
        cell = found.setdefault(key, Cell())
        if row.get("error") is not None:
            cell.failed += 1
            continue
        cell.runs += 1
        cell.converged += row.get("converged") is True
        number = row.get(value)
        if not isinstance(number, int | float) or number != number:
            cell.empty += 1
        elif row.get("seeds") is not None:
            if cell.published is not None:
                shown = ", ".join(f"{name} {part}" for name, part in zip(names, key, strict=True) if part)
                raise ConfigurationError(
                    f"FILE: there are two published means of one cell ({shown}); give one table, or choose "
                    "with --where"
                )
            cell.published = _of_summary(row, value, log)
        else:
            values.setdefault(key, {}).setdefault(row.get("seed"), []).append(scaled(number, log))
    for key, by_seed in values.items():
        found[key].by_seed = {seed: fmean(several) for seed, several in by_seed.items()}
    return {key: found[key] for key in sorted(found, key=lambda key: _order(names, key))}


def repeated(rows: Iterable[Row], value: str, names: Sequence[str]) -> bool:
    """Return whether a seed has several runs in one cell: they differ in what the table does not tell."""
    seen = set()
    for row in rows:
        if row.get("error") is None and row.get(value) is not None and row.get("seed") is not None:
            key = (*key_of(row, names), row["seed"])
            if key in seen:
                return True
            seen.add(key)
    return False


def _of_summary(row: Row, value: str, log: bool) -> Stat:
    error = row.get(f"{value}_se")
    error = nan if error is None else float(error)
    mean = float(row[value])
    if log:  # to first order
        error = unscaled_error(error, mean)
    return Stat(scaled(mean, log), error, int(row["seeds"]))


def _order(names: Sequence[str], key: Key) -> Key:
    """Return what sorts cells: setups as the paper names them, numbers by size, what is empty first."""
    return tuple(order(name, value) for name, value in zip(names, key, strict=True))


def order(name: str, value: Any) -> Key:
    """Return what sorts the values of a column."""
    if value is None:
        return (0,)
    if name == "setup":
        return (1, SETUPS.index(value) if value in SETUPS else len(SETUPS), value)
    if isinstance(value, str):
        return (3, value)
    return (2, *value) if isinstance(value, tuple) else (2, value)
