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
        self.starts = np.arange(0, n, batch_size)
        shift = np.arange(n) // batch_size * n
        keys = np.sort(order.numpy() + shift)
        ends = np.cumsum([0, *(len(rows.x) for rows in tasks)])
        bounds = np.searchsorted(keys, (self.starts // batch_size * n)[:, None] + ends)
        rows = np.diff(bounds)
        shares = np.array([rows.share for rows in tasks])
        weights = shares / np.maximum(rows, 1)
        self.order = torch.from_numpy(keys - shift)
        self.weights = np.repeat(weights.ravel(), rows.ravel())
        """Of each row in the loss of its batch."""
        self.parts = [
            [
                (rows.output, start, stop, 2 * weight)
                for rows, start, stop, weight in zip(tasks, edges[:-1], edges[1:], some, strict=True)
                if start < stop
            ]
            for edges, some in zip(bounds.tolist(), weights.tolist(), strict=True)
        ]
        """Of each batch: output, first and last row of the epoch, and twice the weight, for each task."""
        # the whole epoch, also where a part of it is asked for: products are rounded as memory is aligned
        self.x = torch.cat([rows.x for rows in tasks]).index_select(0, self.order)
        self.columns = self.x.T.contiguous()


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
        self._pulls: list[tuple[Tensor, Tensor]] = []

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
        first = self._first.copy_(weight.T)
        own = list(readouts.clone())
        while len(self._pulls) < len(own):
            self._pulls.append((torch.empty_like(first), first.new_empty(self.hidden)))
        y = targets.index_select(0, epoch.order)
        errors = torch.zeros_like(y)
        for number in which:
            self._step(first, own, y, errors, epoch, number, lr)
        weight.copy_(first.T)
        readouts.copy_(torch.stack(own))
        squares = errors.double().numpy() ** 2 * epoch.weights
        losses: NDArray[np.float64] = np.add.reduceat(squares, epoch.starts)[which.start : which.stop]
        return losses

    def _step(
        self,
        first: Tensor,
        own: list[Tensor],
        y: Tensor,
        errors: Tensor,
        epoch: Epoch,
        number: int,
        lr: float,
    ) -> None:
        """Move the weights by the gradient of one batch, and write its errors."""
        parts = epoch.parts[number]
        begin, end = parts[0][1], parts[-1][2]
        active = self._activations[: end - begin]
        torch.mm(epoch.x[begin:end], first, out=active).relu_()
        error = errors[begin:end]
        for output, start, stop, _ in parts:
            torch.mv(active[start - begin : stop - begin], own[output], out=errors[start:stop])
        error.sub_(y[begin:end])
        active.gt_(0)
        inputs = torch.mul(epoch.columns[:, begin:end], error, out=self._inputs[:, : end - begin])
        for output, start, stop, _ in parts:
            pull, slope = self._pulls[output]
            torch.mm(inputs[:, start - begin : stop - begin], active[start - begin : stop - begin], out=pull)
            torch.sum(torch.mul(first, pull, out=self._product), 0, out=slope)
        for output, _, _, factor in parts:
            pull, slope = self._pulls[output]
            first.addcmul_(pull, own[output], value=-lr * factor)
            own[output].add_(slope, alpha=-lr * factor)
