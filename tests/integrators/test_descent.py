"""Gradient descent and torch's optimizers over many replicas against plain loops, and their back-off."""

from functools import lru_cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from integrator_helpers import (
    Counting,
    Data,
    Recorder,
    diagonal,
    draw,
    finish,
    objective_of,
    packed,
    relu,
    torch_loop,
)
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.integrators import Descent, GradientDescent, TorchOptimizer

SHARED = draw(9, 12, 1)
DATA = [SHARED, (SHARED[0], 2 * SHARED[1]), draw(20, 12, 2)]  # n below and above D
SEEDS = [0, 1, 1]


def network(kind: str, seeds: list[int]) -> Any:
    return relu(seeds, 12, 10) if kind == "relu" else diagonal(seeds, 12, scale=0.3)


def relative(found: Tensor, right: Tensor) -> float:
    return float((found - right).norm() / right.norm())


# Against plain loops


STEPS = 1000
GOALS = np.array([0.0, 0.3, 0.0])  # the second one leaves early


@lru_cache
def together(kind: str) -> Any:
    net, descent = network(kind, SEEDS), GradientDescent(0.02)
    options = {"threshold": GOALS, "max_evaluations": STEPS}
    return net, finish(descent, descent.start(objective_of(net, DATA), packed(net), **options))


@pytest.mark.parametrize(("kind", "row"), [("relu", 0), ("relu", 1), ("diagonal", 1), ("diagonal", 2)])
def test_descent_equals_a_plain_loop_alone_and_among_others(kind: str, row: int) -> None:
    net, state = together(kind)
    taken = int(state.counts.accepted[row])
    assert taken == STEPS if row != 1 else 1 < taken < STEPS - 100
    assert state.counts.converged.tolist() == [False, True, False]
    right = torch_loop(net, row, DATA[row], lambda p: torch.optim.SGD(p, 0.02), [slice(None)] * taken)
    assert relative(state.theta[row], right) < 1e-10
    one, descent = network(kind, [SEEDS[row]]), GradientDescent(0.02)
    options = {"threshold": GOALS[row], "max_evaluations": STEPS}
    alone = finish(descent, descent.start(objective_of(one, [DATA[row]]), packed(one), **options))
    assert relative(alone.theta[0], right) < 1e-10
    assert alone.counts.accepted[0] == taken


def test_adam_equals_a_plain_loop_for_each_replica() -> None:
    def build(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=3e-3, betas=(0.8, 0.99))

    net, adam = network("relu", SEEDS), TorchOptimizer(build, divergence=1e3)
    goals = np.array([0.0, 1.0, 0.0])
    state = adam.start(objective_of(net, DATA), packed(net), threshold=goals, max_evaluations=200)
    finish(adam, state)
    assert adam.name == "adam"
    assert 1 < state.counts.accepted[1] < 200
    for row in range(3):
        batches = [slice(None)] * int(state.counts.accepted[row])
        assert relative(state.theta[row], torch_loop(net, row, DATA[row], build, batches)) < 1e-10


def test_an_optimizer_runs_twice_from_the_same_start_to_the_same_end() -> None:
    adam = TorchOptimizer(lambda p: torch.optim.Adam(p, lr=1e-2))
    start = torch.tensor([1.0, -2.0], dtype=torch.float64)
    # many times: a state that is gone leaves its address to another
    ends = [adam.run(lambda y: (y**2).sum(), start, max_evaluations=5).parameters for _ in range(30)]
    assert all(torch.equal(end, ends[0]) for end in ends)


def test_the_step_may_be_small_for_torch_too() -> None:
    sgd = TorchOptimizer(lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9))
    end = sgd.run(lambda y: (y**2).sum(), torch.ones(3), threshold=1e-6)
    assert bool(end.converged)
    assert end.counts.lr[0] == 0.05


# Where it ends


def test_threshold_time_and_steps() -> None:
    rates = torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64)

    def loss(y: Tensor) -> Tensor:
        return rates * y[:, 0] ** 2 / 2

    descent, watch = GradientDescent(0.5), Recorder()
    start = torch.ones(3, 1, dtype=torch.float64)
    limits = {
        "threshold": np.array([1e-3, 0, 0]),
        "max_evaluations": 300,
        "max_time": np.array([1e9, 50.0, 1e9]),
    }
    state = finish(descent, descent.start(loss, start, observer=watch, **limits))
    counts = state.counts
    # y = (1 - rate / 2)^k: 0.5^(2k) / 2 < 1e-3 from k = 5 on; 100 steps; 300 steps
    assert counts.accepted.tolist() == [5, 100, 300]
    assert counts.converged.tolist() == [True, False, False]
    np.testing.assert_allclose(counts.time, [2.5, 50, 150])
    np.testing.assert_allclose(
        state.theta[:, 0].numpy(), (1 - rates.numpy() / 2) ** [5, 100, 300], rtol=1e-12
    )
    np.testing.assert_allclose(loss(state.theta).numpy(), counts.loss, rtol=1e-12)
    assert counts.evaluations.tolist() == [6, 101, 301]
    seen = [float(s.end[list(s.replicas).index(2)]) for s in watch.stretches]
    np.testing.assert_allclose(seen, 0.5 * np.arange(1, 301), rtol=1e-15)


# Back-off


def steep(curvature: float) -> Data:
    x, y = draw(9, 12, 5)
    return curvature**0.5 * x, y


def with_a_third(last: Data, steps: int = 150, **options: Any) -> Any:
    net, descent = network("relu", [0, 1, 2]), GradientDescent(0.05, **options)
    watch = Recorder()
    state = descent.start(
        objective_of(net, [DATA[0], DATA[2], last]), packed(net), max_evaluations=steps, observer=watch
    )
    return finish(descent, state), watch, descent


def test_who_diverges_begins_anew_with_a_tenth_and_nobody_notices() -> None:
    lost, watch, _ = with_a_third(steep(60.0))
    calm, nobody, _ = with_a_third(draw(9, 12, 5))
    assert nobody.restarted == []
    assert set(watch.restarted) == {2}
    times = len(watch.restarted)
    assert lost.counts.rejected.tolist() == [0, 0, times]
    np.testing.assert_allclose(lost.counts.lr, [0.05, 0.05, 0.05 / 10**times])
    assert torch.equal(lost.theta[:2], calm.theta[:2])  # bit for bit
    assert lost.counts.loss[:2].tolist() == calm.counts.loss[:2].tolist()
    net = network("relu", [2])
    batches = [slice(None)] * int(lost.counts.accepted[2])
    lr = 0.05 / 10**times
    right = torch_loop(net, 0, steep(60.0), lambda p: torch.optim.SGD(p, lr), batches)
    assert relative(lost.theta[2], right) < 1e-10
    assert lost.counts.time[2] == pytest.approx(lr * lost.counts.accepted[2])


def test_who_cannot_be_saved_keeps_its_start() -> None:
    lost, watch, _ = with_a_third(steep(1e9), max_backoffs=2, divergence=1e12)
    net = network("relu", [0, 1, 2])
    assert watch.restarted == [2, 2, 2]
    assert not lost.counts.converged[2]
    assert lost.counts.finished.all()
    assert torch.equal(lost.theta[2], packed(net)[2])
    assert np.isfinite(lost.counts.loss).all()
    assert lost.counts.time[2] == lost.counts.accepted[2] == 0
    assert lost.counts.accepted[:2].tolist() == [150, 150]


def test_what_is_reported_of_it_belongs_to_the_weights_that_are_kept() -> None:
    # ten times 1.5, then it is given up: the last loss seen was far from that of the start
    descent = GradientDescent(2.5, divergence=5.0, max_backoffs=0)
    end = descent.run(lambda y: (y**2).sum() / 2, torch.tensor([0.1]).double(), max_evaluations=100)
    assert float(end.parameters) == pytest.approx(0.1, rel=1e-7)
    assert not bool(end.converged)
    assert float(end.loss) == pytest.approx(0.1**2 / 2, rel=1e-6)


def test_a_loss_that_becomes_nan_backs_off_too() -> None:
    def loss(y: Tensor) -> Tensor:  # nothing beyond |y| = 1
        return (y**2).sum(1) - torch.log(1 - y**2).sum(1)

    start = torch.tensor([[0.999], [0.1]], dtype=torch.float64)
    descent = GradientDescent(0.1)
    state = finish(descent, descent.start(loss, start, threshold=1e-4, max_evaluations=100_000))
    assert state.counts.converged.all()
    assert state.counts.rejected[0] > 0
    assert state.counts.rejected[1] == 0
    alone = finish(descent, descent.start(loss, start[1:], threshold=1e-4))
    assert torch.equal(alone.theta[0], state.theta[1])


def test_an_optimizer_that_begins_anew_has_forgotten_its_moments() -> None:
    def build(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)

    net, data = network("relu", [2]), steep(60.0)
    optimizer = TorchOptimizer(build, divergence=500.0)
    state = optimizer.start(objective_of(net, [data]), packed(net), max_evaluations=20)
    finish(optimizer, state)
    times = int(state.counts.rejected[0])
    assert times > 0
    lr = 0.05 / 10**times
    batches = [slice(None)] * 20
    right = torch_loop(net, 0, data, lambda p: torch.optim.SGD(p, lr, momentum=0.9), batches)
    assert relative(state.theta[0], right) < 1e-10


# Mini-batches


class Regression:
    """Linear regression of many replicas that can be cut, and remembers how it was."""

    def __init__(self, x: Tensor, y: Tensor, seen: list[list[int]] | None = None) -> None:
        self.x, self.y, self.replicas = x, y, len(y)  # (n, d), (k, n)
        self.seen: list[list[int]] = [] if seen is None else seen

    def value_and_gradient(self, theta: Tensor, out: Tensor) -> Tensor:
        error = theta @ self.x.T - self.y
        torch.mm(error * 2 / len(self.x), self.x, out=out)
        return error.square().mean(1)

    def select(self, keep: Tensor) -> "Regression":
        return Regression(self.x, self.y[keep], self.seen)

    def rows(self) -> int:
        return len(self.x)

    def batch(self, chosen: Tensor) -> "Regression":
        self.seen.append(chosen.tolist())
        return Regression(self.x[chosen], self.y[:, chosen], self.seen)


def regression() -> Regression:
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Regression(x, torch.stack([x[:, 0], x[:, 1] - 2 * x[:, 2]]))


def small_batches(seed: int = 0, steps: int = 40, **options: Any) -> tuple[Regression, Any]:
    problem, descent = regression(), GradientDescent(0.05, batch_size=4, seed=seed)
    state = descent.start(problem, torch.zeros(2, 3).double(), max_evaluations=steps, **options)
    return problem, finish(descent, state)


def test_an_epoch_sees_every_row_once() -> None:
    problem, _ = small_batches()
    assert [len(rows) for rows in problem.seen[:6]] == [4, 4, 2, 4, 4, 2]
    epochs = [[row for rows in problem.seen[i : i + 3] for row in rows] for i in range(0, 39, 3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 10  # in another order each time
    assert small_batches()[0].seen == problem.seen
    assert small_batches(seed=1)[0].seen != problem.seen


def test_mini_batches_equal_a_plain_loop_over_the_same_rows() -> None:
    problem, state = small_batches()
    for row in (0, 1):
        w = torch.zeros(3, dtype=torch.float64)
        for rows in problem.seen[:40]:
            x, y = problem.x[rows], problem.y[row, rows]
            w = w - 0.05 * 2 * x.T @ (x @ w - y) / len(rows)
        torch.testing.assert_close(state.theta[row], w, rtol=1e-12, atol=0)


def test_the_threshold_holds_for_the_mean_over_an_epoch() -> None:
    problem, state = small_batches(steps=5000, threshold=1e-6)
    assert state.counts.converged.all()
    for row in (0, 1):
        w, losses = torch.zeros(3, dtype=torch.float64), []
        for rows in problem.seen:
            x, y = problem.x[rows], problem.y[row, rows]
            losses.append(float((x @ w - y).square().mean()))
            w = w - 0.05 * 2 * x.T @ (x @ w - y) / len(rows)
            if len(losses) % 3 == 0 and np.mean(losses[-3:]) < 1e-6:
                break
        torch.testing.assert_close(state.theta[row], w, rtol=1e-10, atol=0)
        assert state.counts.evaluations[row] == len(losses)


def test_mini_batches_of_a_network() -> None:
    net, seen = network("relu", [0, 1]), []
    inner = objective_of(net, [DATA[0], DATA[1]])

    class Watched(Counting):
        def rows(self) -> int:
            return int(inner.rows())

        def batch(self, chosen: Tensor) -> Any:
            seen.append(chosen)
            return inner.batch(chosen)

    descent = GradientDescent(0.02, batch_size=4)
    state = finish(descent, descent.start(Watched(inner), packed(net), max_evaluations=60))
    for row in (0, 1):
        right = torch_loop(net, row, DATA[row], lambda p: torch.optim.SGD(p, 0.02), seen[:60])
        assert relative(state.theta[row], right) < 1e-10


# Options


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lr", 0.0),
        ("lr", float("nan")),
        ("batch_size", 0),
        ("divergence", 0.0),
        ("max_backoffs", -1),
    ],
)
@pytest.mark.parametrize("kind", [GradientDescent, TorchOptimizer])
def test_bad_options_are_named_in_one_line(kind: type[Descent], option: str, value: float) -> None:
    options: dict[str, Any] = {option: value}
    if kind is TorchOptimizer:
        lr = 0.0 if option == "lr" else 0.1  # torch itself refuses NaN
        options = {"optimizer": partial(torch.optim.SGD, lr=lr)} | ({} if option == "lr" else options)
    with pytest.raises(ConfigurationError, match=option) as caught:
        kind(**options)
    assert "\n" not in str(caught.value)
