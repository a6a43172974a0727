"""The worst case in the box against the analytic one of quadratics."""

import gc
import math

import pytest
import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.functional import adaptive_sharpness
from lit_aux.functional.sharpness import checkpoints

RHO = 0.05


class Quadratic:
    """g eps + eps^2 h / 2 around weights in two tensors, the curvature a diagonal."""

    def __init__(self, kind, seed, dtype=torch.float64, slope=0.01):
        generator = torch.Generator().manual_seed(seed)
        self.start, g, h = torch.randn(3, 30, generator=generator, dtype=torch.float64)
        sign = {"convex": 1, "concave": -1, "indefinite": h.sign()}[kind]
        self.g, self.h = slope * g, sign * (h.abs() + 0.3)
        self.parameters = [self.start[:12].view(3, 4).to(dtype), self.start[12:].to(dtype)]
        self.start = torch.cat([p.flatten() for p in self.parameters]).double()
        for parameter in self.parameters:
            parameter.requires_grad_()
        self.furthest, self.calls = 0.0, 0

    def __call__(self):
        moved = torch.cat([p.flatten() for p in self.parameters]).double() - self.start
        self.furthest = max(self.furthest, (moved.detach() / self.start).abs().max().item())
        self.calls += 1
        return (self.g * moved + self.h * moved.square() / 2).sum()

    def worst(self, rho):
        """The largest value in the box, coordinate by coordinate: at a corner or where the slope is 0."""
        box = rho * self.start.abs()
        inside = torch.where(self.h < 0, torch.minimum((-self.g / self.h).abs(), box), box)
        return (self.g.abs() * inside + self.h * inside.square() / 2).sum().item()


@pytest.mark.parametrize("kind", ["convex", "concave", "indefinite"])
@pytest.mark.parametrize("seed", range(4))
def test_quadratics_reach_the_analytic_worst_case_and_never_exceed_it(kind, seed):
    problem = Quadratic(kind, seed)
    # sign steps need more halvings to settle at a maximum inside the box than to run into its corner
    iterations = 100 if kind == "concave" else 20
    found = adaptive_sharpness(problem, problem.parameters, RHO, iterations=iterations)
    worst = problem.worst(RHO)
    assert 0.99 * worst <= found <= worst * (1 + 1e-12)
    assert problem.furthest <= RHO * (1 + 1e-12)
    assert problem.calls == iterations + 2
    short = Quadratic(kind, seed)
    assert adaptive_sharpness(short, short.parameters, RHO, iterations=3) <= worst * (1 + 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("start", ["zero", "random"])
def test_a_steep_slope_gives_the_corner_from_every_start(start, dtype):
    problem = Quadratic("indefinite", 1, dtype, slope=1.0)
    generator = torch.Generator().manual_seed(0)
    found = adaptive_sharpness(problem, problem.parameters, 1e-3, start=start, generator=generator)
    rounding = 1e-12 if dtype == torch.float64 else 1e-3  # of weights, as a share of so small a change
    assert found == pytest.approx(problem.worst(1e-3), rel=1e-4)
    assert found <= problem.worst(1e-3) * (1 + rounding)


def test_only_a_random_start_leaves_a_minimum():
    problem = Quadratic("convex", 0, slope=0.0)
    assert adaptive_sharpness(problem, problem.parameters, RHO) == 0
    found = adaptive_sharpness(
        problem, problem.parameters, RHO, start="random", generator=torch.Generator().manual_seed(0)
    )
    assert 0.99 * problem.worst(RHO) <= found <= problem.worst(RHO) * (1 + 1e-12)


def test_a_maximum_has_sharpness_0_from_any_start():
    for start in ("zero", "random"):
        problem = Quadratic("concave", 0, slope=0.0)
        assert adaptive_sharpness(problem, problem.parameters, RHO, start=start) == 0


def test_random_starts_come_from_the_generator_alone():
    def value(seed):
        problem = Quadratic("convex", 2)
        generator = torch.Generator().manual_seed(seed)
        return adaptive_sharpness(
            problem, problem.parameters, RHO, iterations=1, start="random", generator=generator
        )

    state = torch.get_rng_state()
    assert value(1) == value(1) != value(2)
    assert torch.equal(state, torch.get_rng_state())


def test_the_first_steps_are_those_of_the_method():
    weight = torch.tensor([2.0, -4.0], dtype=torch.float64, requires_grad=True)
    seen = []

    def loss():
        seen.append(((weight.detach() - torch.tensor([2.0, -4.0])) / torch.tensor([2.0, 4.0])).tolist())
        return weight[0] - weight[1]

    found = adaptive_sharpness(loss, [weight], 0.1, iterations=3)
    # .75 P(delta + step) + .25 delta_previous in units of |theta|, with the box at +-.1
    path = [0.0, 0.075, 0.075, 0.09375]
    for (first, second), expected in zip(seen[1:], path, strict=True):
        assert (first, second) == pytest.approx((expected, -expected))
    assert found == pytest.approx(0.09375 * 6)


def test_the_first_step_reaches_the_corner_from_everywhere():
    weight = torch.tensor([2.0, -4.0], dtype=torch.float64, requires_grad=True)
    seen = []

    def loss():
        seen.append(((weight.detach() - torch.tensor([2.0, -4.0])) / torch.tensor([2.0, 4.0]) / 0.1).tolist())
        return weight[0] - weight[1]

    generator = torch.Generator().manual_seed(0)
    adaptive_sharpness(loss, [weight], 0.1, iterations=1, start="random", generator=generator)
    _, first, second = seen
    assert all(0 < abs(place) < 1 for place in first)
    assert second == pytest.approx([0.75 + 0.25 * first[0], -0.75 + 0.25 * first[1]])


def test_the_search_goes_on_from_the_best_point_after_a_check():
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    seen = []

    def loss():  # 1 - |1 - x / .3|: a peak at .3 of the box, which steps of 2 and of 1 leap over
        seen.append((weight.item() - 1) / 0.1)
        return 1 - ((weight - 1) / 0.1 / 0.3 - 1).abs()

    found = adaptive_sharpness(loss, [weight], 0.1, iterations=100)
    value = [1 - abs(place / 0.3 - 1) for place in seen[1:]]
    best = seen[1 + max(range(23), key=lambda i: value[i])]
    # the step after the 22nd is from the best place so far, half as far, and mixed with the place before
    before = seen[1 + 21]
    target = max(-1.0, min(1.0, best + (1 if best < 0.3 else -1)))
    assert seen[1 + 23] == pytest.approx(0.75 * target + 0.25 * before)
    assert found == pytest.approx(1, abs=0.05)


def test_progress_is_checked_on_the_published_schedule():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(20) == [5, 9, 12, 14, 16, 18, 19, 20]
    assert checkpoints(1) == [1]


def test_weights_are_put_back_bit_for_bit_also_after_an_error():
    problem = Quadratic("indefinite", 3, torch.float32)
    before = [p.detach().clone() for p in problem.parameters]
    adaptive_sharpness(problem, problem.parameters, RHO)

    def broken():
        if problem.calls > 30:
            raise KeyError("later")
        return problem()

    with pytest.raises(KeyError, match="later"):
        adaptive_sharpness(broken, problem.parameters, RHO)
    assert all(torch.equal(a, b) for a, b in zip(before, problem.parameters, strict=True))
    assert all(p.grad is None and p.requires_grad for p in problem.parameters)


def test_weights_that_are_zero_stay_and_unused_ones_do_no_harm():
    zero, used, unused = (torch.tensor([v], requires_grad=True) for v in (0.0, 2.0, 3.0))
    found = adaptive_sharpness(lambda: (5 * zero + used).sum(), [zero, used, unused], 0.01)
    assert found == pytest.approx(0.02, rel=1e-3)


def test_losses_that_are_not_finite():
    weight = torch.ones(3, requires_grad=True)
    assert math.isnan(adaptive_sharpness(lambda: weight.sum() * math.nan, [weight], RHO))

    def beyond(value):
        return lambda: torch.where(weight.sum() > 3.01, value, 1) * weight.sum()

    assert adaptive_sharpness(beyond(math.inf), [weight], RHO) == math.inf
    assert 0 < adaptive_sharpness(beyond(math.nan), [weight], RHO) <= 0.01
    assert torch.equal(weight.detach(), torch.ones(3))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rho": 0.0}, "rho: 0.0 must be above 0"),
        ({"rho": -1e-3}, "rho: -0.001"),
        ({"rho": math.inf}, "rho: inf"),
        ({"iterations": 0}, "iterations: 0"),
        ({"start": "zeros"}, "start: 'zeros' is unknown; did you mean 'zero'"),
    ],
)
def test_bad_options(options, words):
    weight = torch.ones(2, requires_grad=True)
    with pytest.raises(ConfigurationError, match=words):
        adaptive_sharpness(lambda: weight.sum(), [weight], **{"rho": RHO, **options})


def test_half_precision_is_refused():
    weight = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    with pytest.raises(
        ConfigurationError, match=r"parameters: torch.bfloat16 cannot hold changes of rho 0.001"
    ):
        adaptive_sharpness(lambda: weight.sum(), [weight], 1e-3)


def test_memory_is_of_less_than_four_times_the_weights():
    """Counted where a loss is computed and where its gradient is there."""
    weights = [torch.rand(300, 1100, requires_grad=True), torch.rand(7, requires_grad=True)]
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    held = {"loss": 0, "gradient": 0}

    def count(where):
        gc.collect()
        alive = [t for t in gc.get_objects() if type(t) is Tensor and t.layout == torch.strided]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in alive}
        held[where] = max(held[where], sum(storages.values()) - before)

    def loss():
        count("loss")
        return sum(weight.square().sum() for weight in weights)

    before = 0
    count("loss")
    before, held["loss"] = held["loss"], 0
    for weight in weights:
        weight.register_hook(lambda slope: count("gradient"))
    adaptive_sharpness(loss, weights, RHO, iterations=3)
    assert 3 * size <= held["loss"] < 4 * size
    assert held["gradient"] < (1 + 4) * size
