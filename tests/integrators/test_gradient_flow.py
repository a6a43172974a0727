"""Gradient flow against known solutions, descent by small steps, and the exact limit of diagonal networks."""

from typing import Any

import numpy as np
import pytest
import torch
from integrator_helpers import (
    Counting,
    Floats,
    Recorder,
    diagonal,
    draw,
    exact_limit,
    finish,
    forward,
    objective_of,
    packed,
    relu,
)
from numpy.polynomial import Chebyshev
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.integrators import FunctionObjective, GradientDescent, GradientFlow, Step
from lit_aux.integrators.objective import Kinked

SPECTRUM = torch.tensor([0.3, 1.0, 4.0, 30.0, 200.0], dtype=torch.float64)


def quadratic(y: Tensor) -> Tensor:
    return (SPECTRUM * y**2).sum() / 2


def quadratics(y: Tensor) -> Tensor:
    return (SPECTRUM * y**2).sum(1) / 2


def ones(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.float64)


def relative(found: Any, right: Any) -> float:
    found, right = torch.as_tensor(found), torch.as_tensor(right)
    return float((found - right).norm() / right.norm())


# Known solutions


def test_order_two_in_the_tolerance_on_a_nonlinear_equation() -> None:
    # L = y^3 / 3: y' = -y^2, y = y0 / (1 + y0 t)
    tolerances = (1e-2, 1e-3, 1e-4, 1e-5)
    errors, lengths = [], []
    for tolerance in tolerances:
        end = GradientFlow(tolerance).run(lambda y: (y**3).sum() / 3, 2 * ones(1), max_time=5.0)
        errors.append(abs(float(end.parameters) - 2 / 11))
        lengths.append(1 / int(end.counts.accepted[0]))
    assert errors[-1] < 1e-3
    slope = np.polyfit(np.log(lengths), np.log(errors), 1)[0]
    assert 1.6 < slope < 2.6
    # the error of a step is of third order: that of the end goes with the tolerance to the power of 2/3
    power = np.polyfit(np.log(tolerances), np.log(errors), 1)[0]
    assert 0.5 < power < 0.9


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-4])
def test_stiff_linear_equation(tolerance: float) -> None:
    end = GradientFlow(tolerance).run(quadratic, ones(5), max_time=2.0)
    assert relative(end.parameters, torch.exp(-SPECTRUM * 2.0)) < 10 * tolerance
    assert end.counts.time[0] == 2.0


def test_a_loss_with_a_constant_slope_is_followed_exactly() -> None:
    slope = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    end = GradientFlow().run(lambda y: y @ slope, ones(3), max_time=17.0, threshold=-1e9)
    torch.testing.assert_close(end.parameters, 1 - 17 * slope, rtol=1e-11, atol=1e-11)


def test_every_step_on_a_quadratic_is_the_stability_polynomial() -> None:
    class Stages(Recorder):
        def observe(self, step: Step) -> None:
            super().observe(step)
            totals.append(int(state.counts.stages[0]))

    totals: list[int] = []
    watch, flow = Stages(), GradientFlow(1e-2)
    state = flow.start(quadratic, ones(5), max_time=8.0, observer=watch)
    finish(flow, state)
    totals.append(int(state.counts.stages[0]))
    assert len(watch.stretches) > 5
    for step, stages in zip(watch.stretches, np.diff(totals), strict=True):
        t = Chebyshev.basis(int(stages))
        w0 = 1 + 2 / 13 / stages**2
        first, second = t.deriv()(w0), t.deriv(2)(w0)
        b = second / first**2
        z = -(step.end - step.start) * SPECTRUM.numpy()
        factors = 1 - b * t(w0) + b * t(w0 + first / second * z)
        right = factors * step.before[0].numpy()
        np.testing.assert_allclose(step.after[0].numpy(), right, rtol=0, atol=1e-10)


# What it takes and gives


def test_a_dict_a_tensor_and_many_replicas_say_the_same() -> None:
    a, b = ones(2, 3) * 0.5, ones(3)
    flow = GradientFlow(1e-3)

    def product(w: dict[str, Tensor]) -> Tensor:
        return ((w["a"] @ w["b"] - 3) ** 2).sum()

    def flat(w: Tensor) -> Tensor:
        return ((w[:6].reshape(2, 3) @ w[6:] - 3) ** 2).sum()

    def many(w: dict[str, Tensor]) -> Tensor:
        return ((torch.einsum("rij,rj->ri", w["a"], w["b"]) - 3) ** 2).sum(1)

    named = flow.run(product, {"a": a, "b": b}, threshold=1e-6)
    tensor = flow.run(flat, torch.cat([a.flatten(), b]), threshold=1e-6)
    twice = {"a": torch.stack([a, a]), "b": torch.stack([b, b])}
    batch = flow.run(many, twice, threshold=1e-6)
    assert list(named.parameters) == ["a", "b"]
    assert named.parameters["a"].shape == (2, 3)
    assert named.loss.shape == named.evaluations.shape == named.converged.shape == ()
    assert batch.loss.shape == batch.evaluations.shape == batch.converged.shape == (2,)
    assert batch.parameters["a"].shape == (2, 2, 3)
    for row in (0, 1):
        assert relative(batch.parameters["a"][row], named.parameters["a"]) < 1e-6
    assert relative(tensor.parameters[6:], named.parameters["b"]) < 1e-6
    assert bool(named.converged)
    assert float(named.loss) == pytest.approx(float(product(named.parameters)), rel=1e-9)
    assert torch.equal(a, ones(2, 3) * 0.5)  # the start is left alone


def test_it_lands_just_below_the_threshold() -> None:
    goals = np.array([1e-1, 1e-4, 1e-6, 1e-10])
    flow = GradientFlow()
    state = finish(flow, flow.start(quadratics, ones(4, 5), threshold=goals))
    assert state.counts.converged.all()
    assert (state.counts.loss < goals).all()
    assert (state.counts.loss >= 0.95 * goals).all()
    np.testing.assert_allclose(quadratics(state.theta).numpy(), state.counts.loss, rtol=1e-12)


def test_who_starts_below_the_threshold_stays_where_it_is() -> None:
    start = torch.stack([ones(5), 1e-6 * ones(5), 1e-7 * ones(5)])
    end = GradientFlow().run(quadratics, start, threshold=1e-5)
    assert end.converged.all()
    assert end.evaluations[1:].tolist() == [1, 1]
    assert torch.equal(end.parameters[1:], start[1:])


@pytest.mark.parametrize("time", [1e-5, 0.37, 12.345])
def test_it_ends_at_the_latest_time_exactly(time: float) -> None:
    flow = GradientFlow()
    state = finish(flow, flow.start(quadratics, ones(2, 5), max_time=np.array([time, 0.5 * time])))
    assert state.counts.time.tolist() == [time, 0.5 * time]
    assert not state.counts.converged.any()


def test_it_stops_when_the_evaluations_are_spent() -> None:
    flow = GradientFlow(1e-4)
    end = flow.run(quadratic, ones(5), max_evaluations=60)
    assert not bool(end.converged)
    assert 60 <= int(end.evaluations) < 60 + 30  # a step that was begun is ended
    assert float(end.loss) == pytest.approx(float(quadratic(end.parameters)))


def test_a_start_where_nothing_pulls_is_left_in_peace() -> None:
    end = GradientFlow().run(lambda y: quadratic(y) + 1, torch.zeros(5).double(), max_time=3.0)
    assert float(end.loss) == pytest.approx(1.0)
    assert end.counts.time[0] == 3.0
    assert end.parameters.abs().max() < 1e-6


def test_single_precision() -> None:
    net = relu([0, 1], 5, 12)
    data = [draw(8, 5, 0, torch.float32)] * 2
    net = net.float()
    net.dtype = torch.float32
    flow = GradientFlow()
    state = finish(
        flow, flow.start(objective_of(net, data), packed(net), threshold=1e-5, max_evaluations=5e3)
    )
    assert state.theta.dtype == torch.float32
    assert state.counts.converged.all()


# What it reports


def test_curvature_of_a_quadratic() -> None:
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(30, 30, generator=generator, dtype=torch.float64))[0]
    values = torch.linspace(0.1, 50, 30, dtype=torch.float64)  # crowded at the top, too
    matrices = torch.stack([rotation * values @ rotation.T, rotation * values**2 @ rotation.T])
    end = GradientFlow().run(
        lambda y: torch.einsum("ri,rij,rj->r", y, matrices, y) / 2,
        torch.randn(2, 30, generator=generator, dtype=torch.float64),
        max_time=0.5,
    )
    share = end.counts.curvature / np.array([50.0, 2500.0])
    assert (share > 0.8).all()
    assert (share < 1.3).all()


def test_counts_agree_with_what_was_asked_and_seen() -> None:
    net, data = relu([0], 5, 12), draw(10, 5, 1)
    counting, watch, flow = Counting(objective_of(net, [data])), Recorder(), GradientFlow()
    state = finish(flow, flow.start(counting, packed(net), threshold=1e-6, observer=watch))
    counts = state.counts
    assert counts.evaluations[0] == len(counting.calls)
    assert counts.accepted[0] == len(watch.stretches) > 5
    assert 2 * counts.accepted[0] <= counts.stages[0] < counts.evaluations[0]
    assert counts.finished.all()
    time, place = 0.0, packed(net)
    for step in watch.stretches:
        assert step.start[0] == time
        assert step.end[0] > time
        assert torch.equal(step.before, place)
        time, place = step.end[0], step.after
    assert time == counts.time[0]
    assert torch.equal(place, state.theta)
    last = watch.stretches[-1]
    gradient = torch.empty_like(place)
    objective_of(net, [data]).value_and_gradient(place, gradient)
    torch.testing.assert_close(last.slope_after, -gradient)


def test_rejected_steps_are_counted() -> None:
    # a plain, then a wall: the steps that have grown on the plain are too long
    end = GradientFlow(1e-3).run(
        lambda y: (torch.exp(20 * (y - 1)) - y).sum(), -ones(1), max_time=4.0, threshold=-1e9
    )
    smooth = GradientFlow(1e-3).run(lambda y: y.sum(), ones(1), max_time=5.0)
    assert end.counts.rejected[0] > 0
    assert smooth.counts.rejected[0] == 0


# Replicas


def test_a_replica_alone_and_among_others() -> None:
    shared = draw(6, 5, 1)
    data = [shared, (shared[0], -shared[1]), draw(7, 5, 2), draw(3, 5, 3)]
    seeds = [0, 1, 2, 0]
    net, flow = relu(seeds, 5, 15), GradientFlow()
    options = {"threshold": 1e-3, "max_evaluations": 20_000}
    together = finish(flow, flow.start(objective_of(net, data), packed(net), **options))
    assert len(set(together.counts.evaluations.tolist())) > 1
    for row, seed in enumerate(seeds):
        one = relu([seed], 5, 15)
        alone = finish(flow, flow.start(objective_of(one, [data[row]]), packed(one), **options))
        assert relative(alone.theta[0], together.theta[row]) < flow.tolerance
        assert alone.counts.converged[0] == together.counts.converged[row]
        assert alone.counts.evaluations[0] == pytest.approx(together.counts.evaluations[row], rel=0.1)


def test_replicas_of_any_function_do_not_see_each_other() -> None:
    start = torch.stack([ones(5), 3 * ones(5), torch.linspace(-1, 2, 5).double()])
    goals = np.array([1e-2, 1e-6, 1e-4])
    flow = GradientFlow()
    together = finish(flow, flow.start(quadratics, start, threshold=goals))
    for row in range(3):
        alone = finish(flow, flow.start(quadratics, start[row : row + 1], threshold=goals[row]))
        assert relative(alone.theta[0], together.theta[row]) < 1e-6
        assert alone.counts.evaluations[0] == together.counts.evaluations[row]


# Trouble


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("tolerance", 0.0),
        ("tolerance", 1.0),
        ("tolerance", float("nan")),
        ("max_stages", 1),
        ("power_iterations", 1),
        ("landing", 1.0),
        ("landing", -0.1),
    ],
)
def test_bad_options_are_named_in_one_line(option: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=option) as caught:
        GradientFlow(**{option: value})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert str(value) in str(caught.value)


@pytest.mark.parametrize("stages", [2, 3, 10])
def test_few_stages_are_enough_to_arrive(stages: int) -> None:
    end = GradientFlow(max_stages=stages).run(quadratic, ones(5), max_time=2.0)
    assert end.counts.time[0] == 2.0
    assert relative(end.parameters, torch.exp(-SPECTRUM * 2.0)) < 0.1


def test_a_start_that_is_not_finite_is_refused() -> None:
    start = ones(3, 5)
    start[1, 2] = float("nan")
    with pytest.raises(ConfigurationError, match="replica 1") as caught:
        GradientFlow().run(quadratics, start, threshold=1e-3)
    assert "\n" not in str(caught.value)


def test_what_is_not_finite_beside_the_path_only_shortens_steps() -> None:
    # a barrier at |y| = 1, NaN beyond; y = 0.999 is pushed inwards at once
    def barrier(y: Tensor) -> Tensor:
        return -1e-3 * torch.log(1 - y**2).sum(1) + (SPECTRUM[:2] * (y - 0.2) ** 2).sum(1)

    start = torch.tensor([[0.999999, -0.9999], [0.0, 0.1]], dtype=torch.float64)
    flow = GradientFlow(1e-3)
    together = finish(flow, flow.start(barrier, start, max_time=20.0, max_evaluations=5000))
    assert together.counts.time.tolist() == [20.0, 20.0]
    assert together.theta.isfinite().all()
    assert relative(together.theta[0], together.theta[1]) < 1e-2  # the one minimum there is
    alone = finish(flow, flow.start(barrier, start[1:], max_time=20.0, max_evaluations=5000))
    assert torch.equal(alone.theta[0], together.theta[1])


def test_nothing_but_nan_ahead_comes_to_an_end() -> None:
    def edge(y: Tensor) -> Tensor:  # pulls to a point beyond which there is nothing
        return (y + 0 * torch.log(y - 0.999)).sum()

    end = GradientFlow().run(edge, ones(1), max_evaluations=500)
    assert not bool(end.converged)
    assert 0.999 < float(end.parameters) < 1.0
    assert float(end.loss) == float(end.parameters)


# Networks


def descend(net: Any, data: Any, curvature: float, goal: float) -> Any:
    """Gradient descent at a tenth of the stable step."""
    descent = GradientDescent(0.1 * 2 / curvature)
    options = {"threshold": goal, "max_evaluations": 60_000}
    return finish(descent, descent.start(objective_of(net, data), packed(net), **options))


def test_a_relu_network_ends_where_small_steps_of_descent_end() -> None:
    net, data = relu([0], 6, 30), [draw(20, 6, 0)]
    flow = GradientFlow()
    state = finish(flow, flow.start(objective_of(net, data), packed(net), threshold=3e-3))
    steps = descend(net, data, state.counts.curvature[0] / 1.2, 3e-3)
    assert state.counts.converged[0]
    assert steps.counts.converged[0]
    assert relative(state.theta, steps.theta) < flow.tolerance
    assert state.counts.evaluations[0] < 0.5 * steps.counts.evaluations[0]


def test_a_diagonal_network_ends_where_small_steps_of_descent_end() -> None:
    net, data = diagonal([0], 20, scale=0.05), [draw(12, 20, 0)]
    flow = GradientFlow()
    state = finish(flow, flow.start(objective_of(net, data), packed(net), threshold=1e-4))
    steps = descend(net, data, state.counts.curvature[0] / 1.2, 1e-4)
    assert steps.counts.converged[0]
    assert relative(state.theta, steps.theta) < flow.tolerance
    assert state.counts.evaluations[0] < 0.2 * steps.counts.evaluations[0]


def weights(net: Any) -> tuple[Floats, Floats]:
    first = torch.stack([net.first["plus"][0], net.first["minus"][0]])
    readout = torch.stack([net.readout["plus"][0, 0], net.readout["minus"][0, 0]])
    return first.detach().numpy(), readout.detach().numpy()


@pytest.mark.parametrize(
    ("start", "scale", "tolerance"), [("small", 1e-3, 1e-3), ("large", 0.5, 1e-2), ("pretrained", 1e-3, 2e-3)]
)
def test_a_diagonal_network_ends_at_the_exact_limit(start: str, scale: float, tolerance: float) -> None:
    net, data = diagonal([3], 60, scale), draw(15, 60, 3)
    if start == "pretrained":  # unbalanced: some features known, their readouts drawn anew
        with torch.no_grad():
            net.first["plus"][0, :10] = torch.linspace(0.2, 0.9, 10)
            net.first["minus"][0, 5:15] = 0.4
    right = exact_limit(*weights(net), data[0].numpy(), data[1][:, 0].numpy())
    flow, objective = GradientFlow(tolerance), objective_of(net, [data])
    state = finish(flow, flow.start(objective, packed(net), threshold=1e-9, max_evaluations=50_000))
    assert state.counts.converged[0]
    w, v = state.theta[0, :120].reshape(2, 60), state.theta[0, 120:].reshape(2, 60)
    beta = w[0] * v[0] - w[1] * v[1]
    torch.testing.assert_close(forward([*w, *v[:, None]], data[0]), data[1], rtol=0, atol=1e-3)
    assert relative(beta, right) < 1e-3


class Kinky(Counting):
    """An objective that says of itself that its gradient jumps, or that it does not."""

    def __init__(self, kinked: bool) -> None:
        super().__init__(FunctionObjective(quadratics, ones(1, 5)))
        self.kinked = kinked


def errors_of_steps(kinked: bool) -> tuple[Floats, Floats]:
    """Return the loss before each step to 1e-8, and its error as the reference of RKC2 estimates it."""
    watch, flow = Recorder(), GradientFlow(1e-3)
    finish(flow, flow.start(Kinky(kinked), ones(1, 5), threshold=1e-8, observer=watch))
    losses, errors = [], []
    for step in watch.stretches[:-1]:  # the last one is shortened to land
        assert step.slope_before is not None
        assert step.slope_after is not None
        mean = (step.slope_before + step.slope_after) / 2
        estimate = 0.8 * (step.before - step.after + float(step.end[0] - step.start[0]) * mean)
        errors.append(float(estimate.norm() / max(step.before.norm(), step.after.norm())))
        losses.append(float(quadratics(step.before)))
    return np.array(losses), np.array(errors)


def test_errors_at_kinks_may_exceed_the_tolerance_once_little_is_left_to_learn() -> None:
    start = float(SPECTRUM.sum()) / 2
    losses, errors = errors_of_steps(kinked=True)
    late = losses < 1e-2 * start
    assert (errors[~late] <= 1e-3).all()
    assert (errors[late] <= 1e-3 * np.sqrt(1e-2 * start / losses[late]).clip(1, 4)).all()
    assert errors.max() > 1.5e-3
    assert (errors_of_steps(kinked=False)[1] <= 1e-3).all()


def test_a_state_from_before_the_loss_at_the_start_was_kept_goes_on() -> None:
    flow = GradientFlow()
    state = flow.advance(flow.start(Kinky(True), ones(1, 5), threshold=1e-8), 40)
    assert not state.finished
    del state.control["start_loss"]
    assert finish(flow, state).counts.converged[0]


def test_units_turn_on_and_off_where_the_first_layer_trains() -> None:
    net, data = relu([0], 5, 12), [draw(8, 5, 0)]
    for names, kinked in ((["first.weight", "readout.weight"], True), (["readout.weight"], False)):
        problems = objective_of(net, data, names)
        assert isinstance(problems, Kinked)
        assert problems.kinked is kinked
    assert not isinstance(objective_of(diagonal([0], 20, scale=0.05), [draw(12, 20, 0)]), Kinked)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_relu_network_ends_where_a_hundredth_of_the_tolerance_ends(seed: int) -> None:
    net, data = relu([seed], 6, 30), [draw(20, 6, seed)]
    ends = []
    for flow in (GradientFlow(), GradientFlow(1e-4)):
        ends.append(finish(flow, flow.start(objective_of(net, data), packed(net), threshold=1e-6)))
        assert ends[-1].counts.converged[0]
    assert relative(ends[0].theta, ends[1].theta) < 0.5 * GradientFlow().tolerance


def test_it_says_which_loss_it_cannot_take() -> None:
    with pytest.raises(ConfigurationError, match="loss"):
        FunctionObjective(lambda y: y**2, ones(3, 2))
