"""Where a batch of replicas is on its way."""

from abc import abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_aux.integrators.objective import Objective

Floats = NDArray[np.float64]
_WHOLE = ("evaluations", "accepted", "rejected", "stages")


def index_of(rows: NDArray[np.int64], like: Tensor) -> Tensor:
    """Return indices as a tensor where another one is."""
    return torch.from_numpy(rows).to(like.device)


@dataclass
class Step:
    """One accepted step of some replicas, for those who watch.

    Attributes:
        replicas: Their indices.
        start: Time at its beginning, one a replica.
        end: Time at its end.
        before: Parameters (k, P) at its beginning.
        after: Parameters at its end.
        slope_before: dy/dt (k, P) at its beginning; None where the path is not a smooth curve.
        slope_after: dy/dt at its end.
        stages: Number of stages of the step, one a replica: many where it is long for the stiffest direction,
            so that the slopes say little about the path in between.
    """

    replicas: NDArray[np.int64]
    start: Floats
    end: Floats
    before: Tensor
    after: Tensor
    slope_before: Tensor | None = None
    slope_after: Tensor | None = None
    stages: NDArray[np.int64] | None = None


class Observer(Protocol):
    """Sees the path, for instance to keep the smallest test loss on it.

    One that also has ``next_time(replicas)``, the time of each up to which nothing concerns it, is spared
    the steps of descent before that, which are the faster for it. Mini-batches up to the end of an epoch are
    then shown as one step.
    """

    def observe(self, step: Step) -> None:
        """Take notice of an accepted step."""

    def restart(self, replicas: NDArray[np.int64]) -> None:
        """Forget what was seen of replicas that begin anew."""


class Impatient(Observer):
    """An observer for whom a replica may be over; descent then ends it where it is."""

    @abstractmethod
    def tired(self, replicas: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return for which of the replicas nothing more is expected; changes in ``observe`` alone."""


@dataclass
class Counts:
    """What the replicas cost and where they are; every array has one entry a replica.

    Attributes:
        loss: Training loss.
        time: Flow time; for descent the sum of learning rates.
        evaluations: Gradient evaluations.
        accepted: Accepted steps.
        rejected: Rejected steps.
        stages: Stages of the accepted steps.
        curvature: Largest curvature seen (with its safety factor); for descent NaN.
        lr: Learning rate of descent; NaN for flow.
        converged: Whether the loss is below the threshold.
        finished: Whether the replica has left the batch.
    """

    loss: Floats
    time: Floats
    evaluations: NDArray[np.int64]
    accepted: NDArray[np.int64]
    rejected: NDArray[np.int64]
    stages: NDArray[np.int64]
    curvature: Floats
    lr: Floats
    converged: NDArray[np.bool_]
    finished: NDArray[np.bool_]

    @classmethod
    def zeros(cls, replicas: int) -> "Counts":
        """Return the counts of replicas that have not begun."""
        found: dict[str, NDArray[Any]] = {
            **{name: np.zeros(replicas, dtype=np.int64) for name in _WHOLE},
            **{name: np.zeros(replicas, dtype=bool) for name in ("converged", "finished")},
            **{name: np.zeros(replicas) for name in ("time", "curvature")},
        }
        return cls(loss=np.full(replicas, np.inf), lr=np.full(replicas, np.nan), **found)


@dataclass
class IntegratorState:
    """A batch of replicas under way; what an integrator's ``start`` returns and ``advance`` moves.

    Attributes:
        theta: Parameters (R, P) of all replicas; those under way are brought up to date by ``advance``.
        counts: Costs and positions, one entry a replica.
        rows: Indices of the replicas that are under way.
        objective: The losses of those.
        work: Buffers (A, P) of those, by name.
        control: Numbers that steer them, one entry each, by name.
        optimizers: Of replicas that are moved by torch's, their parameter and optimizer.
        saved_optimizers: What a checkpoint holds of optimizers that have not been built again yet.
    """

    theta: Tensor
    counts: Counts
    rows: NDArray[np.int64]
    objective: Objective
    threshold: Floats
    max_time: Floats
    max_evaluations: float
    observer: Observer | None = None
    work: dict[str, Tensor] = field(default_factory=dict)
    control: dict[str, NDArray[Any]] = field(default_factory=dict)
    optimizers: dict[int, tuple[nn.Parameter, Optimizer]] = field(default_factory=dict)
    saved_optimizers: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether no replica is under way."""
        return len(self.rows) == 0

    def update(self) -> None:
        """Bring the parameters of those under way up to date."""
        if not self.finished:
            self.theta.index_copy_(0, index_of(self.rows, self.theta), self.work["y"])

    def drop(self, over: NDArray[np.bool_], position: Tensor) -> None:
        """Take replicas out of the batch; their parameters are rows of ``position``."""
        gone = index_of(np.flatnonzero(over), position)
        self.theta.index_copy_(0, index_of(self.rows[over], position), position.index_select(0, gone))
        self.counts.finished[self.rows[over]] = True
        keep = np.flatnonzero(~over)
        self.rows = self.rows[keep]
        kept = index_of(keep, position)
        self.objective = self.objective.select(kept)
        self.work = {name: tensor.index_select(0, kept) for name, tensor in self.work.items()}
        self.control = {name: values[keep] for name, values in self.control.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs, as tensors and numbers."""
        arrays = {name: torch.from_numpy(values.copy()) for name, values in vars(self.counts).items()}
        control = {name: torch.from_numpy(values.copy()) for name, values in self.control.items()}
        rows = torch.from_numpy(self.rows.copy())
        optimizers = {replica: deepcopy(o.state_dict()) for replica, (_, o) in self.optimizers.items()}
        return {
            "optimizers": self.saved_optimizers | optimizers,
            "theta": self.theta.clone(),
            "rows": rows,
            "counts": arrays,
            "control": control,
            "work": {name: tensor.clone() for name, tensor in self.work.items()},
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, from a start on the same problem."""
        self.theta.copy_(saved["theta"])
        # those that are done from the very start have left the objective already
        places = np.searchsorted(self.rows, saved["rows"].numpy())
        self.rows = saved["rows"].numpy().copy()
        self.objective = self.objective.select(index_of(places, self.theta))
        self.optimizers, self.saved_optimizers = {}, dict(saved["optimizers"])
        self.counts = Counts(**{name: values.numpy().copy() for name, values in saved["counts"].items()})
        self.control = {name: values.numpy().copy() for name, values in saved["control"].items()}
        self.work = {n: tensor.to(self.theta.device, copy=True) for n, tensor in saved["work"].items()}


@dataclass(frozen=True)
class Solution:
    """Where an integration ended.

    Attributes:
        parameters: In the form in which they were given.
        loss: Training loss, float64: a number, or one a replica.
        evaluations: Gradient evaluations, likewise.
        converged: Whether the loss is below the threshold, likewise.
        counts: Steps, stages, curvature and times, one entry a replica.
    """

    parameters: Any
    loss: Tensor
    evaluations: Tensor
    converged: Tensor
    counts: Counts
