"""Mini-batches of two tasks against a plain loop, what an epoch's mean decides, and where a block may end."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from integrator_helpers import Counting, Data, Floats, Recorder, draw, finish, forward, packed
from torch import Tensor, nn

from lit_aux.integrators import GradientDescent
from lit_aux.models import DiagonalNet, Problems, ReLUNet, StudentNet

SIZES = {"aux": 17, "main": 3}
BATCH = 4  # five batches of 4; some hold no row of the main task
WEIGHT = {"aux": 1.0, "main": 2.0}


def teachers(dtype: torch.dtype = torch.float64) -> dict[str, list[Data]]:
    """Rows of each task for three replicas, of which the first two share inputs."""
    found: dict[str, list[Data]] = {}
    for number, (task, n) in enumerate(SIZES.items()):
        x, y = draw(n, 6, number, dtype)
        found[task] = [(x, y), (x, y * 2 - 0.1), draw(n, 6, 10 + number, dtype)]
    return found


def network(kind: str, dtype: str = "float64") -> StudentNet:
    tasks, options = dict.fromkeys(SIZES, 1), {"seeds": [0, 1, 1], "init_scale": 0.7, "dtype": dtype}
    return DiagonalNet(6, tasks, **options) if kind == "diagonal" else ReLUNet(6, tasks, hidden=9, **options)


def objective_of(net: StudentNet, chunk: int, weights: dict[str, float] | None = None) -> Any:
    data = teachers(net.dtype)
    problems = Problems(
        list(SIZES),
        lambda row, task: id(data[task][row][0]),
        lambda row, task: data[task][row],
        weights or {},
    )
    return net.objective(problems, torch.arange(3), list(net.weights()), chunk)


class Seen(Counting):
    """Passes on what descent asks for, and keeps the rows of every batch."""

    def __init__(self, inner: Any, batches: list[Tensor]) -> None:
        super().__init__(inner)
        self.batches = batches

    def rows(self) -> int:
        return int(self.inner.rows())

    def batch(self, chosen: Tensor) -> Any:
        self.batches.append(chosen)
        return self.inner.batch(chosen)

    @property
    def descends(self) -> bool:
        return getattr(self.inner, "descends", False)

    def descend(self, theta: Tensor, order: Tensor, batch_size: int, which: range, lr: Floats) -> Floats:
        self.batches += [order.split(batch_size)[number] for number in which]
        return np.asarray(self.inner.descend(theta, order, batch_size, which, lr))


def published_loop(
    net: StudentNet, row: int, batches: Sequence[Tensor], lr: float, weights: dict[str, float]
) -> tuple[Tensor, list[float]]:
    """One replica by autograd and SGD: a task's share of all rows times its mean over those in the batch."""
    parameters = [nn.Parameter(p.detach()[row].clone()) for p in net.weights().values()]
    optimizer, losses = torch.optim.SGD(parameters, lr), []
    shares = {task: weights[task] * n for task, n in SIZES.items()}
    for chosen in batches:
        loss, start = torch.zeros((), dtype=net.dtype), 0
        for output, (task, data) in enumerate(teachers(net.dtype).items()):
            inside = chosen[(chosen >= start) & (chosen < start + SIZES[task])] - start
            start += SIZES[task]
            if len(inside):
                # the diagonal network has two readouts, of each sign
                own = [p if i < len(parameters) / 2 else p[output, None] for i, p in enumerate(parameters)]
                error = forward(own, data[row][0][inside]) - data[row][1][inside]
                loss = loss + shares[task] / sum(shares.values()) * error.square().mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in parameters]), losses


@pytest.mark.parametrize("weights", [dict.fromkeys(SIZES, 1.0), WEIGHT])
@pytest.mark.parametrize(("kind", "chunk"), [("relu", 1), ("relu", 2), ("diagonal", 0)])
def test_two_tasks_follow_the_published_loop(kind: str, chunk: int, weights: dict[str, float]) -> None:
    net, batches = network(kind), list[Tensor]()
    problem, descent = (
        Seen(objective_of(net, chunk, weights), batches),
        GradientDescent(0.05, batch_size=BATCH),
    )
    assert problem.descends == (kind == "relu" and chunk == 1)
    state = finish(descent, descent.start(problem, packed(net), max_evaluations=60))
    assert [sorted(torch.cat(batches[i : i + 5]).tolist()) for i in range(0, 60, 5)] == [[*range(20)]] * 12
    assert any((some < 17).all() for some in batches)
    for row in range(3):
        right, losses = published_loop(net, row, batches, 0.05, weights)
        torch.testing.assert_close(state.theta[row], right, rtol=1e-9, atol=1e-11)
        assert state.counts.loss[row] == pytest.approx(np.mean(losses[-5:]), rel=1e-9)
        assert state.counts.accepted[row] == state.counts.evaluations[row] == 60


def test_single_precision_stays_near_double() -> None:
    ends = []
    for dtype in ("float32", "float64"):
        net, descent = network("relu", dtype), GradientDescent(0.05, batch_size=BATCH)
        state = finish(descent, descent.start(objective_of(net, 1), packed(net), max_evaluations=100))
        assert state.theta.dtype == getattr(torch, dtype)
        ends.append(state.theta.double())
    assert float((ends[0] - ends[1]).norm() / ends[1].norm()) < 1e-5


# What an epoch's mean decides


class Rows:
    """Losses of single rows that do not depend on the weights, and no gradients."""

    def __init__(self, values: Tensor) -> None:
        self.values, self.replicas = values, len(values)

    def value_and_gradient(self, theta: Tensor, out: Tensor) -> Tensor:
        out.zero_()
        return self.values.mean(1)

    def select(self, keep: Tensor) -> "Rows":
        return Rows(self.values[keep])

    def rows(self) -> int:
        return self.values.shape[1]

    def batch(self, chosen: Tensor) -> "Rows":
        return Rows(self.values[:, chosen])


def test_divergence_is_judged_by_the_mean_of_an_epoch() -> None:
    calm, steep, mad = [0.0, 0.0, 0.0, 300.0], [0.0, 0.0, 110.0, 300.0], [0.0, float("nan"), 0.0, 0.0]
    problem = Rows(torch.tensor([calm, steep, mad], dtype=torch.float64))
    descent, watch = GradientDescent(0.5, batch_size=1, divergence=100.0, max_backoffs=2), Recorder()
    with pytest.MonkeyPatch.context() as patch:  # at the start nothing is wrong yet
        patch.setattr(Rows, "value_and_gradient", lambda self, theta, out: torch.ones(3).double())
        state = descent.start(problem, torch.zeros(3, 1).double(), max_evaluations=40, observer=watch)
    descent.advance(state, 3)
    assert watch.restarted == []  # before the end of the epoch, whatever a batch says
    finish(descent, state)
    assert state.counts.rejected.tolist() == [0, 3, 3]
    assert state.counts.accepted.tolist() == [40, 0, 0]
    assert state.counts.loss.tolist() == [75.0, 1.0, 1.0]
    assert state.counts.evaluations.tolist() == [40, 12, 12]


def test_a_batch_of_all_rows_is_descent_on_all_rows() -> None:
    ends = []
    for batch_size in (None, 20, 100):
        net, descent = network("relu"), GradientDescent(0.05, batch_size=batch_size)
        state = finish(descent, descent.start(objective_of(net, 1), packed(net), max_evaluations=50))
        ends.append((state.theta, state.counts.loss))
    for theta, losses in ends[1:]:
        torch.testing.assert_close(theta, ends[0][0], rtol=1e-12, atol=0)
        np.testing.assert_allclose(losses, ends[0][1], rtol=1e-12)


# Where a block may end


class At(Recorder):
    """Wants to see certain ends of epochs."""

    def next_time(self, replicas: Any) -> Floats:
        return np.full(len(replicas), 0.05 * 5 * (1 + 3 * len(self.stretches)))


@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blocks_and_checkpoints_within_an_epoch_change_nothing(dtype: str, chunk: int) -> None:
    net, descent = network("relu", dtype), GradientDescent(0.05, batch_size=BATCH, divergence=3.0)
    goals = np.array([0.0, 0.0, 0.35])

    def begin(watch: Any) -> Any:
        limits = {"threshold": goals, "max_evaluations": 63}
        return descent.start(objective_of(net, chunk), packed(net), observer=watch, **limits)

    whole = finish(descent, begin(At()))
    for block in (1, 7):
        state = begin(At())
        while not state.finished:
            descent.advance(state, block)
            saved, state = state.state_dict(), begin(state.observer)
            state.load_state_dict(saved)
        assert torch.equal(state.theta, whole.theta)
        for name, values in vars(whole.counts).items():
            np.testing.assert_array_equal(getattr(state.counts, name), values, err_msg=name)


def test_who_watches_some_instants_sees_these() -> None:
    net, descent, watch = network("relu"), GradientDescent(0.05, batch_size=BATCH), At()
    finish(descent, descent.start(objective_of(net, 1), packed(net), max_evaluations=100, observer=watch))
    ends = [float(step.end[0]) for step in watch.stretches]
    # a pass ends with an epoch at the latest; it looks after epochs 1, 4, 7, ...
    assert len(ends) == 20
    np.testing.assert_allclose(ends, 0.25 * np.arange(1, 21))
