"""From rows of results tables to curves: means over seeds, with bars of two standard errors."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Literal, TypeAlias

from lit_aux.drawing.layout import Curve
from lit_aux.errors import ConfigurationError
from lit_aux.results.means import bar
from lit_aux.results.selection import spelled
from lit_aux.results.statistics import cells, key_of
from lit_aux.runs.duplicates import MEASURED
from lit_aux.runs.typed import Row

Mean: TypeAlias = Literal["arithmetic", "geometric"]
AXES = ("experiment", "task", "solver", "overlap", "k_main", "correlation", "magnitude", "rescale")
"""Columns that must not differ within a curve, unless they are what it is drawn against."""
SINGLE = "STL"


def curve(rows: Sequence[Row], x: str, value: str, key: str, mean: Mean = "arithmetic") -> Curve:
    """Return the curve of rows: one run each, or one published mean each (``seeds``, ``VALUE_se``).

    Args:
        rows: All with both columns.
        x: The column along which it runs.
        value: The column that is averaged.
        key: The name of the curve.
        mean: ``"arithmetic"``, or ``"geometric"``: mean and standard error of log10, taken back.

    Raises:
        ConfigurationError: If rows of a place differ in something else than their seed: which of them is
            meant must be said; for the geometric mean of a value below 0.
    """
    _check_alike(rows, key, x)
    log = mean == "geometric"
    found = cells(rows, value, (x,), log)
    for (place,), cell in found.items():
        if cell.published is None:
            _check_seeds([row for row in rows if row[x] == place], key, x)
    if log and (lowest := min((row[value] for row in rows), default=0.0)) < 0:
        raise ConfigurationError(f"--mean geometric: {lowest:g} is among the values; use arithmetic")
    stats = {place: stat for (place,), cell in found.items() if (stat := cell.stat) is not None}
    bars = [bar(stat, log) for stat in stats.values()]
    means, low, high = zip(*bars, strict=True) if bars else ((), (), ())
    return Curve(key, tuple(stats), means, low, high, tuple(stat.seeds for stat in stats.values()))


def grouped(rows: Iterable[Row], names: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    """Return rows by their values of some columns, in the order in which they come."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(key_of(row, names), []).append(row)
    return groups


def by_experiment(rows: Iterable[Row]) -> dict[tuple[Any, Any], list[Row]]:
    """Return rows by experiment and task, whose rows are never compared; no task where there is one alone."""
    groups = grouped(rows, ("experiment", "task"))
    tasks = Counter(name for name, _ in groups)
    return {(name, task if tasks[name] > 1 else None): rows for (name, task), rows in groups.items()}


def panel_name(experiment: Any, task: Any) -> str:
    """Name the rows of an experiment, and of a task where there are several."""
    return f"{experiment or ''}" if task is None else f"{experiment or ''} {task}".strip()


def relative(rows: Sequence[Row], value: str, at: int | None) -> list[Row]:
    """Divide a column by its value in the single-task run of the same task and seed.

    Args:
        rows: Of one experiment.
        value: The column.
        at: The n_main of the single-task run; None for the row's own. Where that run is not among the rows, a
            row's ``baseline`` is taken if ``at`` is given.

    Returns:
        The rows with a divisor, in their order.
    """

    def task(row: Row, n_main: Any) -> Hashable:
        return n_main, *key_of(row, ("seed", "task", "overlap", "k_main", "correlation", "magnitude"))

    singles = {task(row, row["n_main"]): row[value] for row in rows if row["setup"] == SINGLE}
    found: list[Row] = []
    for row in rows:
        divisor = singles.get(task(row, row["n_main"] if at is None else at))
        if divisor is None and at is not None:
            divisor = row.get("baseline")
        if divisor:
            found.append({**row, value: row[value] / divisor})
    return found


def at_factor_one(rows: Sequence[Row]) -> tuple[list[Row], tuple[str, ...]]:
    """Leave out rows at other rescale factors than 1, where there are several in which 1 is.

    Returns:
        The rows, and what a reader must know of their factor.
    """
    factors = {row.get("rescale") for row in rows} - {None}
    if len(factors) == 1 and factors != {1.0}:
        return list(rows), (f"all rescaled rows are at factor {spelled(*factors)}",)
    if len(factors) < 2 or 1.0 not in factors:
        return list(rows), ()
    kept = [row for row in rows if row.get("rescale") in (None, 1.0)]
    text = f"{len(rows) - len(kept):,} rows at other rescale factors than 1 are left out; choose with --where"
    return kept, (text,)


def with_measures(rows: Sequence[Row], measures: Sequence[Row], names: Iterable[str]) -> list[Row]:
    """Return rows with what was measured in their runs as further columns, ``LAYER MEASURE``.

    Args:
        rows: Of the results table.
        measures: Of the measures beside it.
        names: The measures that are wanted; rows that have none of them are left out.
    """
    wanted = {*names}
    found: dict[str, dict[str, Any]] = {}
    for line in measures:
        if line["measure"] in wanted and line["value"] is not None:
            found.setdefault(line["run"], {})[f"{line['layer']} {line['measure']}"] = line["value"]
    return [{**row, **found[row["run"]]} for row in rows if row.get("run") in found]


def _check_alike(rows: Sequence[Row], key: str, x: str) -> None:
    for name in AXES:
        if name == x:
            continue
        values = {row.get(name): None for row in rows}
        if len(values) > 1:
            shown = ", ".join(spelled(value) for value in values)
            raise ConfigurationError(
                f"the rows of {key} differ in {name} ({shown}), which this figure does not show; choose one "
                f'with --where "{name}={spelled(next(iter(values)))}"'
            )


def _check_seeds(rows: Sequence[Row], key: str, x: str) -> None:
    seen: dict[Any, Row] = {}
    for row in rows:
        other = seen.setdefault(row.get("seed"), row)
        if other is row:
            continue
        names = [n for n in row if n not in _MEASURED and row[n] != other.get(n) and n not in ("run", x)]
        differ = f"; they differ in {', '.join(names)}" if names else ""
        raise ConfigurationError(
            f"{key}, {x} {spelled(row[x])}, seed {row.get('seed')}: there are two runs ({other.get('run')}, "
            f"{row.get('run')}){differ}; give one table, or choose with --where"
        )


_MEASURED = (*MEASURED, "seconds", "error")
