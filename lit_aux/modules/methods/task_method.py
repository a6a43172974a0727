"""How the losses of several tasks become one step: by default their sum."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lit_aux.errors import ConfigurationError

if TYPE_CHECKING:
    from lit_aux.modules.base import AuxiliaryModule

SPACING = 1_000_003
"""Seeds of consecutive steps lie this far apart, so that runs of neighbouring seeds share none of them."""


class TaskMethod(nn.Module):
    """Adds up the tasks' losses; subclasses weigh them, or combine their gradients.

    The module calls, in this order: :meth:`configure` when it is built, :meth:`check` and :meth:`begin` when
    training starts, then for every batch :meth:`combine` and :meth:`backward`, before every optimizer step
    :meth:`before_step`, and :meth:`end`.

    Attributes:
        name: What runs of this method are called in tables.
        option: The option of the module that chooses it, for errors.
        tasks: The tasks of the module that train.
        separate: Whether each task shall pass through the network alone; settled as a fit begins.
        outside_network: True: callbacks that look for layers pass by.
    """

    name = "MTL"
    option = "weighting"
    outside_network = True

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[str] = []
        self.separate = False
        self._seed = 0
        self._sums: Tensor | None = None
        self._noted = 0

    def configure(self, tasks: Sequence[str], losses: Mapping[str, nn.Module]) -> None:
        """Learn what the tasks are.

        Args:
            tasks: The tasks that train in any phase.
            losses: The loss of each.

        Raises:
            ConfigurationError: If the method is not for these tasks.
        """
        self.tasks = list(tasks)

    def check(self, trainer: Trainer) -> None:
        """Refuse a Trainer with which the method cannot work.

        Raises:
            ConfigurationError: If it cannot.
        """

    def begin(self, trainer: Trainer, module: "AuxiliaryModule") -> None:
        """Start a fit, or go on with one; parameters are on their device and restored."""
        self._seed = int(trainer.strategy.broadcast(torch.initial_seed()))
        self._sums, self._noted = None, 0
        for part in [*self.modules()][1:]:  # what others keep as plain tensors moves with no module
            for name, value in vars(part).items():
                if isinstance(value, Tensor):
                    setattr(part, name, value.to(trainer.strategy.root_device))
        if trainer.global_step == 0:
            self.reset()

    def reset(self) -> None:
        """Forget what an earlier fit has learned."""

    def combine(self, losses: Mapping[str, Tensor], trainer: Trainer) -> Tensor:
        """Return the loss of a batch from those of its tasks, which have their constant weights."""
        first, *others = losses.values()
        return sum(others, first)

    def backward(self, total: Tensor, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Compute gradients of what :meth:`combine` returned, divided by the batches that accumulate."""
        total.backward(*args, **kwargs)  # type: ignore[no-untyped-call]

    def before_step(self, trainer: Trainer) -> None:
        """Complete the gradients of all batches that accumulated."""

    def epoch_end(self) -> None:
        """End an epoch."""

    def end(self, trainer: Trainer) -> None:
        """End a fit."""

    def note(self, weights: Tensor) -> None:
        """Remember the weights (one a task) of a step, to be logged as their mean over the epoch."""
        weights = weights.detach().double()
        self._sums = weights if self._sums is None else self._sums + weights
        self._noted += 1

    def mean_weights(self) -> dict[str, float]:
        """Return the mean of the noted weights of each task, and forget them; empty where there are none."""
        sums, count = self._sums, self._noted
        self._sums, self._noted = None, 0
        return {} if sums is None else dict(zip(self.tasks, (sums.cpu() / count).tolist(), strict=True))

    def seed_of_step(self, trainer: Trainer) -> int:
        """Return a seed that is the same on every process, and after a resume."""
        return (self._seed * SPACING + trainer.global_step) % 2**63

    @contextmanager
    def draws_of_step(self, trainer: Trainer) -> Iterator[None]:
        """Draw the same on every process and after a resume; leave the generators of the training alone."""
        device = trainer.strategy.root_device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed_of_step(trainer))
            yield

    def refuse_scaling(self, trainer: Trainer) -> None:
        """Refuse 16-bit floats that need a scaled loss.

        Raises:
            ConfigurationError: If the loss is scaled.
        """
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise ConfigurationError(
                f"{self.option}: {self.name} needs gradients of each task, which precision "
                f"{trainer.precision} scales; use bf16-mixed or 32-true"
            )
