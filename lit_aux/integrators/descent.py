"""Steps of fixed size: gradient descent and torch's optimizers, with back-off and stopping."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from copy import deepcopy
from math import ceil
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_aux.errors import ConfigurationError
from lit_aux.integrators.base import Integrator, finite_start
from lit_aux.integrators.objective import Descending, Objective
from lit_aux.integrators.state import Impatient, IntegratorState, Step, index_of
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

    With mini-batches all this is decided after the last step of an epoch, by the mean loss of its batches.

    Args:
        lr: Learning rate at the start, for all replicas.
        batch_size: Rows of a mini-batch, drawn without replacement; None for all rows. Of several tasks,
            each keeps its share of all rows: it weighs its mean over its rows in the batch.
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
            batches = self.steps_of_epoch(state.objective)
            left -= (
                self._whole_steps(state, left) if batches == 1 else self._batch_steps(state, left, batches)
            )
        state.update()
        return state

    def steps_of_epoch(self, objective: Objective) -> int:
        """Return how many steps see every training row of an objective once."""
        if self.batch_size is None:
            return 1
        return -(-cast(Batched, objective).rows() // self.batch_size)

    # On all rows

    def _whole_steps(self, state: IntegratorState, most: int) -> int:
        """Take steps until one concerns somebody; return their number."""
        quiet = min(most - 1, max(int(self._steps_left(state)) - 2, 0))
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
        return taken + 1

    def _evaluate(self, state: IntegratorState) -> NDArray[np.float64]:
        """Write the gradients and return the losses."""
        losses = state.objective.value_and_gradient(state.work["y"], state.work["f"])
        values: NDArray[np.float64] = losses.double().cpu().numpy()
        return values

    def _step(self, state: IntegratorState, values: NDArray[np.float64]) -> None:
        """Look who is done or lost, and move the others."""
        with np.errstate(invalid="ignore"):
            lost = ~(values <= self.divergence)
        below = (values < state.threshold[state.rows]) & ~lost
        over = below | self._limits(state)
        if lost.any():
            over |= self._back_off(state, lost)
        state.counts.loss[state.rows] = np.where(lost, state.counts.loss[state.rows], values)
        state.counts.converged[state.rows] = below
        moving = ~(over | lost)
        if moving.any():
            self._move(state, moving)
            self._show(state, self._count(state, moving), moving)
        if over.any():
            state.drop(over, state.work["y"])

    # On mini-batches

    def _batch_steps(self, state: IntegratorState, most: int, batches: int) -> int:
        """Take steps to the end of the epoch, or until one concerns somebody; return their number."""
        control, rows = state.control, state.rows
        epoch, number = divmod(int(state.counts.evaluations[rows].max()), batches)
        steps = min(most, batches - number, max(ceil(self._steps_left(state) - 1e-6), 1))
        for values in self._descend(state, epoch, range(number, number + steps)):
            control["sum"] += values  # one by one: the sum is the same wherever a block ends
        control["batches"] += steps
        state.counts.evaluations[rows] += steps
        start = self._count(state, np.ones(len(rows), dtype=bool), steps)
        self._judge(state, start, ended=number + steps == batches)
        return steps

    def _descend(self, state: IntegratorState, epoch: int, which: range) -> NDArray[np.float64]:
        """Take the steps of some batches of an epoch; return the losses (batches, replicas) before each."""
        assert self.batch_size is not None
        objective = cast(Batched, state.objective)
        everybody = np.ones(len(state.rows), dtype=bool)
        order, losses = self._order(objective.rows(), epoch), []
        for number in which:
            some = objective.batch(order[number * self.batch_size : (number + 1) * self.batch_size])
            values = some.value_and_gradient(state.work["y"], state.work["f"])
            losses.append(values.double().cpu().numpy())
            self._move(state, everybody)
        return np.stack(losses)

    def _order(self, rows: int, epoch: int) -> Tensor:
        """Return the order of rows in an epoch, the same for all replicas."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(rows, generator=generator)

    def _judge(self, state: IntegratorState, start: NDArray[np.float64], *, ended: bool) -> None:
        """Look who is done or lost by the mean loss of the epoch, or of what there was of it."""
        control, counts, rows = state.control, state.counts, state.rows
        limit = self._limits(state)
        mean = control["sum"] / control["batches"]
        with np.errstate(invalid="ignore"):
            lost = (limit | ended) & ~(mean <= self.divergence)
        below = (mean < state.threshold[rows]) & ~lost & ended
        known = (limit | ended) & ~lost
        counts.loss[rows[known]] = mean[known]
        counts.converged[rows] = below
        if ended:
            control["sum"][:], control["batches"][:] = 0.0, 0
        self._show(state, start, ~lost)  # after which the observer may be tired
        over = below | (self._limits(state) & ~lost)
        if lost.any():
            over |= self._back_off(state, lost)
        if over.any():
            state.drop(over, state.work["y"])

    # What both need

    def _steps_left(self, state: IntegratorState) -> float:
        """Return after how many steps at least somebody may reach a limit, or the observer wants to look."""
        rows, lr = state.rows, state.control["lr"]
        if self._tired(state).any():
            return 0.0
        until = state.max_time[rows] * (1 - 1e-9)
        if state.observer is not None:
            next_time = getattr(state.observer, "next_time", None)
            if next_time is None:  # it wants to see every step
                return 0.0
            until = np.minimum(until, next_time(rows))
        last = np.minimum(until / lr, state.max_evaluations) - state.control["steps"]
        return min(float(last.min()), 1e9)

    def _limits(self, state: IntegratorState) -> NDArray[np.bool_]:
        """Return who has reached the latest time or the last step, or is given up by the observer."""
        rows, counts = state.rows, state.counts
        late = counts.time[rows] >= state.max_time[rows] * (1 - 1e-9)
        return np.asarray(late | (state.control["steps"] >= state.max_evaluations) | self._tired(state))

    def _tired(self, state: IntegratorState) -> NDArray[np.bool_]:
        """Return of whom the observer expects nothing more."""
        if isinstance(state.observer, Impatient):
            return state.observer.tired(state.rows)
        return np.zeros(len(state.rows), dtype=bool)

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

    def _count(
        self, state: IntegratorState, moving: NDArray[np.bool_], steps: int = 1
    ) -> NDArray[np.float64]:
        """Count steps, and return the time before them."""
        control, counts = state.control, state.counts
        control["steps"] += steps * moving
        globally = state.rows[moving]
        start = counts.time[state.rows]
        # steps times rate, not a running sum: a million additions of .1 would miss the published instants
        counts.time[globally] = control["steps"][moving] * control["lr"][moving]
        counts.accepted[globally] += steps
        return start

    def _show(self, state: IntegratorState, start: NDArray[np.float64], moving: NDArray[np.bool_]) -> None:
        """Show the last step of some to those who watch."""
        if state.observer is None or not moving.any():
            return
        globally = state.rows[moving]
        y = state.work["y"]
        after = y if moving.all() else y.index_select(0, index_of(np.flatnonzero(moving), state.theta))
        state.observer.observe(Step(globally, start[moving], state.counts.time[globally], after, after))

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

    def _descend(self, state: IntegratorState, epoch: int, which: range) -> NDArray[np.float64]:
        objective: object = state.objective
        if not isinstance(objective, Descending) or not objective.descends:
            return super()._descend(state, epoch, which)
        assert self.batch_size is not None
        order = self._order(objective.rows(), epoch)
        return objective.descend(state.work["y"], order, self.batch_size, which, state.control["lr"]).T

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
