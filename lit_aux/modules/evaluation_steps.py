"""Validation and test, task by task."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.modules.evaluation import Stage
from lit_aux.modules.task_interface import TaskInterface
from lit_aux.phases.phase import Phase

Batch = Mapping[str, tuple[Tensor, Tensor]]


def present(batch: Any) -> Batch:
    """Return the tasks of a batch that have one: combined loaders give None for those that are exhausted.

    Raises:
        ConfigurationError: If it is no batch of tasks.
    """
    if not isinstance(batch, Mapping):
        raise ConfigurationError(f"data: a batch is a {type(batch).__name__}; it must be {{task: (x, y)}}")
    found = {task: pair for task, pair in batch.items() if pair is not None}
    for task, pair in found.items():
        if not (isinstance(pair, list | tuple) and len(pair) == 2):
            raise ConfigurationError(
                f"data: a batch of task {task!r} is a {type(pair).__name__}; it must be a pair (x, y)"
            )
    return found


def check_tasks(batch: Batch, phase: Phase | None) -> None:
    """Refuse a training batch of other tasks than those of the phase.

    Raises:
        ConfigurationError: Naming the task.
    """
    if not batch:
        raise ConfigurationError("the training data gave a batch without any task")
    for task in batch:
        if phase is not None and task not in phase.tasks:
            raise ConfigurationError(
                f"data: a training batch holds task {task!r}, which phase {phase.name!r} does not train; "
                f"give batches of {', '.join(phase.tasks)} alone, as a data module with set_phase does"
            )


def check_phased_data(module: Any, data: Any) -> None:
    """Refuse data that cannot know which tasks a phase trains, where phases train different ones.

    Args:
        module: A module with ``phases``.
        data: Its data module; None where there are loaders alone.

    Raises:
        ConfigurationError: For data without a ``set_phase``, or with one that does not take tasks and order.
    """
    phases = module.phases
    if len({frozenset(phase.tasks) for phase in phases}) < 2:
        return
    if data is None and is_overridden("train_dataloader", module, LightningModule):
        return  # which knows its phase
    tell = getattr(data, "set_phase", None)
    if not callable(tell):
        given = "loaders" if data is None else type(data).__name__
        raise ConfigurationError(
            f"data: {given} without set_phase would train the same tasks in each of the phases "
            f"{', '.join(phase.name for phase in phases)}; give a data module with set_phase(tasks, order), "
            "after which its loaders hold these tasks alone"
        )
    try:
        signature(tell).bind([], "interleaved")
    except TypeError as error:
        raise ConfigurationError(
            f"data: set_phase of {type(data).__name__} must take the tasks and their order: {error}"
        ) from error


class EvaluationSteps(TaskInterface):
    """The part of the project's modules that evaluates; logs ``{phase}/{task}/{val,test}_{measure}``."""

    phase: Phase | None

    @property
    def log_prefix(self) -> str:
        """What precedes the names that this phase logs, such as ``"finetune/"``."""
        return "" if self.phase is None else f"{self.phase.name}/"

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the validation measures of its tasks."""
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the test measures of its tasks."""
        self._evaluate("test", batch)

    def on_validation_epoch_end(self) -> None:
        """Log the validation measures."""
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Log the test measures."""
        self._log_evaluation("test")

    def _evaluate(self, stage: Stage, batch: Batch) -> None:
        batch = present(batch)
        outputs = self.net.forward_tasks({task: x for task, (x, _) in batch.items()})
        for task, (_, y) in batch.items():
            self.evaluation.update(stage, task, outputs[task], y)

    def _log_evaluation(self, stage: Stage) -> None:
        # Every process computes every task's measures, also one whose shard held nothing of a task: computing
        # is a collective operation. Only those that anybody has seen are logged.
        for task, values in self.evaluation.compute(stage).items():
            for name, value in values.items():
                # Equal on every process already: the maximum leaves it as it is.
                self.log(f"{self.log_prefix}{task}/{stage}_{name}", value, sync_dist=True, reduce_fx="max")
