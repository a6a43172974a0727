"""Means over seeds with standard errors, cell by cell; differences paired by seed, and who wins."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import floor, isnan, nan, sqrt
from statistics import fmean
from typing import Any

from lit_aux.errors import ConfigurationError
from lit_aux.results.means import Stat, mean_of, scaled, stat_of, unscaled_error
from lit_aux.results.significance import FEWEST, FLIPPED, LEVEL, NEAR, p_of, quantile, seeds_needed, sign_flip
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

    @cached_property
    def stat(self) -> Stat | None:
        """Mean over seeds; None where there is no value."""
        if self.published is not None:
            return self.published
        return stat_of(self.by_seed.values())


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
        df: Degrees of freedom of the error; of means alone, Welch's.
        gaps: The differences, one a seed; empty for tables that hold means alone.
    """

    place: Key
    treatment: Treatment
    baseline: Treatment
    stat: Stat
    df: float
    gaps: tuple[float, ...] = ()

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean by Student's t; NaN where there are fewer than two pairs."""
        half = quantile(floor(self.df)) * self.stat.error if self.df >= 1 else nan
        return self.stat.mean - half, self.stat.mean + half

    @property
    def lower(self) -> int | None:
        """Seeds in which the treatment has less; None for tables that hold means alone."""
        return sum(gap < 0 for gap in self.gaps) if self.gaps else None

    @cached_property
    def p(self) -> float:
        """Student's two-sided p of no difference; NaN where there are fewer than two pairs."""
        return p_of(self.stat.mean, self.stat.error, self.df)

    @cached_property
    def flip_p(self) -> float:
        """The exact sign-flip test's; NaN for numbers of seeds that it is not done for."""
        return sign_flip(self.gaps) if len(self.gaps) in FLIPPED else nan

    @property
    def known(self) -> bool:
        """Whether there are seeds enough for a verdict."""
        return self.stat.seeds >= FEWEST and not isnan(self.p)

    @property
    def clear(self) -> bool:
        """Whether there is a difference: both tests say so, with at least three seeds."""
        return self.known and self.p < LEVEL and not self.flip_p >= LEVEL

    @property
    def near(self) -> bool:
        """Whether the verdict hangs by a thread: p is near the threshold, or the tests disagree."""
        low, high = NEAR
        return self.known and (low <= self.p <= high or (self.p < LEVEL and not self.clear))

    @property
    def needed(self) -> int | None:
        """About how many seeds would decide, if difference and spread stay; None above 1000, or unknown."""
        if self.clear or isnan(self.stat.error):
            return None
        found = seeds_needed(self.stat.mean, self.stat.error * sqrt(self.stat.seeds))
        return None if found is None else max(found, self.stat.seeds + 1)


def by_treatment(cells: Mapping[Key, CellValues]) -> Table:
    """Arrange cells whose last two names are setup and rescale factor by place, then treatment."""
    found: Table = {}
    for (*place, setup, rescale), cell in cells.items():
        found.setdefault(tuple(place), {})[setup, rescale] = cell
    return found


def comparisons(table: Table, baseline: str) -> Iterator[tuple[Key, Treatment, Treatment]]:
    """Yield what is compared: setups with a baseline, then rescale factors with factor 1 of their setup.

    A setup with a rescale factor is compared with the baseline of the same factor where it has one, else with
    the one that has none, or factor 1.

    Args:
        table: Of :func:`by_treatment`.
        baseline: A setup, STL say.

    Yields:
        Place, treatment, and the treatment that it is compared with.
    """
    for place, treatments in table.items():
        for treatment in treatments:
            if treatment[0] != baseline:
                factors = (treatment[1], *_NO_FACTOR)
                other = next(((baseline, f) for f in factors if (baseline, f) in treatments), None)
                if other is not None:
                    yield place, treatment, other
    for place, treatments in table.items():
        for setup, factor in treatments:
            if factor not in _NO_FACTOR and (setup, 1.0) in treatments:
                yield place, (setup, factor), (setup, 1.0)


def differences(table: Table, baseline: str) -> Iterator[Difference]:
    """Yield the difference of each of the :func:`comparisons` in which something can be paired."""
    found = (difference(table, *compared) for compared in comparisons(table, baseline))
    return (one for one in found if one is not None)


def difference(table: Table, place: Key, one: Treatment, other: Treatment) -> Difference | None:
    """Return the difference of two treatments, paired by seed; None where nothing can be paired."""
    first, second = table[place][one], table[place][other]
    gaps = tuple(
        first.by_seed[seed] - second.by_seed[seed] for seed in first.by_seed if seed in second.by_seed
    )
    if gaps:
        return Difference(place, one, other, mean_of(gaps), len(gaps) - 1, gaps)
    if first.published is None or second.published is None:
        return None
    means = first.published, second.published
    squares = [stat.error**2 for stat in means]
    parts = [square**2 / max(1, stat.seeds - 1) for square, stat in zip(squares, means, strict=True)]
    df = sum(squares) ** 2 / sum(parts) if sum(parts) > 0 else 1.0
    stat = Stat(means[0].mean - means[1].mean, sqrt(sum(squares)), min(stat.seeds for stat in means))
    return Difference(place, one, other, stat, df)


@dataclass(frozen=True)
class Winner:
    """Who is best at a place in the grid.

    Attributes:
        place: The place.
        best: The treatment with the best mean.
        second: The runner-up.
        difference: How much more the best has; None where the two share no seed.
        higher: Whether more is better.
    """

    place: Key
    best: Treatment
    second: Treatment
    difference: Difference | None
    higher: bool

    @property
    def decided(self) -> bool | None:
        """Whether the best is clearly ahead; None where the two share fewer than three seeds."""
        if self.difference is None or not self.difference.known:
            return None
        ahead = (self.difference.stat.mean > 0) == self.higher  # on the seeds that both have, it may not be
        return self.difference.clear and ahead


def winners(table: Table, higher: bool) -> Iterator[Winner]:
    """Yield who wins each place of the grid that has at least two treatments.

    Args:
        table: Of :func:`by_treatment`.
        higher: Whether more is better.
    """
    for place, treatments in table.items():
        means = {name: stat.mean for name, cell in treatments.items() if (stat := cell.stat) is not None}
        ranked = sorted(means, key=lambda name: (-means[name] if higher else means[name], _rank(name)))
        if len(ranked) > 1:
            best, second = ranked[:2]
            yield Winner(place, best, second, difference(table, place, best, second), higher)


def _rank(name: Treatment) -> Any:
    return order("setup", name[0]), order("rescale", name[1])
