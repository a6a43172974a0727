"""Gradients that jump: rounded ones against a formula, flow along a kink, and the landing on a chord."""

from typing import Any

import numpy as np
import pytest
import torch
from integrator_helpers import Counting, Data, Floats, Recorder, draw, finish, objective_of, packed, relu
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp
from torch import Tensor

from lit_aux.integrators import FunctionObjective, GradientFlow
from lit_aux.integrators.gradient_flow import ROUNDING
from lit_aux.integrators.objective import Kinked
from lit_aux.models import ReLUNet
from lit_aux.models.student import Problems

RATES = torch.tensor([0.5, 3.0, 40.0], dtype=torch.float64)


def slopes(theta: Floats, x: Floats, y: Floats, hidden: int, angle: float) -> tuple[float, Floats]:
    """Loss and rounded gradient of one network and one output, unit by unit and row by row."""
    d = x.shape[1]
    w, v = theta[: hidden * d].reshape(hidden, d), theta[hidden * d :]
    error = np.maximum(x @ w.T, 0) @ v - y
    by_w, by_v = np.zeros_like(w), np.zeros_like(v)
    for h in range(hidden):
        for i in range(len(x)):
            lengths = np.linalg.norm(w[h]) * np.linalg.norm(x[i])
            part = 0.0
            if lengths > 0:
                part = np.clip((w[h] @ x[i]) / lengths / angle + 0.5, 0.0, 1.0)
            by_w[h] += 2 / len(x) * error[i] * part * v[h] * x[i]
            by_v[h] += 2 / len(x) * error[i] * part * (w[h] @ x[i])
    return float((error**2).mean()), np.concatenate([by_w.ravel(), by_v])


@pytest.mark.parametrize("n", [7, 300])  # of one block of rows, and of two
@pytest.mark.parametrize("angle", [1e-3, 0.3])
def test_rounded_gradients_are_those_of_the_formula(n: int, angle: float) -> None:
    data = [draw(n, 5, 0), draw(n, 5, 1)]
    net = relu([0, 1], 5, 6)
    theta = packed(net)
    theta[0, :5] = 0.0  # a unit that is switched off
    objective = objective_of(net, data).rounded(angle)
    gradient = torch.empty_like(theta)
    losses = objective.value_and_gradient(theta, gradient)
    for row, (x, y) in enumerate(data):
        loss, right = slopes(theta[row].numpy(), x.numpy(), y[:, 0].numpy(), 6, angle)
        assert float(losses[row]) == pytest.approx(loss, rel=1e-12)
        assert_allclose(gradient[row].numpy(), right, rtol=1e-9, atol=1e-12)
    assert (gradient[0, :5] == 0).all()
    one = objective.select(torch.tensor([1]))
    alone = torch.empty_like(theta[1:])
    assert torch.equal(one.value_and_gradient(theta[1:], alone), losses[1:])
    assert torch.equal(alone, gradient[1:])


def test_with_a_tiny_angle_they_are_the_gradients_of_all_tasks() -> None:
    net = ReLUNet(4, {"aux": 2, "main": 1}, replicas=2, hidden=9, init_scale=1.0, seeds=[0, 1])
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    data = {"aux": (random(11, 4), random(11, 2)), "main": (random(6, 4), random(6, 1))}
    problems = Problems(["aux", "main"], lambda row, task: task, lambda row, task: data[task], {"aux": 0.3})
    for names in (list(net.weights()), list(net.weights())[1:]):
        objective = net.objective(problems, torch.arange(2), names)
        theta = net.pack(torch.arange(2), names)
        sharp, rounded = torch.empty_like(theta), torch.empty_like(theta)
        losses = objective.value_and_gradient(theta, sharp)
        torch.testing.assert_close(objective.rounded(1e-9).value_and_gradient(theta, rounded), losses)
        torch.testing.assert_close(rounded, sharp)


def test_a_relu_network_against_a_tight_solver() -> None:
    tolerance, hidden = 1e-3, 12
    data, net = draw(10, 4, 2), relu([1], 4, hidden)
    x, y = (part.numpy() for part in data)
    start = packed(net)

    def backwards(_: float, theta: Floats) -> Floats:
        return -slopes(theta, x, y[:, 0], hidden, ROUNDING * tolerance)[1]

    right = solve_ivp(backwards, (0.0, 3.0), start[0].numpy(), method="LSODA", rtol=1e-8, atol=1e-10)
    flow = GradientFlow(tolerance)
    state = finish(flow, flow.start(objective_of(net, [data]), start, max_time=3.0))
    assert_allclose(
        state.theta[0].numpy(), right.y[:, -1], atol=3 * tolerance * np.linalg.norm(right.y[:, -1])
    )


class Valley:
    """|a| - b + b^2 / 2 + c^2 / 2 a replica: its gradient jumps at a = 0, and the flow stays there."""

    def __init__(self, replicas: int, angle: float = 0.0, calls: list[int] | None = None) -> None:
        self.replicas, self.angle, self.calls = replicas, angle, [] if calls is None else calls

    def value_and_gradient(self, theta: Tensor, out: Tensor) -> Tensor:
        self.calls.append(len(theta))
        a, b, c = theta.T
        out[:, 0] = torch.clamp(a / self.angle, -1, 1) if self.angle else torch.sign(a)
        out[:, 1], out[:, 2] = b - 1, c
        return a.abs() - b + b**2 / 2 + c**2 / 2

    def select(self, keep: Tensor) -> "Valley":
        return Valley(len(keep), self.angle, self.calls)


class RoundedValley(Valley):
    def rounded(self, angle: float) -> Valley:
        return Valley(self.replicas, angle, self.calls)


def test_along_a_kink_rounded_gradients_allow_long_steps() -> None:
    start = torch.tensor([[0.5, 0.0, 1.0]], dtype=torch.float64)
    found = {}
    for kind in (Valley, RoundedValley):
        valley, flow = kind(1), GradientFlow(1e-2)
        assert isinstance(valley, Kinked) == (kind is RoundedValley)
        state = finish(flow, flow.start(valley, start, threshold=-1e9, max_time=9.0))
        right = torch.tensor([[0.0, 1 - np.exp(-9.0), np.exp(-9.0)]], dtype=torch.float64)
        torch.testing.assert_close(state.theta, right, rtol=0, atol=2e-2)
        found[kind] = len(valley.calls)
    assert found[RoundedValley] < found[Valley] / 2


# Landing


def quadratics(y: Tensor) -> Tensor:
    return (RATES * (y - 9) ** 2).sum(1) / 2  # far from 0: the last chords are short beside the parameters


def problem(replicas: int = 3) -> tuple[FunctionObjective, Tensor, dict[str, Any]]:
    start = torch.linspace(0.5, 2.0, 3 * replicas, dtype=torch.float64).reshape(replicas, 3)
    return FunctionObjective(quadratics, start), start, {"threshold": np.logspace(-6, -8, replicas)}


@pytest.mark.parametrize("landing", [0.5, 0.95, 0.999])
def test_landing_costs_few_gradients_and_hits(landing: float) -> None:
    objective, start, options = problem()
    counting, flow = Counting(objective), GradientFlow(landing=landing)
    state = finish(flow, flow.start(counting, start, **options))
    goal = options["threshold"]
    assert state.counts.converged.all()
    assert (state.counts.loss < goal).all()
    assert (state.counts.loss >= landing * goal).all()
    assert_allclose(quadratics(state.theta).numpy(), state.counts.loss, rtol=1e-12)
    # the stages of taken steps, a first gradient, estimates of the curvature, and not many more
    more = state.counts.evaluations - state.counts.stages
    assert (more <= 1 + 8 + 4 * (1 + state.counts.accepted // 25 + state.counts.rejected) + 14).all()


def test_the_time_of_a_landing_is_where_the_loss_would_be_falling_evenly() -> None:
    class Watched(GradientFlow):
        def _find_landings(self, state: Any, rows: Any, overshot: Any, chord: Any, loss: Any) -> Any:
            lands = super()._find_landings(state, rows, overshot, chord, loss)
            if lands.any():
                seen.append((float(state.control["h"][0]), float(state.control["loss"][0]), float(loss[0])))
            return lands

    seen: list[tuple[float, float, float]] = []
    objective, start, _ = problem(1)
    flow, watch = Watched(), Recorder()
    state = finish(flow, flow.start(objective, start, threshold=1e-8, observer=watch))
    ((h, before, beyond),) = seen
    share = np.log(before / state.counts.loss[0]) / np.log(before / beyond)
    last = watch.stretches[-1]
    assert 0 < share < 1
    assert last.end[0] - last.start[0] == pytest.approx(share * h, rel=1e-9)
    torch.testing.assert_close(last.after, state.theta, rtol=0, atol=0)


def test_stopped_anywhere_it_goes_on_bit_for_bit() -> None:
    flow = GradientFlow()
    objective, start, options = problem()
    whole = finish(flow, flow.start(objective, start, **options))
    for taken in range(0, int(whole.counts.evaluations.max()), 41):
        first = flow.advance(flow.start(objective, start, **options), taken)
        saved = first.state_dict()
        second = flow.start(objective, start, **options)
        second.load_state_dict(saved)
        finish(flow, second)
        assert torch.equal(second.theta, whole.theta)
        assert (second.counts.time == whole.counts.time).all()
        assert (second.counts.evaluations == whole.counts.evaluations).all()


def test_one_gradient_at_a_time_is_the_same_path() -> None:
    flow, data = GradientFlow(), [draw(6, 5, 1), draw(7, 5, 2), draw(5, 5, 3)]
    net = relu([0, 1, 2], 5, 15)
    ends: list[Any] = []
    for at_once in (1000, 1):
        state = flow.start(objective_of(net, data), packed(net), threshold=1e-3, max_evaluations=3000)
        while not state.finished:
            flow.advance(state, at_once)
        ends.append(state)
    assert torch.equal(ends[0].theta, ends[1].theta)
    assert (ends[0].counts.evaluations == ends[1].counts.evaluations).all()


def test_a_relu_replica_lands_among_others_as_alone() -> None:
    flow = GradientFlow()
    data: list[Data] = [draw(3, 5, 1), draw(4, 5, 2), draw(3, 5, 3)]
    net = relu([0, 1, 2], 5, 40)
    goals = np.array([1e-3, 1e-5, 1e-4])
    limit: dict[str, Any] = {"max_evaluations": 5000}
    together = finish(flow, flow.start(objective_of(net, data), packed(net), threshold=goals, **limit))
    assert together.counts.converged.all()
    for row in range(3):
        one = relu([row], 5, 40)
        alone = finish(
            flow, flow.start(objective_of(one, [data[row]]), packed(one), threshold=goals[row], **limit)
        )
        torch.testing.assert_close(alone.theta[0], together.theta[row], rtol=1e-6, atol=1e-8)
        assert alone.counts.evaluations[0] == together.counts.evaluations[row]
