"""Steps of fixed size: gradient descent and torch's optimizers, with back-off and stopping."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_aux.errors import ConfigurationError
from lit_aux.integrators.base import Integrator, finite_start
from lit_aux.integrators.objective import Objective
from lit_aux.integrators.state import IntegratorState, Step, index_of
from lit_aux.ranges import COUNT, INDEX, RATE, SEED, check


class Batched(Protocol):
    """An objective that can be cut into mini-batches."""

    def rows(self) -> int:
        """Return the number of training rows, the same for all replicas."""

    def batch(self, chosen: Tensor) -> Objective:
        """Return the objective of some rows, counted over all tasks one after another."""


class Descent(Integrator):
    """Steps of fixed size with a back-off for each replica.

    A replica whose loss exceeds ``divergence`` or is not finite begins anew with its learning rate divided by
    ten, up to ``max_backoffs`` times; the others do not notice. One that cannot be saved keeps its start and
    ends with ``converged`` false.

    Args:
        lr: Learning rate at the start, for all replicas.
        batch_size: Rows of a mini-batch, drawn without replacement; None for all rows. The threshold then
            holds for the mean over an epoch.
        divergence: Loss above which a replica begins anew.
        max_backoffs: How often.
        seed: Of the order of mini-batches.

    Raises:
        ConfigurationError: If an option is out of range.
    """

    def __init__(
        self,
        lr: float = 0.1,
        *,
        batch_size: int | None = None,
        divergence: float = 100.0,
        max_backoffs: int = 6,
        seed: int = 0,
    ) -> None:
        check("lr", lr, RATE)
        check("batch_size", batch_size, COUNT)
        if not divergence > 0:  # infinite: nothing counts as divergence
            raise ConfigurationError(f"divergence: {divergence} must be above 0")
        check("max_backoffs", max_backoffs, INDEX)
        check("seed", seed, SEED)
        self.lr, self.batch_size, self.divergence = lr, batch_size, divergence
        self.max_backoffs, self.seed = max_backoffs, seed  # in this order, which keys of stored phases know

    def _begin(self, state: IntegratorState) -> None:
        y = state.theta.clone()
        n = len(y)
        state.work = {"y": y, "start": y.clone(), "f": torch.empty_like(y)}
        losses = finite_start(state.objective.value_and_gradient(y, state.work["f"]))
        state.counts.loss[:] = losses
        state.counts.lr[:] = self.lr
        state.counts.curvature[:] = np.nan
        state.control = {
            "lr": np.full(n, self.lr),
            "steps": np.zeros(n, dtype=np.int64),
            "backoffs": np.zeros(n, dtype=np.int64),
            "sum": np.zeros(n),
            "batches": np.zeros(n, dtype=np.int64),
            "start_loss": losses.copy(),
        }

    def advance(self, state: IntegratorState, evaluations: int) -> IntegratorState:
        """Move every replica that is under way by ``evaluations`` steps, in place."""
        left = evaluations
        while left > 0 and not state.finished:
            quiet = min(left - 1, self._quiet_steps(state))
            everybody = np.ones(len(state.rows), dtype=bool)
            goal = state.threshold[state.rows]
            values = self._evaluate(state)
            taken = 0
            # nothing but the losses can stop these steps; what they add up to is counted at once
            while taken < quiet and values.max() <= self.divergence and (values >= goal).all():
                self._move(state, everybody)
                taken += 1
                values = self._evaluate(state)
            state.counts.evaluations[state.rows] += taken + 1
            if taken:
                self._count(state, everybody, taken)
            self._step(state, values)
            left -= taken + 1
        state.update()
        return state

    def _evaluate(self, state: IntegratorState) -> NDArray[np.float64]:
        """Write the gradients and return the losses."""
        objective = state.objective if self.batch_size is None else self._minibatch(state)
        losses = objective.value_and_gradient(state.work["y"], state.work["f"])
        values: NDArray[np.float64] = losses.double().cpu().numpy()
        return values

    def _quiet_steps(self, state: IntegratorState) -> int:
        """Return after how many steps at least somebody may reach a limit, or the observer wants to look."""
        if self.batch_size is not None:
            return 0
        rows, lr = state.rows, state.control["lr"]
        until = state.max_time[rows] * (1 - 1e-9)
        if state.observer is not None:
            next_time = getattr(state.observer, "next_time", None)
            if next_time is None:  # it wants to see every step
                return 0
            until = np.minimum(until, next_time(rows))
        last = np.minimum(until / lr, state.max_evaluations) - state.control["steps"]
        return int(min(max(last.min() - 2, 0), 1e9))

    def _step(self, state: IntegratorState, values: NDArray[np.float64]) -> None:
        """Look who is done or lost, and move the others."""
        with np.errstate(invalid="ignore"):
            lost = ~(values <= self.divergence)
        below = self._is_below(state, values, lost)
        over = below | self._limits(state)
        if lost.any():
            over |= self._back_off(state, lost)
        state.counts.loss[state.rows] = np.where(lost, state.counts.loss[state.rows], values)
        state.counts.converged[state.rows] = below & ~lost
        moving = ~(over | lost)
        if moving.any():
            self._move(state, moving)
            self._count(state, moving)
        if over.any():
            state.drop(over, state.work["y"])

    def _is_below(
        self, state: IntegratorState, values: NDArray[np.float64], lost: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Return whose loss (of the whole epoch, for mini-batches) is below the threshold."""
        goal = state.threshold[state.rows]
        if self.batch_size is None:
            return np.asarray((values < goal) & ~lost)
        control = state.control
        control["sum"] += np.where(lost, 0.0, values)
        control["batches"] += 1
        rows = cast(Batched, state.objective).rows()
        ended = control["batches"] >= -(-rows // self.batch_size)
        below = ended & (control["sum"] / control["batches"] < goal)
        control["sum"][ended], control["batches"][ended] = 0.0, 0
        return np.asarray(below & ~lost)

    def _limits(self, state: IntegratorState) -> NDArray[np.bool_]:
        """Return who has reached the latest time or the last step."""
        rows, counts = state.rows, state.counts
        late = counts.time[rows] >= state.max_time[rows] * (1 - 1e-9)
        return np.asarray(late | (state.control["steps"] >= state.max_evaluations))

    def _back_off(self, state: IntegratorState, lost: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Put lost replicas back to their start with a smaller step; return those without another chance."""
        control, rows = state.control, np.flatnonzero(lost)
        index = index_of(rows, state.theta)
        state.work["y"].index_copy_(0, index, state.work["start"].index_select(0, index))
        control["lr"][rows] /= 10
        control["backoffs"][rows] += 1
        control["steps"][rows] = 0
        control["sum"][rows], control["batches"][rows] = 0.0, 0
        globally = state.rows[rows]
        state.counts.time[globally] = 0.0
        state.counts.rejected[globally] += 1
        state.counts.lr[globally] = control["lr"][rows]
        state.counts.accepted[globally] = 0
        state.counts.loss[globally] = control["start_loss"][rows]
        if state.observer is not None:
            state.observer.restart(globally)
        self._forget(state, rows)
        return lost & (control["backoffs"] > self.max_backoffs)

    def _count(self, state: IntegratorState, moving: NDArray[np.bool_], steps: int = 1) -> None:
        """Count the steps, and show the last to those who watch."""
        control, counts = state.control, state.counts
        control["steps"] += steps * moving
        globally = state.rows[moving]
        start = counts.time[globally].copy()
        # steps times rate, not a running sum: a million additions of .1 would miss the published instants
        counts.time[globally] = control["steps"][moving] * control["lr"][moving]
        counts.accepted[globally] += steps
        if state.observer is not None and steps == 1:
            index = index_of(np.flatnonzero(moving), state.theta)
            y = state.work["y"]
            after = y if moving.all() else y.index_select(0, index)
            state.observer.observe(Step(globally, start, counts.time[globally], after, after))

    def _minibatch(self, state: IntegratorState) -> Objective:
        """Return the objective of the next rows; all replicas that started together see the same order."""
        objective = cast(Any, state.objective)
        rows = objective.rows()
        assert self.batch_size is not None
        batches = -(-rows // self.batch_size)
        step = int(state.counts.evaluations[state.rows].max())
        epoch, number = divmod(step, batches)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(rows, generator=generator)
        chosen: Objective = objective.batch(order[number * self.batch_size : (number + 1) * self.batch_size])
        return chosen

    @abstractmethod
    def _move(self, state: IntegratorState, moving: NDArray[np.bool_]) -> None:
        """Take one step with the gradients in ``work["f"]``; replicas that do not move keep their place."""

    def _forget(self, state: IntegratorState, rows: NDArray[np.int64]) -> None:
        """Forget what was learnt about replicas that begin anew."""


class GradientDescent(Descent):
    """Steps y <- y - lr grad L(y), as in the published experiments; see :class:`Descent` for the options.

    Example:
        >>> from torch import tensor
        >>> from lit_aux.integrators import GradientDescent
        >>> def loss(w):
        ...     return (w - 3.0).square().sum()
        >>> found = GradientDescent(lr=0.1).run(loss, tensor([0.0]), threshold=1e-6)
        >>> found.parameters.round(decimals=2)
        tensor([3.])
    """

    name = "gradient_descent"

    def _move(self, state: IntegratorState, moving: NDArray[np.bool_]) -> None:
        y, f, lr = state.work["y"], state.work["f"], state.control["lr"]
        if moving.all() and (lr == lr[0]).all():
            y.add_(f, alpha=-float(lr[0]))
            return
        if not moving.all():  # 0 times what is not finite would not be 0
            f[torch.from_numpy(~moving).to(f.device)] = 0
        y.addcmul_(f, torch.from_numpy(-lr * moving).to(y)[:, None])


class TorchOptimizer(Descent):
    """Full- or mini-batch steps of an optimizer of torch that treats each weight by itself (SGD, Adam, ...).

    Args:
        optimizer: Builds it from the parameters; its own learning rate is the one at the start.
        **kwargs: As for :class:`Descent`.
    """

    def __init__(self, optimizer: Callable[[Iterable[Tensor]], Optimizer], **kwargs: Any) -> None:
        built = optimizer([nn.Parameter(torch.zeros(1, 1))])
        super().__init__(float(built.defaults["lr"]), **kwargs)
        self.name = type(built).__name__.lower()
        self.optimizer = optimizer

    def _move(self, state: IntegratorState, moving: NDArray[np.bool_]) -> None:
        """Step each replica with an optimizer of its own, so that rates and moments stay apart."""
        y, f = state.work["y"], state.work["f"]
        for place in np.flatnonzero(moving):
            row = y[place : place + 1]
            parameter, optimizer = self._own(state, int(place))
            parameter.data.copy_(row)
            parameter.grad = f[place : place + 1].clone()
            optimizer.step()
            row.copy_(parameter.detach())

    def _own(self, state: IntegratorState, place: int) -> tuple[nn.Parameter, Optimizer]:
        """Return a replica's parameter and optimizer; what was saved of the latter is restored into it."""
        replica = int(state.rows[place])
        if replica not in state.optimizers:
            parameter = nn.Parameter(state.work["y"][place : place + 1].clone())
            optimizer = self.optimizer([parameter])
            for group in optimizer.param_groups:
                group["lr"] *= float(state.control["lr"][place]) / self.lr
            if replica in state.saved_optimizers:
                optimizer.load_state_dict(deepcopy(state.saved_optimizers.pop(replica)))
            state.optimizers[replica] = (parameter, optimizer)
        return state.optimizers[replica]

    def _forget(self, state: IntegratorState, rows: NDArray[np.int64]) -> None:
        for replica in state.rows[rows]:
            state.optimizers.pop(int(replica), None)
            state.saved_optimizers.pop(int(replica), None)
