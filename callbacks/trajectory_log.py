"""The full loss and metrics of every task, epoch by epoch, and the file that holds a run's trajectory."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from lit_aux.callbacks._measurements import folder_of
from lit_aux.callbacks._no_trace import never_fatal
from lit_aux.callbacks._options import names_of
from lit_aux.callbacks._task_model import TaskModel, mean_loss, on_device
from lit_aux.callbacks.task_data import labelled_rows, phase_tasks, task_batches
from lit_aux.callbacks.task_diagnostic import TaskDiagnostic
from lit_aux.errors import ConfigurationError
from lit_aux.files import atomic_write
from lit_aux.spreadsheets import as_csv

SPLITS = ("train", "val", "test")
COLUMNS = ("method", "seed", "trained", "phase", "epoch", "step", "task", "measure", "value")
FILE = "trajectory.csv"


@dataclass(eq=False, repr=False, kw_only=True)
class TrajectoryLog(TaskDiagnostic):
    """Evaluates every task on all of its training, validation and test examples, and writes the trajectory.

    The training loss of an epoch's batches is that of many different weights, under augmentation and dropout;
    this one is the loss of the weights as they are at the end of the epoch, on the whole training set, as
    Mueller et al. (arXiv 2408.14677) compare runs by. Measured before the first step as well. Values are
    ``{split}_loss`` and, from the module's ``task_metrics``, ``{split}_{metric}``; accuracy where it has none
    and outputs are logits of classes.

    ``trajectory.csv`` in the run's folder holds these, and the results of every other
    :class:`~lit_aux.callbacks.TaskDiagnostic` of the Trainer: what ``lit-aux trajectories`` reads. Its
    columns are ``method`` (the module's, else STL or MTL), ``seed``, ``trained`` (the tasks that train,
    joined by ``|``), ``phase``, ``epoch``, ``step``, ``task``, ``measure`` and ``value``.

    Args:
        every_n_epochs: Period; 1 by default. What training ends with is measured in any case.
        every_n_steps: Period in optimizer steps instead, for losses that fall within an epoch.
        splits: Which of ``train``, ``val`` and ``test`` to evaluate; those without examples are left out.
        tasks: The tasks to evaluate; all that train by default.
        data: Where examples come from; by default the data module.

    Raises:
        ConfigurationError: As for :class:`~lit_aux.callbacks.TaskDiagnostic`, and for an unknown split.
    """

    splits: Sequence[str] = SPLITS
    shared: Sequence[str] | None = field(default=None, init=False)
    num_samples: int = field(init=False)
    batch_size: int = field(init=False)

    needs_shared = False
    output_files = ((FILE, "table of a trajectory"),)

    def __post_init__(self) -> None:
        self.num_samples, self.batch_size = 1000, 128
        super().__post_init__()
        chosen = names_of("splits", self.splits) or []
        if not chosen or not {*chosen} <= {*SPLITS}:
            raise ConfigurationError(f"splits: {chosen} must be some of {', '.join(SPLITS)}")
        self.splits = tuple(chosen)
        self._next_write = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the network as it is before training."""
        super().on_train_start(trainer, pl_module)
        self._next_write = 0.0
        if self._epochs == trainer.global_step == 0:  # else the run goes on from a checkpoint
            self.observe(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, and write the file unless that takes too much of the time."""
        super().on_train_epoch_end(trainer, pl_module)
        begin = time.monotonic()
        folder = folder_of(trainer)
        if begin >= self._next_write:
            self._write(trainer, pl_module, folder)
            self._next_write = 21 * time.monotonic() - 20 * begin

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure what training ends with, unless the period has done so, and write the file."""
        if self.results and self.results[-1].step != trainer.global_step:
            self.try_to_observe(trainer, pl_module)
        with never_fatal(f"Writing {FILE}"):
            self._write(trainer, pl_module, folder_of(trainer))

    def measure(self, trainer: Trainer, module: LightningModule) -> dict[str, dict[str, float]]:
        """Return loss and metrics by task, over all processes."""
        return {
            task: {
                f"{split}_{name}": value
                for split in self.splits
                for name, value in self._evaluate(trainer, module, split, task).items()
            }
            for task in self.probe
        }

    @torch.no_grad()
    def _evaluate(self, trainer: Trainer, module: LightningModule, split: str, task: str) -> dict[str, float]:
        model = self.model(module)
        metrics = _metrics(model, task, module.device)
        score = getattr(model, "task_score", lambda _, metric, *pair: metric.update(*pair))
        sums = torch.zeros(3, dtype=torch.float64)  # of losses, of right answers, of targets
        classified = True
        batches = task_batches(trainer, self.data, split, task, self.user)
        for number, batch in enumerate(batches):
            if number % trainer.world_size != trainer.global_rank:
                continue
            x, y = labelled_rows(module, task, on_device(trainer, module, batch))
            if not len(y):
                continue
            outputs = model.task_outputs(task, x)
            loss, size = mean_loss(model, module, task, outputs, y)
            classified &= outputs.ndim == 2 and outputs.shape[1] > 1 and not y.is_floating_point()
            right = (outputs.argmax(1) == y).sum() if classified and metrics is None else 0
            sums += torch.tensor([loss * size, float(right), size], dtype=torch.float64)
            for metric in (metrics or {}).values():
                score(task, metric, outputs, y)
        classified = not self.total(trainer, torch.tensor(float(not classified)))
        loss_sum, correct, count = self.total(trainer, sums).tolist()
        if not count:
            return {}
        found = {"loss": loss_sum / count}
        if metrics is not None:
            return found | {name: float(metric.compute()) for name, metric in metrics.items()}
        return found | ({"accuracy": correct / count} if classified else {})

    def _write(self, trainer: Trainer, module: LightningModule, folder: Path | None) -> None:
        if folder is None:
            return
        trained = phase_tasks(trainer, module, self.data, self.user)
        named = getattr(module, "method", None) or ("MTL" if len(trained) > 1 else "STL")
        others = [c for c in trainer.callbacks if isinstance(c, TaskDiagnostic)]  # type: ignore[attr-defined]
        head = (named, _seed(trainer), "|".join(trained))
        rows = [
            (*head, row.phase, row.epoch, row.step, row.task, row.measure, repr(row.value))
            for callback in others
            for row in callback.results
            if not row.note  # a measurement that failed is no point of a trajectory
        ]
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / FILE, as_csv([COLUMNS, *rows]))


def _metrics(model: TaskModel, task: str, device: torch.device) -> dict[str, Any] | None:
    """Return the module's own metrics of a task; None where it has none."""
    own = getattr(model, "task_metrics", None)
    return None if own is None else {name: metric.to(device) for name, metric in own(task).items()}


def _seed(trainer: Trainer) -> Any:
    """Return the global seed; where there is none, that of the data."""
    given = os.environ.get("PL_GLOBAL_SEED")
    return getattr(trainer.datamodule, "seed", "") if given is None else given  # type: ignore[attr-defined]
