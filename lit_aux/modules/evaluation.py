"""Losses and metrics of every task, in training and in evaluation."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Literal, Self, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from lit_aux.errors import ConfigurationError

Stage = Literal["val", "test"]


class _MeanLoss(Metric):
    """A size-weighted mean that also tells how many samples it is of; NaN stays NaN.

    Sums are float64, so that it does not matter how samples are divided into batches and processes.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, loss: Tensor, size: int) -> None:
        self.total = self.total + loss.detach().to(self.total.device).double() * size
        self.count = self.count + size

    def compute(self) -> Tensor:
        return torch.stack((self.total / self.count, self.count))

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Self:
        """Follow moves to another device, but stay in float64 whatever dtype the module is cast to."""

        def move(tensor: Tensor) -> Tensor:
            device = fn(torch.empty(0, device=tensor.device)).device
            return tensor if device.type == "mps" else tensor.to(device)  # MPS has no float64

        super()._apply(move, exclude_state)
        return self


class _TrainingLoss(_MeanLoss):
    """The mean alone."""

    def compute(self) -> Tensor:
        return super().compute()[0]


class TaskEvaluation(nn.Module):
    """A loss and a set of metrics for each task and stage.

    Args:
        tasks: Number of outputs of each task.
        losses: One loss for all tasks or one by task; cross-entropy by default.
        metrics: Metrics by name, copied for each task and stage; accuracy by default.

    Raises:
        ConfigurationError: If losses are given by task and one is missing, or accuracy has no classes.
    """

    def __init__(
        self,
        tasks: Mapping[str, int],
        losses: nn.Module | Mapping[str, nn.Module] | None = None,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        super().__init__()
        single = [task for task, outputs in tasks.items() if outputs < 2]
        if single and metrics is None:
            raise ConfigurationError(
                f"tasks: {single[0]!r} has one output, which is no classification; give losses and metrics, "
                "or students (DiagonalNet, ReLUNet) as the backbone of teacher data"
            )
        if isinstance(losses, Mapping) and set(losses) != set(tasks):
            raise ConfigurationError(
                f"losses: given for {', '.join(losses)}, but the tasks are {', '.join(tasks)}; one for each"
            )
        self.tasks = tuple(tasks)
        shared = nn.CrossEntropyLoss() if losses is None else losses
        by_task = shared if isinstance(shared, Mapping) else dict.fromkeys(tasks, shared)
        # Keys hold a stage or a slash, so that no task's name meets one of ModuleDict's own attributes.
        self.losses = nn.ModuleDict({f"/{task}": by_task[task] for task in tasks})
        self.measures = nn.ModuleDict(
            {
                f"{stage}/{task}": _metrics(n, metrics)
                for stage in ("train", "val", "test")
                for task, n in tasks.items()
            }
        )
        self.means = nn.ModuleDict(
            {f"{stage}/{task}": _MeanLoss() for stage in ("val", "test") for task in tasks}
            | {f"train/{task}": _TrainingLoss() for task in tasks}
        )

    def _metrics(self, stage: str, task: str) -> dict[str, Metric]:
        found = cast(nn.ModuleDict, self.measures[f"{stage}/{task}"])
        return {name: cast(Metric, metric) for name, metric in found.items()}

    def loss(self, task: str) -> nn.Module:
        """Return the loss of a task."""
        return self.losses[f"/{task}"]

    def reset(self) -> None:
        """Forget what a fit that was interrupted has left."""
        for module in self.modules():
            if isinstance(module, Metric):
                module.reset()

    def train_step(self, task: str, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the loss of one batch, after adding it to the task's training measures."""
        loss: Tensor = self.loss(task)(outputs, y)
        cast(_MeanLoss, self.means[f"train/{task}"]).update(loss, len(y))
        for metric in self._metrics("train", task).values():
            metric.update(outputs.detach(), y)
        return loss

    def training_measures(self, task: str) -> dict[str, Metric]:
        """Return a task's training measures by name, which whoever logs them resets."""
        return {"loss": cast(Metric, self.means[f"train/{task}"]), **self._metrics("train", task)}

    def update(self, stage: Stage, task: str, outputs: Tensor, y: Tensor) -> None:
        """Add one batch to the measures of a stage."""
        cast(_MeanLoss, self.means[f"{stage}/{task}"]).update(self.loss(task)(outputs, y), len(y))
        for metric in self._metrics(stage, task).values():
            metric.update(outputs, y)

    def compute(self, stage: Stage) -> dict[str, dict[str, Tensor]]:
        """Return loss and metrics of each task that any process has seen, and start afresh."""
        result: dict[str, dict[str, Tensor]] = {}
        for task in self.tasks:
            mean = cast(_MeanLoss, self.means[f"{stage}/{task}"])
            metrics = self._metrics(stage, task)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
                loss, count = mean.compute()
                values = {name: metric.compute() for name, metric in metrics.items()}
            for metric in (mean, *metrics.values()):
                metric.reset()
            if count > 0:
                result[task] = {"loss": loss, **values}
        return result


def _metrics(size: int, metrics: Mapping[str, Metric] | None) -> nn.ModuleDict:
    if metrics is None:
        return nn.ModuleDict({"accuracy": MulticlassAccuracy(num_classes=size, average="micro")})
    return nn.ModuleDict({name: deepcopy(metric) for name, metric in metrics.items()})
