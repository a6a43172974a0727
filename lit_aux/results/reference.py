"""Our cells beside published ones, and how many of them agree."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, sqrt

from lit_aux.errors import ConfigurationError
from lit_aux.results.means import Stat
from lit_aux.results.statistics import CellValues, Key, cells
from lit_aux.runs.typed import Row

AXES = ("setup", "overlap", "k_main", "correlation", "magnitude", "rescale", "n_main")
LEAST = 0.05
"""Means of log10(loss) that differ by less agree, however sure they are."""


@dataclass(frozen=True)
class Compared:
    """A cell that both tables have, or the reference alone.

    Attributes:
        key: Its place, by the columns of :attr:`ReferenceComparison.names`.
        ours: Our mean; None where we have no run of it.
        published: The published mean.
        allowed: By how much the means may differ.
    """

    key: Key
    ours: Stat | None
    published: Stat
    allowed: float

    @property
    def agrees(self) -> bool:
        """Whether we have the cell and it agrees."""
        return self.ours is not None and abs(self.ours.mean - self.published.mean) <= self.allowed


@dataclass(frozen=True)
class ReferenceComparison:
    """Every cell of a reference.

    Attributes:
        names: The columns that tell cells apart.
        value: The column that is compared.
        log: Whether means are of log10.
        cells: The cells, in the order of their places.
    """

    names: tuple[str, ...]
    value: str
    log: bool
    cells: tuple[Compared, ...]

    def by_setup(self) -> dict[str, tuple[int, int, int]]:
        """Return for each setup how many cells agree, how many we have, and how many are published."""
        counts: dict[str, tuple[int, int, int]] = {}
        for cell in self.cells:
            setup = str(cell.key[self.names.index("setup")])
            agree, have, published = counts.get(setup, (0, 0, 0))
            counts[setup] = agree + cell.agrees, have + (cell.ours is not None), published + 1
        return counts


def compare(ours: Sequence[Row], published: Sequence[Row]) -> ReferenceComparison:
    """Compare cells with those of a published table.

    Cells are told apart by the columns that both tables have. Tables of runs: means of log10(loss_best)
    agree if they differ by at most the larger of .05 and two standard errors of the difference. Tables of
    accuracies, which hold means: accuracies agree within two standard errors of the difference; where we have
    one seed alone, its error is taken from the published spread.

    Args:
        ours: Rows of our table. Where some are trained, those that were solved (``exact``) are left out;
            where the reference knows no rescale factor, so are those with another than 1.
        published: Rows of the reference.

    Raises:
        ConfigurationError: If the tables have no cell in common, or the reference is of neither kind.
    """
    value = next((name for name in ("loss_best", "accuracy") if _has(published, name)), None)
    if value is None or not _has(published, "setup"):
        raise ConfigurationError(
            "--reference: the file has neither loss_best nor accuracy by setup; give a table of runs or of "
            "accuracies"
        )
    log = value == "loss_best"
    ours = _comparable(ours, published)
    names = tuple(name for name in AXES if _has(ours, name) and _has(published, name))
    names = (*_kinds(ours, published), *names)
    mine, theirs = cells(ours, value, names, log), cells(published, value, names, log)
    compared = tuple(_each(mine, theirs, log))
    if not any(cell.ours for cell in compared):
        raise ConfigurationError(
            f"--reference: no cell is in both tables (by {', '.join(names)}, of rows with {value})"
        )
    return ReferenceComparison(names, value, log, compared)


def _each(mine: Mapping[Key, CellValues], theirs: Mapping[Key, CellValues], log: bool) -> Iterator[Compared]:
    for key, cell in theirs.items():
        published = cell.stat
        if published is None:
            continue
        own = mine[key].stat if key in mine else None
        error = sqrt(_known(own, published, log) ** 2 + _known(published, published, log) ** 2)
        yield Compared(key, own, published, max(LEAST, 2 * error) if log else 2 * error)


def _known(stat: Stat | None, published: Stat, log: bool) -> float:
    """Return a standard error, 0 where it is unknown; of one accuracy, the published deviation."""
    if stat is None:
        return 0.0
    if not isnan(stat.error):
        return stat.error
    unknown = log or isnan(published.error)
    return 0.0 if unknown else published.error * sqrt(published.seeds / stat.seeds)


def _kinds(ours: Sequence[Row], published: Sequence[Row]) -> list[str]:
    """Return which of experiment and task tell cells apart: they do where a table has several.

    Raises:
        ConfigurationError: If the other table does not say which of them its rows are of.
    """
    found = []
    for name in ("experiment", "task"):
        mine, theirs = ({row.get(name) for row in rows} for rows in (ours, published))
        if len(mine) < 2 and len(theirs) < 2:
            continue
        if {None} in (mine, theirs):
            which, values = ("our", mine) if theirs == {None} else ("the reference's", theirs)
            shown = ", ".join(sorted(str(value) for value in values - {None}))
            choose = f"; choose with --where {name}=..." if which == "our" else ""
            raise ConfigurationError(
                f"--reference: {which} rows are of several {name}s ({shown}), which are not compared with "
                f"rows that do not say theirs{choose}"
            )
        found.append(name)
    return found


def _has(rows: Sequence[Row], name: str) -> bool:
    return any(row.get(name) is not None for row in rows)


def _comparable(ours: Sequence[Row], published: Sequence[Row]) -> list[Row]:
    good = [row for row in ours if row["error"] is None]
    if any(row["solver"] not in (None, "exact") for row in good):
        good = [row for row in good if row["solver"] != "exact"]
    if not _has(published, "rescale"):
        good = [row for row in good if row["rescale"] in (None, 1.0)]
    return good
