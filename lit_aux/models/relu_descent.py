"""Mini-batch descent of two-layer ReLU networks, with as few passes over the activations as it takes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class TaskRows:
    """Training rows of one task.

    Attributes:
        x: Inputs (n, d).
        output: The output that has to fit them.
        share: Of the task in the loss.
    """

    x: Tensor
    output: int
    share: float


class Epoch:
    """The rows of all tasks in the order of an epoch.

    Within a batch, where order decides nothing, the rows of a task come one after another: each task has its
    own output, and nothing is computed of the others' rows.

    Args:
        tasks: What trains.
        order: Indices of all rows, counted over tasks one after another.
        batch_size: Rows of a batch.
    """

    def __init__(self, tasks: Sequence[TaskRows], order: Tensor, batch_size: int) -> None:
        n = len(order)
        self.batch_size, self.starts = batch_size, np.arange(0, n, batch_size)
        shift = np.arange(n) // batch_size * n
        keys = order.numpy() + shift
        keys.sort()
        ends = np.cumsum([0, *(len(rows.x) for rows in tasks)])
        bounds = np.searchsorted(keys, (self.starts // batch_size * n)[:, None] + ends)
        rows = np.diff(bounds)
        shares = np.array([rows.share for rows in tasks])
        weights = shares / np.maximum(rows, 1)
        self.order = torch.from_numpy(keys - shift)
        self.weights = np.repeat(weights.ravel(), rows.ravel())
        """Of each row in the loss of its batch."""
        outputs = [rows.output for rows in tasks]
        self.parts = [
            [(output, size, 2 * weight) for output, size, weight in zip(outputs, *some, strict=True) if size]
            for some in zip(rows.tolist(), weights.tolist(), strict=True)
        ]
        """Of each batch, for each task in it: its output, number of rows, and twice their weight."""
        # the whole epoch, also where a part of it is asked for: products are rounded as memory is aligned
        x = torch.cat([rows.x for rows in tasks]).index_select(0, self.order)
        self.batches = list(
            zip(torch.split(x, batch_size), torch.split(x.T.contiguous(), batch_size, 1), strict=True)
        )
        """Inputs of each, rows before columns and columns before rows."""


class ReLUDescent:
    """Takes the steps y <- y - lr grad L(y) of some batches of an epoch, one replica at a time.

    The first layer has inputs before units, (d, H), and the activations rows before units: these products are
    the fastest. With g the sum over a task's rows of error times input where a unit is active, the gradients
    are v g and <w, g>.

    Args:
        hidden: Number of hidden units H.
        width: Number of inputs d.
        rows: Most rows of a batch.
        like: Of the dtype of the weights.
    """

    def __init__(self, hidden: int, width: int, rows: int, like: Tensor) -> None:
        self.hidden, self.width, self.rows = hidden, width, rows
        self._first, self._product = like.new_empty(2, width, hidden)
        self._activations = like.new_empty(rows, hidden)
        self._inputs = like.new_empty(width, rows)
        self._readouts = self._slopes = like.new_empty(0, hidden)
        self._pulls = like.new_empty(0, width, hidden)

    @torch.inference_mode()
    def descend(
        self, theta: Tensor, targets: Tensor, epoch: Epoch, which: range, lr: float
    ) -> NDArray[np.float64]:
        """Take the steps.

        Args:
            theta: Weights (P,), first layer (H, d) and readouts (O, H); moved in place.
            targets: Of all rows (n,), counted over tasks one after another.
            epoch: The order of rows.
            which: Numbers of the batches.
            lr: Learning rate.

        Returns:
            The loss of each batch before its step.
        """
        size = self.hidden * self.width
        weight, readouts = theta[:size].view(self.hidden, self.width), theta[size:].view(-1, self.hidden)
        if len(self._readouts) != len(readouts):
            self._readouts, self._slopes = torch.empty(2, *readouts.shape, dtype=theta.dtype)
            self._pulls = theta.new_empty(len(readouts), self.width, self.hidden)
        self._first.copy_(weight.T)
        self._readouts.copy_(readouts)
        own = list(zip(self._readouts, self._pulls, self._slopes, strict=True))
        y = targets.index_select(0, epoch.order)
        errors = torch.zeros_like(y)
        of_batches = list(
            zip(torch.split(y, epoch.batch_size), torch.split(errors, epoch.batch_size), strict=True)
        )
        for number in which:
            self._step(own, *epoch.batches[number], *of_batches[number], epoch.parts[number], lr)
        weight.copy_(self._first.T)
        readouts.copy_(self._readouts)
        with np.errstate(over="ignore", invalid="ignore"):  # who diverges is told by the losses
            squares = errors.double().numpy() ** 2 * epoch.weights
        losses: NDArray[np.float64] = np.add.reduceat(squares, epoch.starts)[which.start : which.stop]
        return losses

    def _step(
        self,
        own: list[tuple[Tensor, Tensor, Tensor]],
        x: Tensor,
        columns: Tensor,
        y: Tensor,
        error: Tensor,
        parts: list[tuple[int, int, float]],
        lr: float,
    ) -> None:
        """Move the weights by the gradient of one batch, and write its errors."""
        first, sizes = self._first, [size for _, size, _ in parts]
        n = y.numel()  # less work than len(y), which counts here
        active = self._activations if n == self.rows else self._activations[:n]
        scaled = self._inputs if n == self.rows else self._inputs[:, :n]
        torch.mm(x, first, out=active).relu_()
        hidden = active.split_with_sizes(sizes)
        for (output, _, _), some, to in zip(parts, hidden, error.split_with_sizes(sizes), strict=True):
            torch.mv(some, own[output][0], out=to)
        error.sub_(y)
        active.gt_(0)
        torch.mul(columns, error, out=scaled)
        for (output, _, _), some, inputs in zip(
            parts, hidden, scaled.split_with_sizes(sizes, 1), strict=True
        ):
            _, pull, slope = own[output]
            torch.mm(inputs, some, out=pull)
            torch.sum(torch.mul(first, pull, out=self._product), 0, out=slope)
        for output, _, factor in parts:
            readout, pull, slope = own[output]
            first.addcmul_(pull, readout, value=-lr * factor)
            readout.add_(slope, alpha=-lr * factor)
