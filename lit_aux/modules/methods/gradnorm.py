"""Weights that make the tasks train at equal rates."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lit_aux.callbacks._parameters import chosen_by
from lit_aux.errors import ConfigurationError
from lit_aux.functional.gradient_conflict import real_parts
from lit_aux.modules.methods.weightings import LossWeighting
from lit_aux.ranges import RATE, Range, check

if TYPE_CHECKING:
    from lit_aux.modules.base import AuxiliaryModule

LEAST = 1e-4
"""No weight falls below this, since a negative one would train a task backwards."""


class GradNorm(LossWeighting):
    """Moves the weights so that the norms of the tasks' weighted gradients follow the tasks' training rates.

    Chen et al. 2018, "GradNorm: gradient normalization for adaptive loss balancing" (arXiv 1711.02257,
    algorithm 1). With ``G_i = w_i |grad L_i|`` at the last shared layer, and r_i the loss relative to its
    first value, over the mean of that over tasks, the weights take a gradient step on the sum of
    ``|G_i - mean(G) r_i^alpha|`` after every optimizer step and are scaled to sum to the number of tasks. The
    target counts as constant, so that the derivative with respect to w_i is
    ``|grad L_i| sign(G_i - target)`` and needs no second derivative.

    Args:
        alpha: How strongly slow tasks are favoured; 0 makes all norms equal.
        lr: Step of the weights.
        layers: Globs over the names of parameters at which norms are taken; by default the last matrix of
            the backbone that trains.

    Attributes:
        weight: The weights, one a task.
        initial: The first loss of each task.

    Raises:
        ConfigurationError: For a negative alpha, an lr that is not above 0, or patterns that match nothing.
    """

    name = "gradnorm"
    weight: Tensor
    initial: Tensor

    def __init__(self, alpha: float = 1.5, lr: float = 0.025, layers: list[str] | None = None) -> None:
        super().__init__()
        check("alpha", alpha, Range(least=0, most=1e6))
        check("lr", lr, RATE)
        self.alpha, self.lr, self.layers = alpha, lr, layers
        self._losses: tuple[Tensor, Tensor] | None = None
        self._parameters_at: list[nn.Parameter] = []
        self._forget_step()

    def configure(self, tasks: Sequence[str], losses: Mapping[str, nn.Module]) -> None:
        """Give each task a weight."""
        super().configure(tasks, losses)
        self.register_buffer("weight", torch.ones(len(tasks)))
        self.register_buffer("initial", torch.full((len(tasks),), float("nan")))

    def reset(self) -> None:
        """Begin with equal weights."""
        self.weight.fill_(1)
        self.initial.fill_(float("nan"))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow moves to another device, but stay in float32: small changes of weights must not be lost."""
        for name, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[name] = buffer.to(fn(torch.empty(0, device=buffer.device)).device)
        return self

    def check(self, trainer: Trainer) -> None:
        """Refuse scaled losses."""
        self.refuse_scaling(trainer)

    def begin(self, trainer: Trainer, module: "AuxiliaryModule") -> None:
        """Find the layer at which norms are taken."""
        super().begin(trainer, module)
        self._forget_step()
        if self.layers is None:
            backbone = [p for p in module.net.backbone.parameters() if p.requires_grad and p.ndim > 1]
            chosen = backbone[-1:]
        else:
            chosen = list(chosen_by("layers", self.layers, module).values())
        self._parameters_at = [p for p in chosen if p.requires_grad]
        if not self._parameters_at:
            raise ConfigurationError("layers: gradnorm finds no shared layer that trains; name one")

    def end(self, trainer: Trainer) -> None:
        """Free the memory."""
        self._parameters_at = []
        self._forget_step()

    def _forget_step(self) -> None:
        self._losses = None
        self._gradients: Tensor | None = None
        self._means: Tensor | None = None
        self._seen: Tensor | None = None

    def weigh(self, values: Tensor, rows: Tensor, trainer: Trainer) -> Tensor:
        """Return the sum of weighted losses."""
        self._losses = (values, rows)
        self.note(self.weight)
        return (self.weight.to(values)[rows] * values).sum()

    def backward(self, total: Tensor, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Note each task's gradient at the layer, then compute all of them."""
        if self._losses is not None:
            values, rows = self._losses
            self._observe(values / trainer.accumulate_grad_batches, rows)
            self._losses = None
        super().backward(total, trainer, *args, **kwargs)

    def _observe(self, values: Tensor, rows: Tensor) -> None:
        """Add the tasks' gradients and losses to those of this optimizer step."""
        size = sum(real_parts(p).numel() for p in self._parameters_at)
        if self._gradients is None or self._means is None or self._seen is None:
            self._gradients = torch.zeros(len(self.tasks), size, device=values.device)
            self._means = torch.zeros(len(self.tasks), device=values.device)
            self._seen = torch.zeros(len(self.tasks), device=values.device)
        for value, row in zip(values, rows.tolist(), strict=True):
            found = torch.autograd.grad(value, self._parameters_at, retain_graph=True, allow_unused=True)
            flat = [
                real_parts(torch.zeros_like(p) if g is None else g).flatten().float()
                for p, g in zip(self._parameters_at, found, strict=True)
            ]
            self._gradients[row] += torch.cat(flat)
        self._means[rows] += values.detach().float()
        self._seen[rows] = 1

    @torch.no_grad()
    def before_step(self, trainer: Trainer) -> None:
        """Move the weights, for the next step."""
        gradients, means, seen = self._gradients, self._means, self._seen
        self._forget_step()
        if gradients is None or means is None or seen is None:
            return
        if trainer.world_size > 1:
            torch.distributed.all_reduce(gradients)
            gradients /= trainer.world_size
        rows = seen.nonzero()[:, 0]  # the losses are means over processes already
        norms, losses = gradients[rows].norm(dim=1), means[rows]
        if not bool((norms.isfinite() & losses.isfinite()).all()):
            return
        first = self.initial[rows]
        self.initial[rows] = torch.where(first.isnan(), losses, first)
        weights = self.weight[rows]
        weighted = weights * norms
        progress = losses / self.initial[rows].clamp(min=1e-12)
        target = weighted.mean() * (progress / progress.mean().clamp(min=1e-12)) ** self.alpha
        moved = (weights - self.lr * norms * torch.sign(weighted - target)).clamp(min=LEAST)
        self.weight[rows] = moved
        self.weight *= len(self.tasks) / self.weight.sum()
