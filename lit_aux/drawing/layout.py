"""What a figure shows, before anything is drawn."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import TYPE_CHECKING, Protocol

from lit_aux.drawing.style import Look
from lit_aux.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Curve:
    """Values along one axis. All tuples have the same length, in the order of ``x``, or are empty."""

    key: str
    """What tells it from the other curves of its panel: a setup, a factor, a quantity."""
    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...] = ()
    """Lower end of the error bar: two standard errors below the mean; NaN where there is one seed."""
    high: tuple[float, ...] = ()
    """Its upper end."""
    seeds: tuple[int, ...] = ()
    """How many seeds each mean is of."""

    def within(self, first: float, last: float) -> "Curve":
        """Return the part of the curve from one place of the x axis to another."""
        kept = [i for i, x in enumerate(self.x) if first <= x <= last]
        columns = (self.x, self.mean, self.low, self.high, self.seeds)
        return Curve(self.key, *(tuple(column[i] for i in kept if column) for column in columns))  # type: ignore[arg-type]


class Mark(Protocol):
    """What a panel shows beside its curves."""

    def draw(self, axes: "Axes") -> None:
        """Draw it, when the curves are drawn and the limits are set."""


@dataclass(frozen=True)
class Panel:
    """A pair of axes and what is on them."""

    key: tuple[Hashable, ...]
    """What it is of, the same for our rows and published ones."""
    place: tuple[int, int]
    """Row and column in the figure."""
    curves: tuple[Curve, ...]
    x_label: str
    y_label: str
    """Panels of one label, and of one group, have the same limits."""
    title: str = ""
    row_title: str = ""
    """Written at the right of the last panel of a row."""
    group: str = ""
    x_scale: str = "log"
    y_scale: str = "log"
    ticks: tuple[str, ...] = ()
    """Names of the places 0, 1, ... of the x axis, where it is no quantity."""
    rows: tuple[str, ...] = ()
    """Names of the places 0, 1, ... of the y axis, from above, where it is no quantity."""
    level: float | None = None
    """Where a thin line goes across."""
    teacher: Curve | None = None
    """The same quantity of what was to be learned."""
    marks: tuple[Mark, ...] = ()
    bands: bool = False
    """Whether errors are bands, of curves with many places, and not bars."""
    bold: bool = False
    """Whether the title is."""
    x_ends: tuple[float, float] | None = None
    """Limits of the x axis, which may fall; those of the curves by default."""
    y_ends: tuple[float, float] | None = None
    """Limits of the y axis; those of the curves by default."""


@dataclass(frozen=True)
class Layout:
    """The panels of a figure, and how its curves look.

    Raises:
        ConfigurationError: If there are no panels.
    """

    panels: tuple[Panel, ...]
    rows: int
    """How many rows of the table it shows; 0 where it is of no table."""
    looks: Mapping[str, tuple[str, Look]]
    """Name in the legend and look of each key of a curve, in the order of the legend."""
    notes: tuple[str, ...] = ()
    """What a reader must know, for the terminal."""
    baseline: int | None = None
    """The n_main of the single-task runs by which losses are divided, if they are."""
    level_label: str = ""
    """Name in the legend of the panels' thin line."""
    title: str = ""
    """Above all panels."""
    caption: str | None = None
    """Above the legend; by default it says how many seeds means are of, and what error bars are."""
    patches: tuple[tuple[str, str], ...] = ()
    """Name in the legend and colour of grounds."""
    widths: tuple[float, ...] | None = None
    """Of the columns, relative to each other."""
    scale: float = 1.0
    """How much larger panels are than the rule says."""

    def __post_init__(self) -> None:
        if not self.panels:
            raise ConfigurationError("no row has what this figure shows")

    @property
    def seeds(self) -> tuple[int, int]:
        """The smallest and the largest number of seeds of a mean; 0 where nothing is a mean."""
        counts = [count for panel in self.panels for curve in panel.curves for count in curve.seeds]
        return min(counts, default=0), max(counts, default=0)


def side_by_side(count: int) -> list[tuple[int, int]]:
    """Return places for equal panels."""
    columns = count if count <= 3 else 2 if count == 4 else 3 if count <= 6 else max(4, ceil(sqrt(count)))
    return [divmod(number, columns) for number in range(count)]


def looks_of(curves: Sequence[str], looks: Sequence[Look]) -> dict[str, tuple[str, Look]]:
    """Return the looks of curves that are named in the legend as they are."""
    return {key: (key, look) for key, look in zip(curves, looks, strict=True)}
