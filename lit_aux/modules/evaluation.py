"""Losses and metrics of every task, in training and in evaluation; what does not fit is told in one line."""

import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torchmetrics import Metric

from lit_aux.errors import ConfigurationError, one_line
from lit_aux.metrics.double_precision import DoublePrecisionMetric
from lit_aux.models.multi_head_net import enlarged
from lit_aux.modules.losses import BatchLoss, batch_loss
from lit_aux.modules.predictions import answers_of
from lit_aux.modules.scoring import classification, metrics_of, score
from lit_aux.modules.targets import Targets, check_targets, kind_of, labels_of, targets_of
from lit_aux.phases.answers import Answers
from lit_aux.tasks import Task, described

_FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, NotImplementedError)
_OF_THE_DEVICE = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))
Stage = Literal["val", "test"]


class _MeanLoss(DoublePrecisionMetric):
    """A weighted mean that also tells what its weights sum to; NaN stays NaN.

    Sums are float64, so that it does not matter how samples are divided into batches and processes.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, loss: Tensor, size: Tensor | float) -> None:
        size = size.to(self.total) if isinstance(size, Tensor) else size
        self.total = self.total + loss.detach().to(self.total.device).double() * size
        self.count = self.count + size

    def compute(self) -> Tensor:
        return torch.stack((self.total / self.count, self.count))


class _TrainingLoss(_MeanLoss):
    """The mean alone."""

    def compute(self) -> Tensor:
        return super().compute()[0]


class TaskEvaluation(nn.Module):
    """A loss and a set of metrics for each task and stage.

    Args:
        tasks: What each task is, or its number of outputs.
        losses: One loss for all tasks or some by task; by default that of a task, or of its kind.
        metrics: Metrics by name for all tasks, or such by task, copied for each task and stage; by default
            those of a task, or what fits its kind and loss, see :func:`~lit_aux.modules.scoring.metrics_of`.

    Raises:
        ConfigurationError: If losses or metrics are given of an unknown task, or a task has one class alone.
    """

    _kinds: Mapping[str, Task] = MappingProxyType({})

    def __init__(
        self,
        tasks: Mapping[str, int | Task],
        losses: nn.Module | Mapping[str, nn.Module] | None = None,
        metrics: Mapping[str, Metric] | Mapping[str, Mapping[str, Metric]] | None = None,
    ) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self._checked: set[tuple[str, str]] = set()
        self._as_given: set[str] = set()
        by_name = described(tasks)
        kinds = {
            name: Task(task.outputs, task.kind, ignore=task.ignore)
            for name, task in by_name.items()
            if task.kind != "classification" or task.ignore is not None
        }
        if kinds:  # others are known by their losses
            self._kinds = kinds
        by_task = _losses(by_name, losses)
        scored = _metrics(by_name, metrics)
        _check_outputs(by_name, by_task, scored)
        # Keys hold a stage or a slash, so that no task's name meets one of ModuleDict's own attributes.
        self.losses = nn.ModuleDict({f"/{task}": by_task[task] for task in tasks})
        self.measures = nn.ModuleDict(
            {
                f"{stage}/{name}": metrics_of(task, by_task[name], scored[name])
                for stage in ("train", "val", "test")
                for name, task in by_name.items()
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

    def directions(self, task: str) -> dict[str, bool | None]:
        """Return a task's measures by name, and whether more is better; None where it is not known."""
        metrics = self._metrics("val", task)
        return {"loss": False, **{name: metric.higher_is_better for name, metric in metrics.items()}}

    def reset(self) -> None:
        """Forget what a fit that was interrupted has left."""
        self._checked.clear()
        self._as_given.clear()
        for module in self.modules():
            if isinstance(module, Metric):
                module.reset()

    def labels(self, task: str, y: Tensor) -> Tensor:
        """Return which targets of a task are there, bool in the shape of ``y``."""
        known = self._kinds.get(task)
        return labels_of(self.loss(task), y if known is None else known.without_ignored(y))

    def measure(self, task: str, outputs: Tensor, y: Any) -> BatchLoss:
        """Return the loss of one batch; nothing is counted."""
        loss, (outputs, targets) = self.loss(task), self._compared(task, outputs, y)
        with _OneLine(self._called(task), outputs, y):
            return batch_loss(loss, outputs, targets, as_given=task in self._as_given)

    def _compared(self, task: str, outputs: Tensor, y: Any) -> tuple[Tensor, Targets]:
        """Return outputs in the size of the targets, and these as the task's loss takes them."""
        known = self._kinds.get(task)
        with _OneLine(self._called(task), outputs, y):
            if known is not None:
                y = known.without_ignored(torch.as_tensor(y, device=outputs.device))
                outputs = enlarged(outputs, y.shape[-2:]) if known.kind == "dense" and y.ndim > 2 else outputs
            return outputs, targets_of(self.loss(task), outputs, y)

    def _called(self, task: str) -> str:
        """Return what an error begins with."""
        known = self._kinds.get(task)
        name = type(self.loss(task)).__name__
        if known is None:
            return f"losses: {name} of task {task!r}"
        return f"tasks: {task!r} of kind {known.kind!r}: {name}"

    def answers(self, task: str, outputs: Tensor, y: Any = None) -> Answers:
        """Return what outputs of a task say; labels, where there are some, in the same form."""
        outputs, targets = (outputs, None) if y is None else self._compared(task, outputs, y)
        return answers_of(self.loss(task), outputs, targets, self._metrics("test", task).values())

    def score(self, metric: Metric, task: str, outputs: Tensor, y: Any) -> None:
        """Add a batch to a metric that is like one of the task's."""
        loss, (outputs, targets) = self.loss(task), self._compared(task, outputs, y)

        def attempt(given: bool) -> None:
            score(deepcopy(metric), loss, outputs, targets, as_given=given)

        with _OneLine(f"metrics: {type(metric).__name__} of task {task!r}", outputs, y):
            as_given = targets.flat and _wants_as_given(targets, attempt)
            score(metric, loss, outputs, targets, as_given=as_given)

    def _check(self, stage: str, task: str, outputs: Tensor, targets: Targets) -> None:
        """Look at the first batch of a task and stage that has labels."""
        if targets.empty:
            return
        self._checked.add((stage, task))
        loss = self.loss(task)
        with _OneLine(self._called(task), outputs, targets.y):
            check_targets(loss, outputs, targets)
            if targets.kind == "own" and targets.flat and self._loss_wants_as_given(loss, outputs, targets):
                self._as_given.add(task)
        metrics = self._metrics(stage, task)
        names = _check_metrics(metrics, loss, outputs.detach(), targets, task)
        self._as_given |= {f"{stage}/{task}/{name}" for name in names}

    @staticmethod
    @torch.no_grad()
    def _loss_wants_as_given(loss: nn.Module, outputs: Tensor, targets: Targets) -> bool:
        with isolate_rng():

            def attempt(given: bool) -> None:
                batch_loss(deepcopy(loss), outputs, targets, as_given=given)

            return _wants_as_given(targets, attempt)

    def _step(self, stage: str, task: str, outputs: Tensor, y: Any) -> BatchLoss:
        """Add one batch to the measures of a task, and return its loss."""
        loss, (outputs, targets) = self.loss(task), self._compared(task, outputs, y)
        if (stage, task) not in self._checked:
            self._check(stage, task, outputs, targets)
        with _OneLine(self._called(task), outputs, y):
            found = batch_loss(loss, outputs, targets, as_given=task in self._as_given)
        cast(_MeanLoss, self.means[f"{stage}/{task}"]).update(found.mean, found.count)
        for name, metric in self._metrics(stage, task).items():
            with _OneLine(f"metrics: {name} ({type(metric).__name__}) of task {task!r}", outputs, y):
                as_given = f"{stage}/{task}/{name}" in self._as_given
                score(metric, loss, outputs.detach(), targets, as_given=as_given)
        return found

    def train_step(self, task: str, outputs: Tensor, y: Any) -> BatchLoss:
        """Return the loss of one batch, after adding it to the task's training measures.

        Raises:
            ConfigurationError: If outputs and targets are not what loss and metrics are for.
        """
        return self._step("train", task, outputs, y)

    def training_measures(self, task: str) -> dict[str, Metric]:
        """Return a task's training measures by name, which whoever logs them resets."""
        return {"loss": cast(Metric, self.means[f"train/{task}"]), **self._metrics("train", task)}

    def training_count(self, task: str) -> Tensor:
        """Return what a task's labels of the epoch sum to."""
        return cast(_MeanLoss, self.means[f"train/{task}"]).count

    def update(self, stage: Stage, task: str, outputs: Tensor, y: Any) -> None:
        """Add one batch to the measures of a stage.

        Raises:
            ConfigurationError: If outputs and targets are not what loss and metrics are for.
        """
        self._step(stage, task, outputs, y)

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


def _losses(
    tasks: Mapping[str, Task], losses: nn.Module | Mapping[str, nn.Module] | None
) -> dict[str, nn.Module]:
    """Return the loss of each task."""
    for loss in losses.values() if isinstance(losses, Mapping) else [losses]:
        if loss is not None and (not isinstance(loss, nn.Module) or type(loss) is nn.Module):
            raise ConfigurationError(
                f"losses: {loss!r} is no loss; name one (torch.nn.MSELoss), or leave it out"
            )
    if isinstance(losses, Mapping):
        if not losses or not set(losses) <= set(tasks):
            raise ConfigurationError(
                f"losses: given for {', '.join(losses) or 'no task'}, but the tasks are {', '.join(tasks)}"
            )
        return {name: losses[name] if name in losses else task.build_loss() for name, task in tasks.items()}
    if losses is not None:
        return dict.fromkeys(tasks, losses)
    shared = nn.CrossEntropyLoss()  # one for all, as it is one to the identity
    return {name: shared if _is_plain(task) else task.build_loss() for name, task in tasks.items()}


def _is_plain(task: Task) -> bool:
    """Whether a task is a classification with cross-entropy and nothing else said of it."""
    return task.kind == "classification" and task.loss is None and task.class_weights is None


def _metrics(
    tasks: Mapping[str, Task], metrics: Mapping[str, Metric] | Mapping[str, Mapping[str, Metric]] | None
) -> dict[str, Mapping[str, Metric] | None]:
    """Return the metrics of each task, None for what fits it."""
    own = {name: task.metrics for name, task in tasks.items()}
    if metrics is None:
        return {**own}
    by_task = [isinstance(found, Mapping) for found in metrics.values()]
    if not any(by_task):
        return dict.fromkeys(tasks, cast(Mapping[str, Metric], metrics))
    if not all(by_task) or not set(metrics) <= set(tasks):
        raise ConfigurationError(
            f"metrics: given for {', '.join(metrics)}, but the tasks are {', '.join(tasks)}; give metrics by "
            "name, the same for all tasks, or {task: {name: metric}}"
        )
    return {**own, **cast(Mapping[str, Mapping[str, Metric]], metrics)}


def _check_outputs(
    tasks: Mapping[str, Task],
    losses: Mapping[str, nn.Module],
    metrics: Mapping[str, Mapping[str, Metric] | None],
) -> None:
    """Refuse one output where there is nothing to choose from."""
    for name, task in tasks.items():
        kind = kind_of(losses[name])
        told = metrics[name] is not None or task.kind in ("regression", "multilabel")
        if task.outputs < 2 and (kind in ("classes", "distributions") or (not told and kind == "own")):
            raise ConfigurationError(
                f"tasks: {name!r} has one output, which is no classification; give losses and metrics, "
                "or students (DiagonalNet, ReLUNet) as the backbone of teacher data"
            )


class _OneLine:
    """Say in one line what a loss or metric does not take, in place of its own error.

    A context manager that costs little: it is entered several times in every step.

    Args:
        what: Who raises, as ``losses: MSELoss of task 'main'``.
        outputs: For their shape.
        y: The targets.
    """

    def __init__(self, what: str, outputs: Tensor, y: object) -> None:
        self.what, self.outputs, self.y = what, outputs, y

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ConfigurationError):
            raise ConfigurationError(f"{self.what} {error}") from error
        if isinstance(error, _FAILURES) and not isinstance(error, _OF_THE_DEVICE):
            y = self.y
            given = f"{y.dtype} {tuple(y.shape)}" if isinstance(y, Tensor) else f"of type {type(y).__name__}"
            raise ConfigurationError(
                f"{self.what} refuses outputs {tuple(self.outputs.shape)} and targets "
                f"{given.removeprefix('torch.')}: {one_line(error)}"
            ) from error


def _check_metrics(
    metrics: Mapping[str, Metric], loss: nn.Module, outputs: Tensor, targets: Targets, task: str
) -> set[str]:
    """Try copies of metrics on a batch.

    Returns:
        The names of those that want outputs (B, 1) and targets (B,) as they are.

    Raises:
        ConfigurationError: Naming the metric that does not take the batch.
    """
    as_given = set()
    for name, metric in metrics.items():
        what = f"metrics: {name} ({type(metric).__name__}) of task {task!r}"
        per_output = targets.y.is_floating_point() or targets.y.shape == outputs.shape
        if classification(metric) == "Multiclass" and targets.kind != "distributions" and per_output:
            raise ConfigurationError(
                f"{what} compares classes, and the targets are a {targets.y.dtype} for each output; give "
                "metrics of another kind, as MultilabelAccuracy or MeanAbsoluteError".replace("torch.", "")
            )

        def attempt(given: bool, metric: Metric = metric) -> None:
            score(deepcopy(metric), loss, outputs, targets, as_given=given)

        with _OneLine(what, outputs, targets.y):
            if _wants_as_given(targets, attempt):
                as_given.add(name)
    return as_given


def _wants_as_given(targets: Targets, attempt: Callable[[bool], None]) -> bool:
    """Find how a loss or metric takes one output an example: both (B,), or outputs (B, 1) and targets (B,).

    Of the first it can make nothing wrong; of the second, whoever subtracts them makes (B, B).
    """
    if targets.flat:
        try:
            attempt(False)
        except _FAILURES:
            attempt(True)
            return True
        return False
    attempt(False)
    return False
