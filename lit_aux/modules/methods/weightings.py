"""Losses of the tasks, weighted anew in every step: at random, by what is learned, or by TorchJD."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lit_aux.errors import ConfigurationError, first_line
from lit_aux.modules.methods.task_method import TaskMethod


class LossWeighting(TaskMethod, ABC):
    """Weighs the tasks' losses; nothing but the loss changes, so that it works wherever plain training does.

    Weights are functions of the losses' means over all processes, so that every process uses the same ones
    and several processes take the step of one on the joint batch.
    """

    @abstractmethod
    def weigh(self, values: Tensor, rows: Tensor, trainer: Trainer) -> Tensor:
        """Return the loss of a batch.

        Args:
            values: Losses (k,) of the tasks in the batch; their gradients are those of this process's batch.
            rows: The numbers (k,) of these tasks among all.
            trainer: The Trainer.
        """

    def combine(self, losses: Mapping[str, Tensor], trainer: Trainer) -> Tensor:
        """Weigh the losses."""
        values = torch.stack(list(losses.values()))
        if not values.is_floating_point() or values.dtype in (torch.float16, torch.bfloat16):
            values = values.float()
        rows = torch.tensor([self.tasks.index(task) for task in losses], device=values.device)
        return self.weigh(values + self._others(values.detach(), rows, trainer), rows, trainer)

    def _others(self, values: Tensor, rows: Tensor, trainer: Trainer) -> Tensor | float:
        """Return what turns this process's losses into the means over all processes; it has no gradient."""
        if trainer.world_size == 1:
            return 0.0
        sums = torch.zeros(2, len(self.tasks), dtype=values.dtype, device=values.device)
        sums[0, rows], sums[1, rows] = values, 1
        torch.distributed.all_reduce(sums)
        return (sums[0] / sums[1].clamp(min=1))[rows] - values

    def spread(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return a value for every task, 0 for those that are not in the batch."""
        found = torch.zeros(len(self.tasks), dtype=torch.float64, device=values.device)
        found[rows] = values.detach().double()
        return found


class RandomWeighting(LossWeighting):
    """Weighs the losses by a softmax of standard normal numbers, drawn anew for every optimizer step.

    Lin et al. 2022, "Reasonable effectiveness of random weighting" (arXiv 2111.10603): a baseline that other
    weightings should beat. The weights are multiplied by the number of tasks, so that their mean is 1, as in
    plain multi-task training.
    """

    name = "random"

    def weigh(self, values: Tensor, rows: Tensor, trainer: Trainer) -> Tensor:
        """Return the sum of weighted losses."""
        generator = torch.Generator().manual_seed(self.seed_of_step(trainer))
        weights = torch.softmax(torch.randn(len(self.tasks), generator=generator), 0) * len(self.tasks)
        self.note(weights)
        return (weights.to(values)[rows] * values).sum()


class UncertaintyWeighting(LossWeighting):
    """Learns each task's log variance s with the weights: the loss is the sum of exp(-s) L + s/2.

    Kendall, Gal & Cipolla 2018, "Multi-task learning using uncertainty to weigh losses" (arXiv 1705.07115,
    equation 10); regression with ``nn.MSELoss`` has exp(-s) L / 2 + s/2 (equation 5). The phase's optimizer
    trains the log variances, which start at 0; its weight decay pulls them back there.

    Attributes:
        log_variance: One a task.
    """

    name = "uncertainty"

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(0))
        self._factors: list[float] = []

    def configure(self, tasks: Sequence[str], losses: Mapping[str, nn.Module]) -> None:
        """Give each task a log variance."""
        super().configure(tasks, losses)
        self.log_variance = nn.Parameter(torch.zeros(len(tasks)))
        self._factors = [0.5 if isinstance(losses[task], nn.MSELoss) else 1.0 for task in tasks]

    @torch.no_grad()
    def reset(self) -> None:
        """Begin with equal weights."""
        self.log_variance.zero_()

    def weigh(self, values: Tensor, rows: Tensor, trainer: Trainer) -> Tensor:
        """Return the sum of weighted losses and penalties."""
        factors = torch.tensor(self._factors, device=values.device, dtype=values.dtype)
        weights = factors * torch.exp(-self.log_variance.to(values.dtype))
        self.note(weights)
        return (weights[rows] * values + self.log_variance[rows] / 2).sum()


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
            raise ConfigurationError(
                f"weighting: {self.name} refuses the losses of {len(values)} tasks: {first_line(error)}"
            ) from error
        if not isinstance(total, Tensor) or total.ndim:
            raise ConfigurationError(
                f"weighting: {self.name} makes no single loss of those of {len(values)} tasks; give a "
                "scalarizer of torchjd.scalarization, or one of constant, uncertainty, random, gradnorm"
            )
        return total
