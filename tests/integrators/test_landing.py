"""The landing of the flow on the chord of its last step, and a ReLU network against a tight solver."""

from typing import Any

import numpy as np
import pytest
import torch
from integrator_helpers import Counting, Data, Floats, Recorder, draw, finish, objective_of, packed, relu
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp
from torch import Tensor

from lit_aux.integrators import FunctionObjective, GradientFlow

RATES = torch.tensor([0.5, 3.0, 40.0], dtype=torch.float64)


def test_a_relu_network_against_a_tight_solver() -> None:
    tolerance, hidden = 1e-3, 12
    data, net = draw(10, 4, 2), relu([1], 4, hidden)
    x, y = (part.numpy() for part in data)
    start = packed(net)

    def backwards(_: float, theta: Floats) -> Floats:
        w, v = theta[: hidden * 4].reshape(hidden, 4), theta[hidden * 4 :]
        active = np.maximum(x @ w.T, 0)
        pulls = 2 / len(x) * (active @ v - y[:, 0])
        by_w = (pulls[:, None] * (active > 0) * v).T @ x
        return -np.concatenate([by_w.ravel(), pulls @ active])

    right = solve_ivp(backwards, (0.0, 3.0), start[0].numpy(), method="LSODA", rtol=1e-8, atol=1e-10)
    flow = GradientFlow(tolerance)
    state = finish(flow, flow.start(objective_of(net, [data]), start, max_time=3.0))
    assert_allclose(
        state.theta[0].numpy(), right.y[:, -1], atol=3 * tolerance * np.linalg.norm(right.y[:, -1])
    )


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
