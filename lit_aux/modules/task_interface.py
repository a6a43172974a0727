"""How callbacks evaluate the tasks of a module one by one."""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any, cast

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric

from lit_aux.modules.evaluation import TaskEvaluation
from lit_aux.modules.targets import labels_of


class TaskInterface(LightningModule):
    """The part of the project's modules that :class:`lit_aux.callbacks.TaskModel` asks for."""

    net: Any
    evaluation: TaskEvaluation

    def forward(self, x: Tensor, task: str | None = None) -> Tensor | dict[str, Tensor]:
        """Return the logits of one task, or of every task by name."""
        return self.net(x, task)  # type: ignore[no-any-return]

    def task_outputs(self, task: str, x: Tensor) -> Tensor:
        """Return the logits of one task, past any data-parallel wrapper."""
        return self.net(x, task)  # type: ignore[no-any-return]

    def task_loss(self, task: str, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the unweighted loss of one task on a batch; nothing is counted or logged."""
        return self.evaluation.measure(task, outputs, y).value

    def task_mean(self, task: str, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return the mean loss over the labels of a batch, detached, and what it weighs beside others."""
        loss = self.evaluation.measure(task, outputs, y)
        return loss.mean, loss.count

    def task_labels(self, task: str, y: Tensor) -> Tensor:
        """Return which targets are there, bool in the shape of ``y``."""
        return labels_of(self.evaluation.loss(task), y)

    def task_score(self, task: str, metric: Metric, outputs: Tensor, y: Tensor) -> None:
        """Add the labels of a batch to one of ``task_metrics``."""
        self.evaluation.score(metric, task, outputs, y)

    def task_metrics(self, task: str) -> dict[str, Metric]:
        """Return a copy of a task's metrics by name, empty."""
        found = cast(nn.ModuleDict, self.evaluation.measures[f"val/{task}"])
        copies = {name: deepcopy(cast(Metric, metric)) for name, metric in found.items()}
        for metric in copies.values():
            metric.reset()
        return copies

    def readout_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters of the readout; all others are shared by the tasks."""
        return list(self.net.readout_parameters())
