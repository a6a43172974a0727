"""Tiny, huge and odd numbers: right values where they exist, one line where they do not."""

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

from lit_aux.callbacks import FeatureAlignment, KMeansInertia
from lit_aux.errors import ConfigurationError
from lit_aux.functional import (
    adaptive_sharpness,
    effective_shared_dimensions,
    entry_share,
    f12_norm,
    feature_alignment,
    feature_dependence,
    gradient_cosine,
    gradient_descent_probe,
    gradient_flow_probe,
    group_penalty,
    kmeans_inertia,
    l1_norm,
    l2_norm,
    l12_norm,
    l_order,
    minimal_group_norm,
    mtl_marginal_penalty,
    participation_ratio,
    q_penalty,
    relu_finetuning_penalty,
    relu_input_norm,
    shared_dimensionality,
    top_share,
)
from lit_aux.functional.ridge import best_ridge, ridge_path
from lit_aux.metrics import EffectiveSharedDimensions, ParticipationRatio

SIZES = [1e-320, 1e-300, 1e-200, 1e-157, 1e157, 1e200, 1e305]
X = torch.randn(9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randn(9, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
WIDE = torch.randn(4, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def close(found: Any, expected: Any, rtol: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=rtol, atol=0, equal_nan=True)


# Dimensionality is free of scale


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("unbiased", [False, True])
def test_dimensionality_does_not_depend_on_the_scale(size: float, unbiased: bool) -> None:
    rtol = 1e-2 if size < 1e-307 else 1e-12  # so few digits are left in such numbers
    for data, pairing in itertools.product((X, WIDE), ("feature", "sample")):
        other = data.flip(0)
        expected = shared_dimensionality(data, other, pairing=pairing, unbiased=unbiased)
        found = shared_dimensionality(data * size, other / 3, pairing=pairing, unbiased=unbiased)
        close(list(found), list(expected), rtol)
    close(participation_ratio(X * size, center=False), participation_ratio(X, center=False), rtol)


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8]
DTYPES += [torch.uint16, torch.uint64, torch.float8_e4m3fn]


@pytest.mark.parametrize("dtype", DTYPES)
def test_dimensionality_of_other_dtypes_is_that_in_float64(dtype: torch.dtype) -> None:
    data = (3 * (X if torch.is_signed(torch.empty(0, dtype=dtype)) else X.abs())).to(dtype)
    close(participation_ratio(data), participation_ratio(data.to(torch.float64)))
    if dtype in (torch.float32, torch.bfloat16):
        tiny = (X * 1e-38).to(dtype)  # below the smallest normal number
        close(participation_ratio(tiny), participation_ratio(tiny.to(torch.float64) * 2.0**100))


def metrics_of(batches: list[Tensor], others: list[Tensor]) -> list[Tensor]:
    """Values of metrics of parts, merged; each part its own metric first, as in several processes."""
    found = []
    for pairing in ("feature", "sample"):
        shared = [EffectiveSharedDimensions(5, pairing=pairing) for _ in (0, 1)]
        for place, (x, y) in enumerate(zip(batches, others, strict=True)):
            shared[place % 2].update(x, y)
        shared[0].merge_state(shared[1])
        found.append(shared[0].compute())
    ratio = ParticipationRatio()
    for x in batches:
        ratio.update(x)
    return [*found, ratio.compute()]


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("growing", [1.0, 1e3])
def test_metrics_do_not_depend_on_the_scale(size: float, growing: float) -> None:
    """Batches of different sizes meet in one state; a batch of zeros has none."""
    if size * growing > 1e306:
        growing = 1e-3
    factors = torch.tensor([1.0] * 3 + [growing] * 3 + [0.0] * 3, dtype=torch.float64)[:, None]
    x, y = X * factors, Y
    found = metrics_of([*(x * size).split(3)][::-1], [*(y / 7).split(3)][::-1])
    expected = [
        effective_shared_dimensions(x, y),
        effective_shared_dimensions(x, y, pairing="sample"),
        participation_ratio(x),
    ]
    close(found, expected, 1e-9)


def test_small_batches_beside_ordinary_ones_count_as_zeros() -> None:
    metric = ParticipationRatio()
    for part in (X[:4] * 1e-200, X[4:], X[:3] * 1e-250):
        metric.update(part)
    close(metric.compute(), participation_ratio(torch.cat([0 * X[:4], X[4:], 0 * X[:3]])))


REFUSED: dict[str, tuple[Tensor, Tensor, str]] = {
    "no features": (X[:, :0], Y[:, :0], r"x: torch\.float64 of shape \(9, 0\); give real activations"),
    "one dimension": (X[0], Y[0], r"x: torch\.float64 of shape \(5,\); give real activations"),
    "complex": (X + 0j, Y, r"x: torch\.complex128 of shape \(9, 5\); give real activations"),
    "complex y": (X, Y + 0j, r"y: torch\.complex128 of shape \(9, 5\)"),
    "NaN": (X.where(X > 0, math.nan), Y, "x: has NaN or infinite values; give finite activations"),
    "infinite": (X, Y.where(Y > 0, math.inf), "y: has NaN or infinite values; give finite activations"),
    "samples": (X, Y[:5], "y: 5 samples, but x has 9; both must be of the same inputs"),
    "features": (X, Y[:, :4], "pairing: 'feature' needs the same features, got 5 and 4; use 'sample'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_functions_and_metrics_refuse_alike(case: str) -> None:
    x, y, message = REFUSED[case]
    texts = []
    for compute in (shared_dimensionality, EffectiveSharedDimensions().update):
        with pytest.raises(ConfigurationError, match=message) as caught:
            compute(x, y)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_samples(n: int) -> None:
    with pytest.raises(ConfigurationError, match=f"x: {n} samples; give at least 2"):
        participation_ratio(X[:n])
    metric = ParticipationRatio()
    metric.update(X[:n])
    with pytest.warns(UserWarning, match=f"{n} samples are too few"):
        assert math.isnan(metric.compute())


# Clusters


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, None, "a"])
def test_seeds_that_k_means_does_not_take(seed: Any) -> None:
    message = "seed: .* is no seed of k-means; give an integer from 0 to 4294967295"
    for compute in (
        lambda: kmeans_inertia(X, 1, seed=seed),
        lambda: feature_alignment(X, Y, 2, seed=seed),
        lambda: KMeansInertia("net", 2, seed=seed),
        lambda: FeatureAlignment("net", seed=seed),
    ):
        with pytest.raises(ConfigurationError, match=message):
            compute()
    assert kmeans_inertia(X, 2, seed=2**32 - 1) > 0


@pytest.mark.parametrize("size", SIZES[1:])
def test_clusters_do_not_depend_on_the_scale(size: float) -> None:
    for similarity in ("cosine", "pearson"):
        expected = feature_alignment(X, Y, 3, similarity=similarity)
        close(feature_alignment(X * size, Y * size, 3, similarity=similarity), expected, 1e-9)
    weights = Y.norm(dim=1)
    expected = kmeans_inertia(X, 3, unit_weights=weights)
    close(kmeans_inertia(X * size, 3, unit_weights=weights * size), expected, 1e-9)


# Norms


@pytest.mark.parametrize("size", SIZES[1:])
def test_norms_grow_with_the_scale(size: float) -> None:
    size = min(size, 1e300)
    for norm in (l1_norm, l2_norm, l12_norm):
        close(norm(X * size), norm(X) * size)
    close(f12_norm(X * size, Y.T[:2]), f12_norm(X, Y.T[:2]) * size)
    close(top_share(X * size, 2), top_share(X, 2))
    close(group_penalty(X * size), group_penalty(X) * size)
    leaf = (X * size).requires_grad_()
    close(torch.autograd.grad(l2_norm(leaf), leaf)[0], X / X.norm())


def test_norms_inside_of_vmap() -> None:
    """Where no value can be read, and so none tells whether scales are needed."""
    sizes = torch.tensor([1e-200, 1.0, 1e200], dtype=torch.float64)
    stacked = X * sizes[:, None, None]
    for norm in (l2_norm, l12_norm):
        close(torch.vmap(norm)(stacked), norm(X) * sizes)
    close(torch.vmap(lambda x: gradient_cosine(x, Y))(stacked), gradient_cosine(X, Y).expand(3))


def test_norms_in_small_dtypes() -> None:
    assert float(top_share(torch.ones(70_000, dtype=torch.float16), 7_000)) == pytest.approx(0.1, rel=1e-3)
    values = torch.full((2000,), 30.0, dtype=torch.float16)  # their squares add up to more than 65504
    assert float(l2_norm(values)) == pytest.approx(30 * 2000**0.5, rel=1e-3)
    assert float(l1_norm(values)) == 60_000
    tiny = torch.full((4,), 1e-30)
    assert float(l2_norm(tiny)) == pytest.approx(2e-30)
    assert l2_norm(torch.tensor([math.inf, 1.0])) == math.inf
    assert math.isnan(l2_norm(torch.tensor([math.nan, 1.0])))
    assert l2_norm(torch.zeros(3)) == 0
    for odd in ([math.nan], [0.5], [math.inf]):
        with pytest.raises(ConfigurationError, match="entries: "):
            entry_share(X, torch.tensor(odd))


# Penalties, against 60 digits

EXTREMES = [0.0, 1e-300, 1e-170, 1e-30, 1.0, 1e160, 1e300]


def q_in_digits(beta: float, aux: float, gamma: float) -> tuple[float, float, float]:
    """The penalty, its l-order and its feature dependence."""
    with mpmath.workdps(700):
        b, x, g = (mpmath.mpf(v) for v in (beta, aux, gamma))
        alpha = x + g * g
        if alpha == 0:
            return (math.inf, 1.0, 0.0) if b else (0.0, math.nan, math.nan)
        a = mpmath.asinh(b / alpha)
        q = 2 * b * (a - mpmath.tanh(a / 2))
        order = a / (a - mpmath.tanh(a / 2)) if b else mpmath.mpf(2)
        return float(q), float(order), float(x / alpha * (1 - order))


def near(found: Tensor, expected: float) -> bool:
    value = float(found)
    both_gone = max(abs(value), abs(expected)) < 1e-300
    return value == pytest.approx(expected, rel=1e-12, abs=0, nan_ok=True) or both_gone


@pytest.mark.parametrize("gamma", EXTREMES)
def test_the_penalty_of_finetuning_at_extremes(gamma: float) -> None:
    for beta, aux in itertools.product(EXTREMES, EXTREMES):
        expected = q_in_digits(beta, aux, gamma)
        found = (
            q_penalty(beta, aux, gamma),
            l_order("q", beta, aux, gamma=gamma),
            feature_dependence("q", beta, aux, gamma=gamma),
        )
        assert all(map(near, found, expected)), (beta, aux, gamma, found, expected)


def test_the_penalty_of_joint_training_at_extremes() -> None:
    for beta, aux in itertools.product([*EXTREMES, 1.5e308], repeat=2):
        if not beta and not aux:
            continue
        with mpmath.workdps(700):
            b, x = mpmath.mpf(beta), mpmath.mpf(aux)
            length = mpmath.sqrt(b * b + x * x)
            expected = float(b * b / (length + x)), float(1 + x / length)
        found = mtl_marginal_penalty(beta, aux), l_order("mtl", beta, aux)
        assert all(map(near, found, expected)), (beta, aux, found, expected)


UNITS = [
    (2.0, 3.0, 0.9, 0.7),
    (2.0, 3.0, -0.5, -1.0),
    (0.0, 3.0, 0.8, 0.7),
    (2.0, 0.0, 1.0, 0.0),
    (1.0, 2.0, 1.0, 3.0),
]


@pytest.mark.parametrize("exponent", [-500, -400, -300, 200, 300, 500])
@pytest.mark.parametrize("unit", UNITS)
def test_a_relu_unit_in_other_units(unit: tuple[float, ...], exponent: int) -> None:
    """Strengths and distances grow with the square of a length: exactly, for powers of two."""
    beta, aux, correlation, readout = unit
    length = 2.0**exponent
    there = beta * length * length, aux * length * length, correlation, readout * length
    close(relu_input_norm(*there), relu_input_norm(*unit) * length, 1e-13)
    close(relu_finetuning_penalty(*there), relu_finetuning_penalty(*unit) * length * length, 1e-13)
    options = {"correlation": correlation}
    for order in (l_order, feature_dependence):
        expected = order("relu", beta, aux, readout=readout, **options)
        close(order("relu", there[0], there[1], readout=there[3], **options), expected, 1e-11)


@pytest.mark.parametrize(
    ("beta", "aux", "readout", "expected"),
    [
        (0.0, 1e-300, 1.0, 1.0),  # the readout goes to 0
        (1e-300, 0.0, 0.0, 2e-300),  # 2 |beta|
        (1e-300, 0.0, 1.0, 0.0),  # m = beta / v costs m^2
        (1.0, 1e-300, 0.0, 2.0),
        (1e-200, 1.0, 0.0, 0.0),  # beta^2 / beta_aux
        (1e-100, 1.0, 0.0, 1e-200),
    ],
)
def test_relu_units_at_extremes(beta: float, aux: float, readout: float, expected: float) -> None:
    found = float(relu_finetuning_penalty(beta, aux, 1.0, readout))
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-320)


def test_penalties_refuse_what_is_no_number() -> None:
    for bad, message in (
        (math.nan, "NaN"),
        (torch.tensor(1j), "complex"),
        ("a", "is no tensor"),
        (10**400, "no tensor"),
    ):
        with pytest.raises(ConfigurationError, match=f"beta: .*{message}"):
            q_penalty(bad, 1.0)  # type: ignore[arg-type]


# Gradients, ridge, programs


@pytest.mark.parametrize("size", SIZES[1:])
def test_cosines_do_not_depend_on_the_scale(size: float) -> None:
    first, second = [X[:4], X[4:]], [Y[:4], Y[4:]]
    expected = torch.dot(X.flatten(), Y.flatten()) / X.norm() / Y.norm()
    close(gradient_cosine([part * size for part in first], second), expected)
    uneven = [X[:4] * size * 1e-3, X[4:] * size]
    alike = [X[:4] * 1e-3, X[4:]]
    close(gradient_cosine(uneven, second), gradient_cosine(alike, second))
    assert gradient_cosine([X * size, 0 * X], [0 * X, X * size]) == 0
    close(gradient_cosine([0 * X, X * size], [Y, Y]), gradient_cosine([0 * X, X], [Y, Y]))


def test_cosines_of_tiny_gradients_in_float32() -> None:
    tiny = (X * 1e-38).float()
    close(gradient_cosine(tiny, tiny), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize("size", [1e-200, 1e-100, 1e100, 1e200])
@pytest.mark.parametrize("kernel", [False, True])
def test_ridge_does_not_depend_on_the_scale(size: float, kernel: bool) -> None:
    def data(x: Tensor) -> Tensor:
        return x @ X.T if kernel else x

    alphas = torch.tensor([0.0, 1e-3, 1.0], dtype=torch.float64)
    scaled = alphas * size if kernel else (alphas * min(size, 1e150) * min(size, 1e150))
    expected = ridge_path(data(X), Y, data(Y), alphas, kernel=kernel)
    found = ridge_path(data(X) * size, Y, data(Y) * size, scaled, kernel=kernel)
    if kernel or 1e-160 < size < 1e150:
        close(found, expected, 1e-7)
    close(found[0], expected[0], 1e-7)  # no penalty
    plain = best_ridge(data(X), Y, data(Y), X, alphas, kernel=kernel)
    loud = best_ridge(data(X), Y * size, data(Y), X * size, alphas, kernel=kernel)
    assert torch.equal(loud.alpha, plain.alpha)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (3, X * math.nan, "y_test: has NaN or infinite values"),
        (0, X + 0j, "train: torch.complex128 is no real number"),
        (1, Y + 0j, "y: torch.complex128 is no real number"),
    ],
)
def test_ridge_names_what_is_no_number(place: int, value: Tensor, message: str) -> None:
    given = [X, Y, Y, X]
    given[place] = value
    with pytest.raises(ConfigurationError, match=message):
        best_ridge(*given)


def test_a_kernel_of_whole_numbers() -> None:
    x = torch.arange(6).view(3, 2)
    close(
        ridge_path(x @ x.T, x, x @ x.T, kernel=True),
        ridge_path((x @ x.T).double(), x.double(), (x @ x.T).double(), kernel=True),
    )


def test_each_target_of_ridge_has_its_own_scale() -> None:
    """Losses of a tiny target are 0 in float64; which penalty is best is known all the same."""
    y, y_test = Y[:, :2], X[:, :2]
    tiny = torch.tensor([1.0, 1e-200], dtype=torch.float64)
    expected = best_ridge(X, y, Y, y_test)
    found = best_ridge(X, y * tiny, Y, y_test * tiny)
    assert torch.equal(found.alpha, expected.alpha)
    with pytest.raises(ConfigurationError, match=r"y: shape \(9, 0\); give targets \(9, T\), T > 0"):
        best_ridge(X, Y[:, :0], X, Y[:, :0])


@pytest.mark.parametrize("size", [1e-200, 1e-100, 1e100, 1e200])
@pytest.mark.parametrize("rows", [3, 9])
def test_probes_do_not_depend_on_the_scale(size: float, rows: int) -> None:
    """Inputs and targets, or the first layer against the readout, in other units: the same coefficients."""
    x, y = X[:rows], X[:rows] @ Y[0] + 0.1
    weights = {"w_plus": Y[1], "v_plus": Y[2], "w_minus": Y[3], "v_minus": Y[4]}
    units = {n: v * size if n[0] == "w" else v / size for n, v in weights.items()}
    expected = gradient_flow_probe(x, y, weights, math.inf)
    for found in (
        gradient_flow_probe(x * size, y * size, weights, math.inf),
        gradient_flow_probe(x, y, units, math.inf),
    ):
        close(found.beta, expected.beta, 1e-9)
    if 1e-150 < size < 1e150:  # else the time that it takes is beyond float64
        expected = gradient_flow_probe(x, y, weights, 0.3)
        close(gradient_flow_probe(x * size, y * size, weights, 0.3 / size / size).beta, expected.beta, 1e-9)
        expected = gradient_descent_probe(x, y, weights, 0.01, 7)
        found = gradient_descent_probe(x * size, y * size, weights, 0.01 / size / size, 7)
        close(found.beta, expected.beta, 1e-9)
        rate = 1e3 / size / size
        with pytest.raises(ConfigurationError, match=re.escape(f"lr: descent diverges at {rate:g}; it")):
            gradient_descent_probe(x * size, y * size, weights, rate, 7)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_a_least_group_norm_of_huge_and_tiny_inputs(size: float) -> None:
    x, y = X[:3], X[:3] @ torch.tensor([1.0, 0, 0, 0, -2], dtype=torch.float64)
    close(minimal_group_norm([x * size], [y * size]), minimal_group_norm([x], [y]), 1e-7)


def test_a_box_that_rounding_swallows_is_refused() -> None:
    weight = torch.ones(3, requires_grad=True)
    compute: Callable[[], Tensor] = lambda: weight.square().sum()  # noqa: E731
    with pytest.raises(ConfigurationError, match=r"rho: 1e-09 is below the rounding of torch\.float32"):
        adaptive_sharpness(compute, [weight], 1e-9)
