"""Weights of TorchJD's scalarizers."""

from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lit_aux.errors import ConfigurationError
from lit_aux.modules.methods.loss_weighting import LossWeighting


class Scalarization(LossWeighting):
    """Makes one loss of the tasks' by any scalarizer of TorchJD; learned parameters train with the network.

    Args:
        scalarizer: Maps losses (tasks,) to a scalar.

    Raises:
        ConfigurationError: If it needs the losses once more after each step (FAMO), or refuses so many tasks.
    """

    def __init__(self, scalarizer: nn.Module) -> None:
        super().__init__()
        self.scalarizer = scalarizer
        self.name = type(scalarizer).__name__

    def configure(self, tasks: Sequence[str], losses: Mapping[str, nn.Module]) -> None:
        """Try the scalarizer on as many losses as there are tasks."""
        super().configure(tasks, losses)
        if hasattr(self.scalarizer, "update"):
            raise ConfigurationError(
                f"weighting: {self.name} needs the losses once more after each step, which training does not "
                "compute; choose another scalarizer, or gradnorm"
            )
        with torch.random.fork_rng(devices=[]):
            self._scalar(deepcopy(self.scalarizer), torch.ones(len(tasks)))

    def reset(self) -> None:
        """Forget what the scalarizer has learned."""
        forget = getattr(self.scalarizer, "reset", None)
        if callable(forget):
            forget()

    def weigh(self, values: Tensor, rows: Tensor, trainer: Trainer) -> Tensor:
        """Return the scalarizer's value."""
        with self.draws_of_step(trainer):
            total = self._scalar(self.scalarizer, values)
        if values.requires_grad:  # the derivatives are the weights
            (weights,) = torch.autograd.grad(total, values, retain_graph=True)
            self.note(self.spread(weights, rows))
        return total

    def epoch_end(self) -> None:
        """Tell scalarizers that weigh by past epochs (DWA)."""
        step = getattr(self.scalarizer, "step", None)
        if callable(step):
            step()

    def _scalar(self, scalarizer: nn.Module, values: Tensor) -> Tensor:
        try:
            total = scalarizer(values)
        except (ValueError, TypeError, RuntimeError, IndexError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConfigurationError(
                f"weighting: {self.name} refuses the losses of {len(values)} tasks: {reason}"
            ) from error
        if not isinstance(total, Tensor) or total.ndim:
            raise ConfigurationError(
                f"weighting: {self.name} makes no single loss of those of {len(values)} tasks; give a "
                "scalarizer of torchjd.scalarization, or one of constant, uncertainty, random, gradnorm"
            )
        return total
