"""One task, from scratch: the baseline."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from lit_aux.errors import check_known
from lit_aux.modules.base import AuxiliaryModule
from lit_aux.phases.phase import Phase, PhaseSettings
from lit_aux.tasks import Task


class SingleTaskModule(AuxiliaryModule):
    """Trains one task alone (STL).

    Args:
        backbone: A network that returns features (batch, features), or the name of a timm network.
        tasks: What each task is, or its number of classes; the command line takes it from the data.
        task: The task that trains.
        settings: Optimizer, schedule and limits.
        **kwargs: As for :class:`AuxiliaryModule`.
    """

    def __init__(
        self,
        backbone: nn.Module | str,
        tasks: Mapping[str, int | Task] | None = None,
        *,
        task: str = "main",
        settings: PhaseSettings | None = None,
        **kwargs: Any,
    ) -> None:
        self.task = task
        self._settings = settings or PhaseSettings()
        super().__init__(backbone, tasks, **kwargs)
        _ = self.phases  # what does not fit is said now, not when training starts

    def default_phases(self) -> list[Phase]:
        """Return the one phase on the one task."""
        check_known("task", self.task, self.tasks)
        return [Phase(name="train", tasks=[self.task], **vars(self._settings))]
