"""How much the gradients of a task's examples agree."""

import math
from dataclasses import dataclass

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lit_aux.callbacks._no_trace import forgetting
from lit_aux.callbacks._task_model import mean_loss, on_device
from lit_aux.callbacks.task_data import permuted_batches
from lit_aux.callbacks.task_diagnostic import TaskDiagnostic
from lit_aux.errors import ConfigurationError
from lit_aux.functional.gradient_coherence import gradient_coherence
from lit_aux.ranges import Range, check


@dataclass(eq=False, repr=False, kw_only=True)
class GradientCoherence(TaskDiagnostic):
    r"""Measures how per-example gradients of a task scatter around their mean.

    ``{task}/gradient_variance`` is the trace of their covariance over the task's examples,
    :math:`\frac1N \sum_i \|g_i - \bar g\|^2`, and ``{task}/gradient_norm`` the length of their mean: the root
    of the unbiased estimate of its square, 0 where that is negative. Both come from the norms of gradients at
    two batch sizes, of small batches and of all of these together, without any example's own gradient (see
    :func:`lit_aux.functional.gradient_coherence`). The examples are dealt into other batches at every
    measurement, so that means over time become exact.

    The mean of all :math:`g_i` is the gradient of the task's loss over these examples: where that is divided
    by the number of targets, or by weights of classes, an example counts by its own.

    A measurement is one pass over the examples, forward and backward, and holds two gradients.

    Args:
        batch_size: Examples in a small batch.
        num_batches: Small batches; by default as many as there are examples for.
        every_n_epochs: As for :class:`~lit_aux.callbacks.TaskDiagnostic`, as are the others.
        every_n_steps: Period in steps instead.
        tasks: The tasks to measure.
        shared: The parameters that gradients are taken of.
        num_samples: Examples of each task.
        data: Where examples come from.

    Raises:
        ConfigurationError: For fewer than two small batches; as training starts, for a task with too few
            examples for them; and as for :class:`~lit_aux.callbacks.TaskDiagnostic`.
    """

    batch_size: int = 32
    num_batches: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check("num_batches", self.num_batches, Range(least=2))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect the examples, of which there must be enough."""
        super().on_train_start(trainer, pl_module)
        least = self.batch_size * (self.num_batches or 2)
        for task, (_, y) in self.probe.items():
            if len(y) < least:
                raise ConfigurationError(
                    f"{'batch_size' if self.num_batches is None else 'num_batches'}: "
                    f"{self.num_batches or 2} batches of {self.batch_size} need "
                    f"{least} examples; task {task!r} has {len(y)} (num_samples {self.num_samples})"
                )

    def measure(self, trainer: Trainer, module: LightningModule) -> dict[str, dict[str, float]]:
        """Return the moments of each task's gradients."""
        parameters = list(self.parameters(module).values())
        values = {}
        for task, (_, y) in self.probe.items():
            seed = f"{task} {trainer.global_step}"
            batches = permuted_batches(len(y), self.batch_size, seed=seed)[: self.num_batches]
            counts: list[float] = []
            found = gradient_coherence(
                (self._summed(trainer, module, task, rows, counts) for rows in self.share(trainer, batches)),
                batch_size=self.batch_size,
                total=len(y),
                like=parameters,
                reduce=lambda tensor: self.total(trainer, tensor),
            )
            count = self.totals(trainer, {task: sum(counts)})[task] / (self.batch_size * len(batches))
            values[task] = {
                "gradient_variance": found.trace / count**2,
                "gradient_norm": math.sqrt(max(found.squared_norm, 0.0)) / count,
            }
        return values

    def _summed(
        self, trainer: Trainer, module: LightningModule, task: str, rows: Tensor, counts: list[float]
    ) -> list[Tensor]:
        """Return the gradient of the sum of a batch's losses, over the number of its examples.

        A mean that is divided by a number of targets, or by weights of classes, is no mean over examples.
        What it is divided by is added to ``counts``.
        """
        x, y = on_device(trainer, module, self.probe[task], rows)
        model = self.model(module)
        with forgetting(module):
            outputs = model.task_outputs(task, x)
            loss = model.task_loss(task, outputs, y)
            with torch.no_grad():
                mean, count = mean_loss(model, module, task, outputs, y)
        value = float(loss.detach())
        is_mean = not value or math.isclose(value, mean, rel_tol=1e-3) or not math.isfinite(value)
        factor = (count if is_mean else mean * count / value) / len(rows)
        counts.append(count)
        gradient = self.gradient(module, loss)
        return gradient if factor == 1 else [part * factor for part in gradient]
