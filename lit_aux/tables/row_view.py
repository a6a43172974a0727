"""What a table is asked: which column, on which scale, and by which columns cells are told apart."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lit_aux.experiments.means import TIMES, Stat, kind_of_mean, spelled_mean
from lit_aux.tables.pairs import Treatment
from lit_aux.tables.reading import Row
from lit_aux.tables.selection import spelled, varying
from lit_aux.tables.statistics import PLACES, order

__all__ = ["TIMES", "RowView", "size_column"]


@dataclass(frozen=True)
class RowView:
    """Rows and how they are looked at.

    Attributes:
        rows: The rows, failed ones among them.
        value: The column.
        log: Whether means are of log10, and so geometric.
        higher: Whether more is better; None where neither is.
        by: Columns beside the table's own that tell cells apart.
    """

    rows: Sequence[Row]
    value: str
    log: bool
    higher: bool | None
    by: tuple[str, ...] = ()

    @property
    def good(self) -> list[Row]:
        """The rows of runs that did not fail."""
        return [row for row in self.rows if row.get("error") is None]

    @property
    def places(self) -> list[str]:
        """The columns that say where in the grid a row is and that vary; n_main last."""
        differ, _ = varying(self.good, PLACES)
        if "solver" in differ and not self._several_solvers():
            differ.remove("solver")
        return [*differ, *(name for name in self.by if name not in differ), "n_main"]

    @property
    def factors(self) -> bool:
        """Whether there are several rescale factors."""
        return len({row.get("rescale") for row in self.good} - {None}) > 1

    def _several_solvers(self) -> bool:
        """Whether a setup has rows of several solvers; else the solver follows from the setup."""
        pairs = {(row.get("setup"), row.get("solver")) for row in self.good}
        return len(pairs) > len({setup for setup, _ in pairs})

    @property
    def same(self) -> str:
        """What all rows have in common, in words."""
        _, same = varying(self.good, (*PLACES, "setup", "rescale"))
        return ", ".join(f"{name} {spelled(value)}" for name, value in same.items())

    def sizes(self) -> list[int | None]:
        """Return every n_main, in order."""
        return sorted({row.get("n_main") for row in self.good}, key=lambda n: order("n_main", n))

    def only(self, rows: Sequence[Row]) -> "RowView":
        """Return the same look at other rows."""
        return replace(self, rows=rows)

    def name(self, treatment: Treatment) -> str:
        """Name a setup, with its rescale factor where several are used."""
        setup, factor = treatment
        return f"{setup or ''}" if factor is None or not self.factors else f"{setup or ''} s={factor:g}"

    def number(self, stat: Stat | None) -> str:
        """Write a mean and its standard error."""
        return spelled_mean(stat, self.log)

    def kind(self) -> str:
        """Say what :meth:`number` writes."""
        return f"{self.value}: {kind_of_mean(self.log)}"


def size_column(n: int | None) -> str:
    """Name the column of an n_main."""
    return "all" if n is None else f"n {n}"
