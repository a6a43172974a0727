"""What integrators follow: losses of many replicas over a matrix of parameters."""

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_aux.errors import ConfigurationError

Parameters = Tensor | Mapping[str, Tensor]


class Objective(Protocol):
    """Losses of R replicas, each with P parameters.

    Attributes:
        replicas: R.
    """

    replicas: int

    def value_and_gradient(self, theta: Tensor, out: Tensor) -> Tensor:
        """Return every replica's loss and write its gradient.

        Args:
            theta: Parameters (R, P).
            out: Where the gradients go, (R, P).

        Returns:
            Losses (R,).
        """

    def select(self, keep: Tensor) -> "Objective":
        """Return the objective of some of the replicas; ``keep`` holds their indices in rising order."""


@runtime_checkable
class Descending(Protocol):
    """An objective that takes steps of gradient descent on mini-batches faster than by their gradients."""

    @property
    def descends(self) -> bool:
        """Whether it does, as it is."""

    def rows(self) -> int:
        """Return the number of training rows."""

    def descend(
        self, theta: Tensor, order: Tensor, batch_size: int, which: range, lr: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Take the steps of some batches of an epoch, in place.

        Args:
            theta: Parameters (R, P).
            order: Of all rows, counted over tasks one after another.
            batch_size: Rows of a batch.
            which: Numbers of the batches.
            lr: Learning rates (R,).

        Returns:
            The losses (R, batches) before each step.
        """


@runtime_checkable
class Kinked(Protocol):
    """An objective that says whether its gradient jumps where units turn on and off."""

    @property
    def kinked(self) -> bool:
        """Whether it does."""


class FunctionObjective:
    """Any function of a tensor or a dict of parameters, differentiated by autograd.

    Args:
        loss: Returns a scalar (one replica), or one value a replica; replicas may not depend on each other.
        parameters: An example of what it takes. With replicas, each tensor has them on its first dimension.

    Raises:
        ConfigurationError: If the loss is neither a scalar nor one value a replica.
    """

    def __init__(self, loss: Callable[[Any], Tensor], parameters: Parameters) -> None:
        self.loss = loss
        self.names = list(parameters) if isinstance(parameters, Mapping) else None
        tensors = list(parameters.values()) if isinstance(parameters, Mapping) else [parameters]
        with torch.no_grad():
            value = loss(parameters)
        self.single = value.ndim == 0
        self.replicas = 1 if self.single else len(value)
        if value.ndim > 1 or (not self.single and any(t.shape[:1] != (self.replicas,) for t in tensors)):
            raise ConfigurationError(
                f"loss: its shape {tuple(value.shape)} is neither a scalar nor one value for each of the "
                f"parameters' {len(tensors[0]) if tensors[0].ndim else 0} rows"
            )
        self.shapes = [t.shape if self.single else t.shape[1:] for t in tensors]
        self._rows = torch.arange(self.replicas)
        self._total = 0

    def pack(self, parameters: Parameters) -> Tensor:
        """Return the parameters as a matrix (R, P)."""
        tensors = list(parameters.values()) if isinstance(parameters, Mapping) else [parameters]
        return torch.cat([t.detach().reshape(self.replicas, -1) for t in tensors], dim=1)

    def unpack(self, theta: Tensor) -> Any:
        """Return a matrix (R, P) in the form that the loss takes."""
        rows = () if self.single else (len(theta),)
        parts = torch.split(theta, [s.numel() for s in self.shapes], dim=1)
        tensors = [p.reshape((*rows, *s)) for p, s in zip(parts, self.shapes, strict=True)]
        return tensors[0] if self.names is None else dict(zip(self.names, tensors, strict=True))

    def value_and_gradient(self, theta: Tensor, out: Tensor) -> Tensor:
        """Return the losses and write the gradients; see :class:`Objective`."""
        full = theta
        if self._total:  # a function of all replicas cannot be asked for some: the others are given anything
            full = theta[:1].repeat(self._total, 1).index_copy_(0, self._rows.to(theta.device), theta)
        with torch.enable_grad():
            leaf = full.detach().requires_grad_()
            losses = self.loss(self.unpack(leaf)).reshape(-1)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        if not self._total:
            out.copy_(gradient)
            return losses.detach()
        rows = self._rows.to(theta.device)
        out.copy_(gradient[rows])
        return losses.detach()[rows]

    def select(self, keep: Tensor) -> "FunctionObjective":
        """Return the objective of some of the replicas; the function still computes all of them."""
        chosen = copy(self)
        chosen.replicas = len(keep)
        chosen._rows = self._rows[keep.cpu()]
        chosen._total = self._total or self.replicas
        return chosen
