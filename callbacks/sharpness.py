"""How much each task's loss rises in the worst case when every weight may move a little."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lit_aux.callbacks._no_trace import forgetting, full_precision, widened
from lit_aux.callbacks._parameters import by_first_name
from lit_aux.callbacks._task_model import on_device
from lit_aux.callbacks.task_data import permuted_batches
from lit_aux.callbacks.task_diagnostic import TaskDiagnostic
from lit_aux.errors import ConfigurationError
from lit_aux.functional.sharpness import Start, adaptive_sharpness, check_sharpness


@dataclass(eq=False, repr=False)
class Sharpness(TaskDiagnostic):
    r"""Measures ``sharpness``, how much a task's loss rises, at worst, when shared weights move a little.

    The mean over batches of :math:`\max L(\theta + \epsilon) - L(\theta)` over
    :math:`|\epsilon_i| \le \rho |\theta_i|`, as in Andriushchenko et al., "A Modern Look at the Relationship
    between Sharpness and Generalization" (ICML 2023); see
    :func:`lit_aux.functional.adaptive_sharpness`. Batches are the same at every measurement and in every run
    on these data. Weights of half precision, which cannot hold such small changes, are measured in float32.

    A measurement of a task costs as much as training on its examples for ``iterations + 1`` epochs, so choose
    the period with care. Beside the network and its gradient it takes memory of under four times the shared
    weights.

    Args:
        rho: Half the side of the box, in units of each weight's size; published are 1e-3, 5e-3 and 1e-2.
        iterations: Steps of the search in each batch.
        start: Where it starts: at the weights (``"zero"``) or at a random point of the box (``"random"``),
            which may also find a way up from a minimum.
        every_n_epochs: As for :class:`~lit_aux.callbacks.TaskDiagnostic`, as are the others.
        every_n_steps: Period in steps instead.
        tasks: The tasks to measure.
        shared: The weights that move.
        num_samples: Examples of each task.
        batch_size: Examples in a batch, on whose size the value depends: what is left over after the last
            whole batch is not used. A task with fewer examples has one batch of all.
        data: Where examples come from.

    Raises:
        ConfigurationError: For ``rho`` not above 0, and as for :class:`~lit_aux.callbacks.TaskDiagnostic`.
    """

    rho: float = 1e-3
    _: KW_ONLY
    iterations: int = 20
    start: Start = "zero"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sharpness(self.rho, self.iterations, self.start)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse weights that have no box of real numbers around them."""
        super().on_fit_start(trainer, pl_module)
        for name, parameter in self.parameters(pl_module).items():
            if parameter.is_complex():
                raise ConfigurationError(
                    f"{self.user}: shared: {name!r} is complex and has no box to search; name real ones"
                )

    def measure(self, trainer: Trainer, module: LightningModule) -> dict[str, dict[str, float]]:
        """Return each task's sharpness, the mean over its batches."""
        sizes = {task: len(y) for task, (_, y) in self.probe.items()}
        batches = {task: permuted_batches(n, self.batch_size, seed=task) for task, n in sizes.items()}
        work = [(task, number) for task, rows in batches.items() for number in range(len(rows))]
        sums = dict.fromkeys(batches, 0.0)
        names = list(self.parameters(module))
        with full_precision(module):
            weights = by_first_name(module)
            shared = [weights[name] for name in names]
            for task, number in self.share(trainer, work):
                batch = widened(on_device(trainer, module, self.probe[task], batches[task][number]))
                sums[task] += self._batch(module, shared, task, batch, number)
        totals = self.totals(trainer, sums)
        return {task: {"sharpness": value / len(batches[task])} for task, value in totals.items()}

    def _batch(
        self, module: LightningModule, shared: Sequence[Tensor], task: str, batch: Any, number: int
    ) -> float:
        """Return the sharpness of one batch."""
        (x, y), model = batch, self.model(module)

        def loss() -> Tensor:
            with forgetting(module):
                return model.task_loss(task, model.task_outputs(task, x), y)

        return adaptive_sharpness(
            loss,
            shared,
            self.rho,
            iterations=self.iterations,
            start=self.start,
            generator=torch.Generator().manual_seed(number),
        )
