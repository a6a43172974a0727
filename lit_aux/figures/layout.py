"""What a figure shows and what is asked of it, before anything is drawn."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from lit_aux.errors import ConfigurationError
from lit_aux.figures.curves import Curve, Mean
from lit_aux.figures.style import Look

AUTO = -1


@dataclass(frozen=True)
class Request:
    """How curves are made from rows."""

    value: Literal["loss_best", "loss_final"] = "loss_best"
    """The loss of students that is drawn."""
    mean: Mean = "geometric"
    baseline: int | None = AUTO
    """The n_main of the single-task run by which ReLU students' losses are divided: the smallest by default;
    None for the losses themselves."""


@dataclass(frozen=True)
class Panel:
    """A pair of axes and the curves on them."""

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
    level: float | None = None
    """Where a thin line goes across."""
    teacher: Curve | None = field(default=None)
    """The same quantity of what was to be learned."""


MOST_PANELS = 60


@dataclass(frozen=True)
class Layout:
    """The panels of a figure, and how its curves look.

    Raises:
        ConfigurationError: If there are no panels, or too many to be read.
    """

    panels: tuple[Panel, ...]
    rows: int
    """How many rows of the table it shows."""
    looks: Mapping[str, tuple[str, Look]]
    """Name in the legend and look of each key of a curve, in the order of the legend."""
    notes: tuple[str, ...] = ()
    """What a reader must know, for the terminal."""
    baseline: int | None = None
    """The n_main of the single-task runs by which losses are divided, if they are."""
    level_label: str = ""
    """Name in the legend of the panels' thin line."""

    def __post_init__(self) -> None:
        if not self.panels:
            raise ConfigurationError("no row has what this figure shows")
        if len(self.panels) > MOST_PANELS:
            raise ConfigurationError(
                f"{len(self.panels)} panels are too many to be read ({MOST_PANELS} at most); narrow the rows "
                'down, as with --where "k_main=5"'
            )

    @property
    def seeds(self) -> tuple[int, int]:
        """The smallest and the largest number of seeds of a mean."""
        counts = [count for panel in self.panels for curve in panel.curves for count in curve.seeds]
        return min(counts), max(counts)
