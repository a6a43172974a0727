"""What one run measured of its tasks on the way."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lit_aux.trajectories.series import Series


@dataclass(frozen=True)
class Trajectory:
    """A run: how it trained, and what was measured of which task.

    Attributes:
        path: The file it was read from.
        method: The multi-task method; ``STL`` for a single task.
        seed: Its seed; None where the run had none.
        trained: The tasks that it trained on.
        phase: The phase that is looked at.
        series: Measures by task and name.
    """

    path: Path
    method: str
    seed: int | None
    trained: tuple[str, ...]
    phase: str
    series: Mapping[tuple[str, str], Series]

    @property
    def single(self) -> bool:
        """Whether it trained on one task alone."""
        return len(self.trained) == 1

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that it trained on and measured, in the order of ``trained``."""
        measured = {task for task, _ in self.series}
        return tuple(task for task in self.trained if task in measured)

    @property
    def last_step(self) -> int:
        """The last optimizer step at which anything was measured."""
        return max((int(series.step[-1]) for series in self.series.values()), default=0)

    def until(self, step: int) -> "Trajectory":
        """Return the run as it was up to a step; measures of which nothing is left are gone."""
        cut = {key: series.until(step) for key, series in self.series.items()}
        return replace(self, series={key: series for key, series in cut.items() if len(series.value)})
