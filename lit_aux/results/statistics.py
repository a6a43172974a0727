"""Means over seeds with standard errors, cell by cell; differences paired by seed, and who wins."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan, sqrt
from statistics import fmean
from typing import Any

from lit_aux.errors import ConfigurationError
from lit_aux.results.means import Stat, mean_of, scaled, unscaled_error
from lit_aux.runs.typed import Row

Key = tuple[Any, ...]
PLACES = (
    *("experiment", "task", "quantity", "layer"),
    *("k_main", "overlap", "correlation", "magnitude", "solver"),
)
"""Columns that say where in a grid a row is, beside setup, rescale factor, n_main and seed."""
SETUPS = ("STL", "MTL", "PT+FT", "STL (LP)", "PT+FT (LP)", "PT+FT (LoRA)", "STL (NTK)", "PT+FT (NTK)")


@dataclass
class CellValues:
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


def cells(rows: Iterable[Row], value: str, names: Sequence[str], log: bool = False) -> dict[Key, CellValues]:
    """Put rows into the cells that some columns make, in the order of those columns' values.

    Args:
        rows: Of :func:`~lit_aux.runs.reading.read_rows`.
        value: The column to look at. Rows with ``seeds`` and ``VALUE_se`` are means already.
        names: The columns that tell cells apart.
        log: Whether means are taken of log10 of the values.
    """
    found: dict[Key, CellValues] = {}
    values: dict[Key, dict[Any, list[float]]] = {}
    for row in rows:
        key = key_of(row, names)
        cell = found.setdefault(key, CellValues())
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
    good = (row for row in rows if row.get("error") is None and row.get(value) is not None)
    counts = Counter((*key_of(row, names), row["seed"]) for row in good if row.get("seed") is not None)
    return any(count > 1 for count in counts.values())


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


# Differences between setups, paired by seed


Treatment = tuple[str | None, float | None]
"""A setup and its rescale factor."""
Table = dict[Key, dict[Treatment, CellValues]]
"""By place in the grid (n_main among it), what each treatment has."""
_NO_FACTOR = (None, 1.0)


@dataclass(frozen=True)
class Difference:
    """How much more one treatment has than another at a place in the grid.

    Attributes:
        place: The place.
        treatment: The one.
        baseline: The other.
        stat: Mean difference over the seeds that both have, its standard error and their number. For
            tables that hold means alone, the difference of means and the root of the summed squared errors.
        interval: 95 % interval of the mean by Student's t; NaN where there are fewer than two pairs.
        lower: Seeds in which the treatment has less; None for tables that hold means alone.
    """

    place: Key
    treatment: Treatment
    baseline: Treatment
    stat: Stat
    interval: tuple[float, float]
    lower: int | None

    @property
    def clear(self) -> bool:
        """Whether the difference is beyond two standard errors."""
        return abs(self.stat.mean) > 2 * self.stat.error


def by_treatment(cells: Mapping[Key, CellValues]) -> Table:
    """Arrange cells whose last two names are setup and rescale factor by place, then treatment."""
    found: Table = {}
    for (*place, setup, rescale), cell in cells.items():
        found.setdefault(tuple(place), {})[setup, rescale] = cell
    return found


def differences(table: Table, baseline: str) -> Iterator[Difference]:
    """Yield every setup against a baseline, then every rescale factor against factor 1 of the same setup.

    A setup with a rescale factor is compared with the baseline of the same factor where it has one, else with
    the one that has none, or factor 1.

    Args:
        table: Of :func:`by_treatment`.
        baseline: A setup, STL say.
    """
    for place, treatments in table.items():
        for treatment in treatments:
            if treatment[0] != baseline:
                factors = (treatment[1], *_NO_FACTOR)
                other = next(((baseline, f) for f in factors if (baseline, f) in treatments), None)
                if other is not None:
                    yield from _compared(place, treatments, treatment, other)
    for place, treatments in table.items():
        for setup, factor in treatments:
            if factor not in _NO_FACTOR and (setup, 1.0) in treatments:
                yield from _compared(place, treatments, (setup, factor), (setup, 1.0))


def _compared(
    place: Key, treatments: Mapping[Treatment, CellValues], one: Treatment, other: Treatment
) -> Iterator[Difference]:
    found = difference(treatments[one], treatments[other])
    if found is not None:
        yield Difference(place, one, other, *found)


def difference(one: CellValues, other: CellValues) -> tuple[Stat, tuple[float, float], int | None] | None:
    """Return mean difference, interval and how many seeds are lower; None where nothing can be paired."""
    seeds = [seed for seed in one.by_seed if seed in other.by_seed]
    if seeds:
        gaps = [one.by_seed[seed] - other.by_seed[seed] for seed in seeds]
        stat = mean_of(gaps)
        return stat, interval(stat), sum(gap < 0 for gap in gaps)
    first, second = one.published, other.published
    if first is None or second is None:
        return None
    error = sqrt(first.error**2 + second.error**2)
    stat = Stat(first.mean - second.mean, error, min(first.seeds, second.seeds))
    return stat, (stat.mean - 1.96 * error, stat.mean + 1.96 * error), None


def interval(stat: Stat, level: float = 0.95) -> tuple[float, float]:
    """Return the interval in which the mean lies with a probability, by Student's t."""
    if stat.seeds < 2:
        return nan, nan
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    half = float(stdtrit(stat.seeds - 1, (1 + level) / 2)) * stat.error
    return stat.mean - half, stat.mean + half


@dataclass(frozen=True)
class Winner:
    """Who is best at a place in the grid.

    Attributes:
        place: The place.
        best: The treatment with the best mean.
        second: The runner-up.
        decided: Whether their difference, paired by seed, is beyond two standard errors; None where it
            cannot be known, since they share fewer than two seeds.
    """

    place: Key
    best: Treatment
    second: Treatment
    decided: bool | None


def winners(table: Table, higher: bool) -> Iterator[Winner]:
    """Yield who wins each place of the grid that has at least two treatments.

    Args:
        table: Of :func:`by_treatment`.
        higher: Whether more is better.
    """
    for place, treatments in table.items():
        means = {name: stat.mean for name, cell in treatments.items() if (stat := cell.stat) is not None}
        ranked = sorted(means, key=lambda name: (-means[name] if higher else means[name], _rank(name)))
        if len(ranked) < 2:
            continue
        best, second = ranked[:2]
        found = difference(treatments[best], treatments[second])
        known = found is not None and not isnan(found[0].error)
        decided = abs(found[0].mean) > 2 * found[0].error if found is not None and known else None
        if decided and found is not None and (found[0].mean > 0) != higher:
            decided = False  # on the seeds that both have, it is the other way round
        yield Winner(place, best, second, decided)


def _rank(name: Treatment) -> Any:
    return order("setup", name[0]), order("rescale", name[1])
