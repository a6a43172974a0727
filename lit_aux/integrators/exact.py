"""Runs that are solved instead of trained."""

from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.integrators.base import Integrator
from lit_aux.integrators.objective import Objective
from lit_aux.integrators.state import Floats, IntegratorState, Step, index_of
from lit_aux.ranges import RATE, check

_ROUNDING = 1e-12
"""Share of the largest parameter by which a path without an end may still be away from its limit."""
_ITERATIONS = 10
"""About what Newton's method takes for a replica."""


class ProbePath(Protocol):
    """Where linear probes are after any time."""

    def at(self, time: Floats) -> Tensor:
        """Return parameters (k, P) at times (k,); at infinity the limit."""


class Solvable(Objective, Protocol):
    """Losses whose paths are known: those of a diagonal network with one output."""

    def value(self, theta: Tensor) -> Tensor:
        """Return every replica's loss."""

    def limit(self, theta: Tensor) -> tuple[Tensor, NDArray[np.int64]]:
        """Return where gradient flow ends from parameters (k, P), and what it took to find."""

    def probe(self, theta: Tensor, lr: float | None) -> ProbePath | None:
        """Return the path of linear probes; None where the first layer trains as well."""


class Exact(Integrator):
    """Solves diagonal networks with one output instead of training them.

    Where all weights train, a replica goes to the limit of gradient flow at once, whatever the clock: the
    smallest test loss on the way there is not known. Linear probes are known at every time, and end at the
    clock or the threshold as trained ones do. See
    :func:`~lit_aux.functional.gradient_flow_limit` and :func:`~lit_aux.functional.gradient_descent_probe`.

    Args:
        lr: Learning rate of linear probes by gradient descent; None for gradient flow.

    Raises:
        ConfigurationError: If the learning rate is not above 0.
    """

    name = "exact"

    def __init__(self, lr: float | None = None) -> None:
        check("lr", lr, RATE)
        self.lr = lr

    def _begin(self, state: IntegratorState) -> None:
        if not hasattr(state.objective, "limit"):
            raise ConfigurationError(
                "integrator: exact solves diagonal networks alone; choose gradient_flow or gradient_descent"
            )

    def advance(self, state: IntegratorState, evaluations: int) -> IntegratorState:
        """Solve as many replicas as take about so many iterations."""
        if state.finished:
            return state
        count = min(len(state.rows), max(1, evaluations // _ITERATIONS))
        some = state.rows[:count]
        objective = cast(Solvable, state.objective.select(index_of(np.arange(count), state.theta)))
        theta = state.theta[index_of(some, state.theta)]
        path = objective.probe(theta, self.lr)
        counts = state.counts
        if path is None:
            theta, counts.evaluations[some] = objective.limit(theta)
            counts.time[some] = np.inf
        else:
            time = self._ends(objective, path, state.threshold[some], state.max_time[some])
            self._show(state, some, path, theta, time)
            theta = path.at(time)
            counts.time[some] = time
            if self.lr is not None:
                counts.accepted[some] = np.where(np.isfinite(time), np.round(time / self.lr), 0)
        counts.loss[some] = objective.value(theta).double().cpu().numpy()
        counts.converged[some] = (counts.loss[some] < state.threshold[some]) | np.isinf(counts.time[some])
        position = state.theta[index_of(state.rows, state.theta)]
        position[:count] = theta
        state.drop(np.arange(len(state.rows)) < count, position)
        return state

    def _ends(self, objective: Solvable, path: ProbePath, threshold: Floats, latest: Floats) -> Floats:
        """Return when probes end (k,): at the first time, or step, with a loss below the threshold."""

        def below(time: Floats) -> NDArray[np.bool_]:
            return np.asarray(objective.value(path.at(time)).double().cpu().numpy() < threshold)

        if self.lr is not None:
            latest = np.where(np.isfinite(latest), np.round(latest / self.lr) * self.lr, latest)
        reached = below(latest)
        if not reached.any():
            return latest
        unit = self.lr or 1e-3
        # the loss falls all the way: find a time that is late enough, then halve
        late = np.full(len(latest), unit)
        for _ in range(200):
            short = reached & ~below(np.minimum(late, latest)) & (late < latest)
            if not short.any():
                break
            late = np.where(short, 2 * late, late)
        late = np.minimum(late, latest)
        early = np.where(late > unit, late / 2, 0.0)
        for _ in range(60):
            middle = (early + late) / 2
            if self.lr is not None:
                middle = np.ceil(middle / self.lr - 1e-9) * self.lr
            open_ = reached & (late - early > (1.5 * self.lr if self.lr else 1e-9 * late))
            if not open_.any():
                break
            enough = below(middle)
            late = np.where(open_ & enough, middle, late)
            early = np.where(open_ & ~enough, middle, early)
        return np.where(reached, late, latest)

    def _show(
        self, state: IntegratorState, some: NDArray[np.int64], path: ProbePath, start: Tensor, end: Floats
    ) -> None:
        """Let the observer look at the instants that concern it; without an end, until nothing moves."""
        observer: Any = state.observer
        if observer is None or not hasattr(observer, "next_time"):
            return
        before, limit = np.zeros(len(some)), path.at(end)
        while True:
            when = observer.next_time(some)
            due = np.flatnonzero(when <= end * (1 + 1e-12))
            if not len(due):
                return
            index = index_of(due, start)
            there = path.at(np.minimum(when, end))
            theta = there[index]
            left = (there - limit).abs().amax(1) > _ROUNDING * limit.abs().amax(1)
            end = np.where(np.isinf(end) & ~left.cpu().numpy(), np.minimum(when, end), end)
            observer.observe(Step(some[due], before[due], when[due], start[index], theta))
            before[due] = when[due]
