"""Validation and test, task by task."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lit_aux.modules.evaluation import Stage
from lit_aux.modules.task_interface import TaskInterface
from lit_aux.phases.phase import Phase

Batch = Mapping[str, tuple[Tensor, Tensor]]


def present(batch: Mapping[str, Any]) -> Batch:
    """Return the tasks of a batch that have one: combined loaders give None for those that are exhausted."""
    return {task: pair for task, pair in batch.items() if pair is not None}


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
