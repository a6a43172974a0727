"""The smallest test loss on a path, by the published rule."""

from collections.abc import Sequence
from math import ceil
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_aux.integrators import Step

Floats = NDArray[np.float64]

ALWAYS = 20
"""So many of the first instants are never left out."""


SMOOTH = 6
"""Steps of at most so many stages are interpolated."""


class Loss(Protocol):
    """Test losses of replicas."""

    def value(self, theta: Tensor) -> Tensor:
        """Return the losses (k,) of parameters (k, P)."""
        ...

    def select(self, keep: Tensor) -> Any:
        """Return the losses of some of the replicas."""
        ...


class BestTestLoss:
    """Evaluates the test loss at fixed instants of a path and keeps the smallest.

    The published runs tested after steps 1, 51, 101, ... and at the end. In flow time these are the instants
    lr (1 + 50 i), to which a path is interpolated by cubic Hermite polynomials. Within a step of many stages,
    which is long for the stiffest direction, the slopes at its ends say nothing of the path in between; such
    steps are far longer than the distance of the instants, and are tested at their end.

    Args:
        loss: Test losses of all replicas.
        replicas: Their number.
        first: Time of the first instant.
        interval: Time between instants.
        thinning: After the first 20 instants, their numbers grow by this factor; 1 leaves none out.
    """

    def __init__(self, loss: Loss, replicas: int, first: float, interval: float, thinning: float) -> None:
        self.loss = loss
        self.thinning = thinning
        self.best: Floats = np.full(replicas, np.inf)
        self._first, self._interval = np.full(replicas, first), np.full(replicas, interval)
        self._number = np.zeros(replicas, dtype=np.int64)
        self._chosen: tuple[tuple[int, ...], Any] = ((), None)

    def observe(self, step: Step) -> None:
        """Test at the instants within a step."""
        end = step.end * (1 + 1e-12)
        while True:
            when = self.next_time(step.replicas)
            due = np.flatnonzero(when <= end)
            if not len(due):
                return
            theta = _between(step, due, when[due])
            self.test(step.replicas[due], theta)
            for place in due:
                self._advance(step, int(place))

    def _advance(self, step: Step, place: int) -> None:
        """Go to the next instant of a replica, or beyond the step if its end was tested."""
        replica = int(step.replicas[place])
        number = int(self._number[replica])
        later = number + 1 if number < ALWAYS else max(number + 1, ceil(number * self.thinning))
        if step.stages is not None and step.stages[place] > SMOOTH:
            passed = (step.end[place] / self._first[replica] - 1) * self._first[replica]
            later = max(later, int(passed / self._interval[replica]) + 1)
        self._number[replica] = later

    def test(self, replicas: NDArray[np.int64] | Sequence[int], theta: Tensor) -> Floats:
        """Test some replicas (in rising order) at parameters (k, P); return and remember their losses."""
        rows = tuple(int(r) for r in replicas)
        if self._chosen[0] != rows:
            keep = torch.tensor(rows, device=theta.device)
            self._chosen = (rows, self.loss.select(keep))
        losses: Floats = self._chosen[1].value(theta).double().cpu().numpy()
        index = np.asarray(rows)
        self.best[index] = np.fmin(self.best[index], losses)
        return losses

    def restart(self, replicas: NDArray[np.int64]) -> None:
        """Forget replicas that begin anew with a tenth of their step."""
        self.best[replicas] = np.inf
        self._number[replicas] = 0
        self._first[replicas] /= 10
        self._interval[replicas] /= 10

    def next_time(self, replicas: NDArray[np.int64]) -> Floats:
        """Return the next instants, as descent counts its time: a step's number times its size."""
        ratio = np.round(self._interval[replicas] / self._first[replicas], 9)
        return np.asarray((1 + ratio * self._number[replicas]) * self._first[replicas])

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a resumed run needs."""
        kept = {"best": self.best, "first": self._first, "interval": self._interval, "number": self._number}
        return {name: torch.from_numpy(values.copy()) for name, values in kept.items()}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Take over what :meth:`state_dict` gave."""
        arrays = {name: values.numpy().copy() for name, values in saved.items()}
        self.best, self._number = arrays["best"], arrays["number"]
        self._first, self._interval = arrays["first"], arrays["interval"]


def _between(step: Step, due: NDArray[np.int64], when: Floats) -> Tensor:
    """Return the parameters (k, P) at instants within a step."""
    index = torch.from_numpy(due).to(step.after.device)
    after = step.after.index_select(0, index)
    if step.slope_before is None or step.slope_after is None or step.stages is None:
        return after
    before = step.before.index_select(0, index)
    h = step.end[due] - step.start[due]
    s = np.clip((when - step.start[due]) / np.maximum(h, 1e-300), 0.0, 1.0)
    s = np.where(step.stages[due] > SMOOTH, 1.0, s)
    r = 1 - s
    weights = np.stack([(1 + 2 * s) * r**2, h * s * r**2, s**2 * (3 - 2 * s), -h * s**2 * r])
    w = torch.from_numpy(weights).to(after)[:, :, None]
    f0, f1 = (slope.index_select(0, index) for slope in (step.slope_before, step.slope_after))
    return w[0] * before + w[1] * f0 + w[2] * after + w[3] * f1
