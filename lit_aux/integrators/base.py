"""What all integrators have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.integrators.objective import FunctionObjective, Objective, Parameters
from lit_aux.integrators.state import Counts, IntegratorState, Observer, Solution


class Integrator(ABC):
    """Moves the parameters of small full-batch networks, many replicas at once.

    Each replica has its own steps, its own end, and leaves the batch when it is done. A loss is any function
    of a tensor or a dict of parameters that returns a scalar, or one value a replica (parameters then carry
    the replicas on their first dimension), or an :class:`~lit_aux.integrators.Objective`.
    """

    name: str

    def run(
        self,
        loss: Callable[[Any], Tensor],
        parameters: Parameters,
        *,
        threshold: float = 0.0,
        max_evaluations: float = 100_000,
        max_time: float | None = None,
    ) -> Solution:
        """Follow a loss until it is below a threshold.

        Args:
            loss: A function of the parameters; a scalar or one value a replica.
            parameters: Where it starts; not changed.
            threshold: Training loss below which a replica is done.
            max_evaluations: Most gradient evaluations of a replica.
            max_time: Latest flow time; for descent, the sum of learning rates.

        Returns:
            The end, with ``parameters``, ``loss``, ``evaluations`` and ``converged``.

        Raises:
            ConfigurationError: If the loss has another shape, or no finite value at the start.
        """
        objective = FunctionObjective(loss, parameters)
        theta = objective.pack(parameters)
        limits: dict[str, Any] = {"max_evaluations": max_evaluations, "max_time": max_time}
        state = self.start(objective, theta, threshold=threshold, **limits)
        while not state.finished:
            self.advance(state, 1000)
        counts = state.counts
        row = 0 if objective.single else slice(None)
        return Solution(
            objective.unpack(state.theta),
            loss=torch.from_numpy(counts.loss)[row],
            evaluations=torch.from_numpy(counts.evaluations)[row],
            converged=torch.from_numpy(counts.converged)[row],
            counts=counts,
        )

    def start(
        self,
        loss: Callable[[Any], Tensor] | Objective,
        parameters: Parameters,
        *,
        threshold: float | np.ndarray = 0.0,
        max_evaluations: float = np.inf,
        max_time: float | np.ndarray | None = None,
        observer: Observer | None = None,
    ) -> IntegratorState:
        """Begin at some parameters.

        Args:
            loss: As in :meth:`run`, or an objective over a matrix (R, P).
            parameters: As in :meth:`run`; for an objective the matrix.
            threshold: Training loss below which a replica is done, for all or for each.
            max_evaluations: Most gradient evaluations of a replica.
            max_time: Latest flow time, for all or for each.
            observer: Sees every accepted step.

        Returns:
            The state that :meth:`advance` moves.

        Raises:
            ConfigurationError: If a loss is not finite at the start.
        """
        if hasattr(loss, "value_and_gradient"):
            objective: Any = loss
            assert isinstance(parameters, Tensor)
            theta = parameters.detach().clone()
        else:
            objective = FunctionObjective(loss, parameters)
            theta = objective.pack(parameters)
        replicas = objective.replicas
        latest = np.inf if max_time is None else max_time
        state = IntegratorState(
            theta=theta,
            counts=Counts.zeros(replicas),
            rows=np.arange(replicas),
            objective=objective,
            threshold=np.broadcast_to(np.asarray(threshold, dtype=float), replicas).copy(),
            max_time=np.broadcast_to(np.asarray(latest, dtype=float), replicas).copy(),
            max_evaluations=max_evaluations,
            observer=observer,
        )
        self._begin(state)
        return state

    @abstractmethod
    def advance(self, state: IntegratorState, evaluations: int) -> IntegratorState:
        """Move every replica that is under way by about so many gradient evaluations, in place."""

    @abstractmethod
    def _begin(self, state: IntegratorState) -> None:
        """Evaluate the start and fill the buffers."""


def finite_start(losses: Tensor) -> np.ndarray:
    """Return the losses at the start as float64; refuse those that are not finite."""
    values: np.ndarray = losses.double().cpu().numpy()
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ConfigurationError(f"loss: it is {values[row]} at the start (replica {row}); it must be finite")
    return values
