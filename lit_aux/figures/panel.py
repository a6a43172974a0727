"""What one panel of a figure shows, before anything is drawn."""

from collections.abc import Hashable
from dataclasses import dataclass, field

from lit_aux.figures.curves import Curve


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
