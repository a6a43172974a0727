"""What a figure shows, before anything is drawn."""

from collections.abc import Mapping
from dataclasses import dataclass

from lit_aux.errors import ConfigurationError
from lit_aux.figures.panel import Panel
from lit_aux.figures.style import Look

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
