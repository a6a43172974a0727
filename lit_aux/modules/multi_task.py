"""Several tasks at once."""

from typing import Any, Literal

from torch import nn

from lit_aux.modules.base import AuxiliaryModule
from lit_aux.phases.phase import Phase, PhaseSettings


class MultiTaskModule(AuxiliaryModule):
    """Trains all tasks together on shared features (MTL).

    Args:
        backbone: A network that returns features (batch, features), or the name of a timm network.
        tasks: Number of outputs of each task; the command line takes it from the data.
        train_tasks: The tasks that train; all by default.
        task_weights: Weight of each task's loss; 1 by default.
        schedule: ``"interleaved"``: every step holds a batch of every task, tasks with fewer images are
            reshuffled and cycled, and the phase stops when every task's loss is below the threshold.
            ``"published"`` (Lippl & Lindsey 2023, CIFAR-100): each epoch all main batches, then all
            auxiliary ones weighted so that both have the same say; the phase stops on the first task's loss
            alone, which leaves the others under-trained.
        settings: Optimizer, schedule and limits.
        **kwargs: As for :class:`AuxiliaryModule`.
    """

    def __init__(
        self,
        backbone: nn.Module | str,
        tasks: dict[str, int] | None = None,
        *,
        train_tasks: list[str] | None = None,
        task_weights: dict[str, float] | None = None,
        schedule: Literal["interleaved", "published"] = "interleaved",
        settings: PhaseSettings | None = None,
        **kwargs: Any,
    ) -> None:
        self.train_tasks = train_tasks
        self.task_weights = task_weights
        self.schedule = schedule
        self._settings = settings or PhaseSettings()
        super().__init__(backbone, tasks, **kwargs)
        _ = self.phases  # what does not fit is said now, not when training starts

    def default_phases(self) -> list[Phase]:
        """Return the one phase on all tasks."""
        tasks = self.train_tasks or list(self.tasks)
        settings = dict(vars(self._settings))
        published = self.schedule == "published"
        if published and settings["stop_on"] is None:
            settings["stop_on"] = tasks[:1]
        phase = Phase(
            name="train",
            tasks=tasks,
            task_weights=self.task_weights,
            order="sequential" if published else "interleaved",
            balance_tasks=published,
            **settings,
        )
        return [phase]
