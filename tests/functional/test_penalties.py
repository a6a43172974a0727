"""Penalties against the formulas in eighty digits, brute-force minima, and their limits."""

import math
import random

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.autograd import gradcheck, gradgradcheck

from lit_aux.errors import ConfigurationError
from lit_aux.functional import (
    group_penalty,
    l12_norm,
    mtl_marginal_penalty,
    q_penalty,
    relu_finetuning_penalty,
    relu_input_norm,
)

mp.mp.dps = 80
COUNT = 100


def sizes(seed, low=-8, high=8, signed=False):
    """Numbers of every order of magnitude."""
    draw = random.Random(seed)
    return [10 ** draw.uniform(low, high) * (draw.choice((-1, 1)) if signed else 1) for _ in range(COUNT)]


def exact(formula, *arguments):
    return [formula(*map(mp.mpf, entries)) for entries in zip(*arguments, strict=True)]


def double(*lists):
    return [torch.tensor(values, dtype=torch.float64) for values in lists]


def worst(found, expected):
    """Return the largest relative error."""
    return max(float(abs(mp.mpf(f) - e) / abs(e)) for f, e in zip(found.tolist(), expected, strict=True))


def unit_cost(m, beta, beta_aux, correlation, readout):
    return (beta / m - readout) ** 2 + m**2 + beta_aux - 2 * m * beta_aux**0.5 * correlation


def unit_minimum(beta, beta_aux, correlation, readout):
    """Compare all positive roots: the best m, its cost, and how many there are."""
    coefficients = [1, -mp.sqrt(beta_aux) * correlation, 0, readout * beta, -(beta**2)]
    roots = mp.polyroots(coefficients, maxsteps=500, extraprec=400)
    positive = [mp.re(r) for r in roots if mp.re(r) > 0 and abs(mp.im(r)) < mp.mpf(10) ** -25 * abs(r)]
    best = min(positive, key=lambda m: unit_cost(m, beta, beta_aux, correlation, readout))
    return best, unit_cost(best, beta, beta_aux, correlation, readout), len(positive)


def test_q_penalty_is_accurate_over_sixteen_orders_of_magnitude():
    def formula(beta, beta_aux, gamma):
        alpha = abs(beta_aux) + gamma**2
        z = 2 * beta / alpha
        return alpha * (2 - mp.sqrt(4 + z**2) + z * mp.asinh(z / 2))

    inputs = sizes(0, signed=True), sizes(1, signed=True), [0.0, *sizes(2, -4, 4)[1:]]
    assert worst(q_penalty(*double(*inputs)), exact(formula, *inputs)) < 1e-14


def test_q_penalty_of_alpha_zero_is_its_limit():
    beta = torch.tensor([-1.0, 0.0, 1e-30], dtype=torch.float64, requires_grad=True)
    found = q_penalty(beta, 0.0)
    assert found.tolist() == [math.inf, 0.0, math.inf]
    assert torch.autograd.grad(found.sum(), beta)[0].tolist() == [0.0, 0.0, 0.0]
    nearby = q_penalty(1.0, torch.tensor([1e-100, 1e-200, 1e-300]))
    assert nearby.tolist() == sorted(nearby.tolist())
    ridge = 1e-12**2 / 3.25
    assert q_penalty(1e-12, 3.0, 0.5).item() == pytest.approx(ridge, rel=1e-12)


def test_marginal_penalty_is_accurate_and_half_of_what_the_group_penalty_grows_by():
    def formula(beta, beta_aux):
        return mp.sqrt(beta**2 + beta_aux**2) - abs(beta_aux)

    inputs = sizes(3, signed=True), sizes(4, signed=True)
    assert worst(mtl_marginal_penalty(*double(*inputs)), exact(formula, *inputs)) < 1e-14
    main, aux = torch.randn(2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grown = group_penalty(torch.stack([main, aux])) - group_penalty(aux[None])
    torch.testing.assert_close(grown, 2 * mtl_marginal_penalty(main, aux))


def test_group_penalty():
    beta = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = group_penalty(beta)
    assert found.shape == (4, 5)
    assert found[2, 3].item() == pytest.approx(2 * math.hypot(*beta[:, 2, 3].tolist()))
    torch.testing.assert_close(group_penalty(beta[:, 0]).sum(), 2 * l12_norm(beta[:, 0]))
    for scale in (1e-200, 1e200):
        assert group_penalty(torch.tensor([3.0, 4.0], dtype=torch.float64) * scale).item() == pytest.approx(
            10 * scale
        )
    zero = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(group_penalty(zero).sum(), zero)[0].abs().max() == 0


UNITS = {
    "same direction": ([1.0] * COUNT, [0.0] * COUNT),
    "any direction": (np.random.default_rng(5).uniform(-1, 1, COUNT).tolist(), [0.0] * COUNT),
    "a readout": (np.random.default_rng(6).uniform(-1, 1, COUNT).tolist(), sizes(7, -4, 4, signed=True)),
    "same direction, a readout": ([1.0] * COUNT, sizes(8, -4, 4, signed=True)),
}


@pytest.mark.parametrize("name", UNITS)
def test_relu_penalty_is_accurate_over_sixteen_orders_of_magnitude(name):
    correlation, readout = UNITS[name]
    inputs = sizes(9, signed=True), sizes(10), correlation, readout
    minima = exact(unit_minimum, *inputs)
    assert worst(relu_input_norm(*double(*inputs)), [m for m, _, _ in minima]) < 1e-14
    assert worst(relu_finetuning_penalty(*double(*inputs)), [r for _, r, _ in minima]) < 1e-13


def test_relu_penalty_takes_the_least_of_three_stationary_points():
    beta = sizes(11, signed=True)
    # with beta as the unit, both the norm along the direction and the readout are above 2
    norms, readouts, correlation = sizes(12, 0.2, 2), sizes(13, 0.2, 2), 0.9
    beta_aux = [norm**2 * abs(b) / correlation**2 for norm, b in zip(norms, beta, strict=True)]
    readout = [math.copysign(v * abs(b) ** 0.5, b) for v, b in zip(readouts, beta, strict=True)]
    inputs = beta, beta_aux, [correlation] * COUNT, readout
    minima = exact(unit_minimum, *inputs)
    assert sum(count == 3 for _, _, count in minima) > COUNT / 3
    larger = sum(m > abs(b) ** 0.5 for (m, _, _), b in zip(minima, beta, strict=True))
    assert COUNT / 4 < larger < 3 * COUNT / 4  # now the largest root is the best, now the smallest
    assert worst(relu_input_norm(*double(*inputs)), [m for m, _, _ in minima]) < 1e-13
    assert worst(relu_finetuning_penalty(*double(*inputs)), [r for _, r, _ in minima]) < 1e-13


def test_relu_penalty_where_three_roots_meet():
    """At m0 rho = v0 = 2 the root is good to the third root of the precision; the minimum is not hurt."""
    near = np.random.default_rng(14).uniform(-1, 1, (2, COUNT)) * np.logspace(-12, -1, COUNT)
    inputs = [1.0] * COUNT, ((2 + near[0]) ** 2).tolist(), [1.0] * COUNT, (2 + near[1]).tolist()
    minima = exact(unit_minimum, *inputs)
    assert worst(relu_finetuning_penalty(*double(*inputs)), [r for _, r, _ in minima]) < 1e-14
    assert worst(relu_input_norm(*double(*inputs)), [m for m, _, _ in minima]) < 1e-4


def test_relu_penalty_is_the_minimum_by_brute_force():
    draw = np.random.default_rng(15)
    beta, readout = draw.normal(0, 2, (2, 30))
    beta_aux, correlation = draw.exponential(4, 30), draw.uniform(-1, 1, 30)
    readout[:10] = np.sign(beta[:10]) * draw.uniform(2, 5, 10)
    beta_aux[:10], correlation[:10] = 25, 0.95
    found = relu_finetuning_penalty(*double(beta, beta_aux, correlation, readout))
    norms = np.logspace(-3, 2, 5001)
    for i, penalty in enumerate(found.tolist()):
        unit = beta[i], beta_aux[i], correlation[i], readout[i]
        place = min(max(int(np.argmin(unit_cost(norms, *unit))), 1), len(norms) - 2)
        best = minimize_scalar(
            unit_cost, bounds=(norms[place - 1], norms[place + 1]), args=unit, method="bounded"
        )
        assert penalty == pytest.approx(best.fun, rel=1e-8)


def test_relu_penalty_has_the_limits_of_theory():
    assert relu_finetuning_penalty(3.0, 1e-30, 0.7).item() == pytest.approx(6)
    assert relu_finetuning_penalty(3.0, 0.0).item() == pytest.approx(6)
    assert relu_finetuning_penalty(3.0, 1e6).item() == pytest.approx(9e-6)
    expected = (1 - 0.8**2) * 1e8 + 9 / (0.8**2 * 1e8)
    assert relu_finetuning_penalty(3.0, 1e8, 0.8).item() == pytest.approx(expected)
    assert relu_finetuning_penalty(3.0, 5.0, 0.0).item() == pytest.approx(5 + 6)
    assert relu_input_norm(0.0, 4.0, torch.tensor([-0.5, 0.0, 0.5])).tolist() == [0.0, 0.0, 1.0]
    at_zero = relu_finetuning_penalty(0.0, 4.0, torch.tensor([-0.5, 0.0, 0.5]), 0.25)
    assert at_zero.tolist() == pytest.approx([0.0625 + 4, 0.0625 + 4, 0.0625 + 3])
    assert relu_finetuning_penalty(-1e-9, 4.0, 0.5, 0.25).item() == pytest.approx(0.0625 + 3, abs=1e-6)


def test_relu_penalty_is_symmetric():
    beta, beta_aux, correlation, readout = double(
        sizes(16, -1, 1), sizes(17, -1, 1), [0.8] * COUNT, sizes(18, -1, 1, signed=True)
    )
    both = [(beta, readout), (-beta, -readout)]
    left, right = (relu_finetuning_penalty(b, beta_aux, correlation, v) for b, v in both)
    torch.testing.assert_close(left, right, rtol=1e-14, atol=0)


def leaves(*shape, low, high, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(*shape, dtype=torch.float64, generator=generator) * (high - low) + low
    return values.requires_grad_()


def test_derivatives():
    beta, beta_aux = leaves(12, low=-3, high=3, seed=0), leaves(12, low=0.1, high=4, seed=1)
    correlation, readout = leaves(12, low=-0.99, high=0.99, seed=2), leaves(12, low=-2, high=2, seed=3)
    for formula, inputs in (
        (q_penalty, (beta, beta_aux, leaves(12, low=0.1, high=1, seed=4))),
        (mtl_marginal_penalty, (beta, beta_aux)),
        (group_penalty, (leaves(3, 4, low=-1, high=1, seed=5),)),
        (relu_finetuning_penalty, (beta, beta_aux, correlation, readout)),
    ):
        assert gradcheck(formula, inputs)
        assert gradgradcheck(formula, inputs)
    assert gradcheck(relu_input_norm, (beta, beta_aux, correlation, readout))


@pytest.mark.parametrize(
    ("formula", "curvature"),
    [(q_penalty, 2.0), (mtl_marginal_penalty, 1.0), (relu_finetuning_penalty, 2.0)],
)
@pytest.mark.parametrize("size", [0.0, 1e-200, 1e-12, 1e-5])
def test_curvature_at_small_coefficients(formula, curvature, size):
    """All three start as parabolas: beta^2 / beta_aux, or half of it for multi-task training."""
    beta = torch.full((3,), size, dtype=torch.float64, requires_grad=True)
    beta_aux = torch.tensor([0.5, 1.0, 1e4], dtype=torch.float64)
    first = torch.autograd.grad(formula(beta, beta_aux).sum(), beta, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), beta)[0]
    torch.testing.assert_close(first, curvature * beta / beta_aux, rtol=1e-8, atol=0)
    torch.testing.assert_close(second, curvature / beta_aux, rtol=1e-8, atol=0)


def test_no_derivative_is_nan_where_nothing_is_smooth():
    zero = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    for formula in (q_penalty, mtl_marginal_penalty, relu_finetuning_penalty):
        for beta_aux in (torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)):
            other = beta_aux.requires_grad_()
            for gradient in torch.autograd.grad(formula(zero, other).sum(), (zero, other)):
                assert gradient.isfinite().all()
    beta = torch.ones(1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(relu_finetuning_penalty(beta, 0.0, 0.5), beta)[0].item() == pytest.approx(2)


@pytest.mark.parametrize(
    "formula", [q_penalty, mtl_marginal_penalty, relu_finetuning_penalty, relu_input_norm]
)
def test_shapes_and_dtypes(formula):
    beta, beta_aux = torch.rand(4, 1), torch.rand(3)
    found = formula(beta, beta_aux)
    assert found.shape == (4, 3)
    assert found.dtype == torch.float32
    assert formula(beta, 2.0).dtype == torch.float32
    assert formula(beta, beta_aux.double()).dtype == torch.float64
    assert formula(1.0, 2.0).dtype == formula(torch.tensor(1), 2).dtype == torch.float64
    torch.testing.assert_close(found, formula(beta.double(), beta_aux.double()).float(), rtol=1e-7, atol=0)
    torch.testing.assert_close(found[2, 1], formula(beta[2, 0], beta_aux[1]))
    assert formula(torch.zeros(0), 1.0).shape == (0,)
    assert formula(np.ones(2), 1.0).tolist() == formula(torch.ones(2).double(), 1.0).tolist()


def test_a_million_units_take_seconds():
    from time import perf_counter

    draw = torch.randn(4, 1_000_000, generator=torch.Generator().manual_seed(0))
    start = perf_counter()
    relu_finetuning_penalty(draw[0], draw[1].exp(), draw[2].tanh(), draw[3] * 3)
    assert perf_counter() - start < 15  # about 1.5 s on a free core


def test_cosines_of_float32_vectors_are_correlations():
    assert torch.equal(relu_finetuning_penalty(1.0, 2.0, 1 + 2e-7), relu_finetuning_penalty(1.0, 2.0, 1.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: q_penalty(1.0, 1.0, -0.1), "gamma: -0.1 is negative"),
        (lambda: q_penalty(math.nan, 1.0), "beta: has NaN"),
        (lambda: q_penalty(1.0, torch.tensor([1.0, math.inf])), "beta_aux: has NaN"),
        (lambda: q_penalty("one", 1.0), "beta: 'one' is no tensor"),
        (lambda: mtl_marginal_penalty(torch.ones(2), torch.ones(3)), r"beta \(2,\), beta_aux \(3,\)"),
        (lambda: mtl_marginal_penalty(torch.ones(2) > 0, 1.0), "beta: torch.bool"),
        (lambda: relu_finetuning_penalty(1.0, -1.0), "beta_aux: -1 is negative"),
        (lambda: relu_finetuning_penalty(1.0, 1.0, torch.tensor([0.5, -1.5])), "correlation: -1.5 is no"),
        (lambda: relu_input_norm(1.0, 1.0, 1.0, math.nan), "readout: has NaN"),
        (lambda: group_penalty(torch.tensor(1.0)), r"beta: shape \(\)"),
        (lambda: group_penalty(torch.tensor([[math.nan]])), "beta: has NaN"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ConfigurationError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
