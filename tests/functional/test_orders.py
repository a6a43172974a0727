"""The l-order and the feature dependence against derivatives of log R, by autograd and in 120 digits."""

import math
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
import torch

from lit_aux.errors import ConfigurationError
from lit_aux.functional import (
    NESTED,
    REGIMES,
    feature_dependence,
    l_order,
    mtl_marginal_penalty,
    nested_ratios,
    q_penalty,
    regime,
    relu_finetuning_penalty,
)

FORMULAS = {"q": q_penalty, "mtl": mtl_marginal_penalty, "relu": relu_finetuning_penalty}
PUBLISHED = [
    ("q", {}, [1.151, 1.432, 1.887, 1.998, 2.000], 5e-4),
    ("mtl", {}, [1.001, 1.0995, 1.7071, 1.995, 2.000], 5e-4),
    ("relu", {}, [1.016, 1.170, 1.568, 1.981, 2.000], 5e-4),
    ("relu", {"correlation": 0.9}, [1.014, 1.137, 1.207, 0.119, 0.0013], 5e-4),
    ("relu", {"correlation": 0.0}, [0.9995, 0.952, 0.667, 0.167, 0.0196], 5e-4),
]
CASES = [
    ("q", {}),
    ("mtl", {}),
    ("relu", {}),
    ("relu", {"correlation": 0.9}),
    ("relu", {"correlation": -0.4}),
]
WITH_SCALES = [("q", {"gamma": 0.3}), ("relu", {"correlation": 0.9, "readout": 0.4})]


def logspaced(low, high, count=41):
    return torch.logspace(low, high, count, dtype=torch.float64)


@pytest.mark.parametrize(("penalty", "options", "expected", "within"), PUBLISHED)
def test_check_values(penalty, options, expected, within):
    beta_aux = torch.tensor([0.001, 0.1, 1, 10, 100], dtype=torch.float64)
    found = l_order(penalty, 1.0, beta_aux, **options).tolist()
    assert found == pytest.approx(expected, abs=within)
    if penalty == "mtl":
        assert found == pytest.approx([1 + b / math.sqrt(1 + b * b) for b in beta_aux.tolist()], rel=1e-15)


@pytest.mark.parametrize(("penalty", "options"), CASES)
def test_orders_add_up_to_one_without_other_scales(penalty, options):
    beta, beta_aux = logspaced(-8, 8)[:, None], logspaced(-8, 8)
    total = l_order(penalty, -beta, beta_aux, **options) + feature_dependence(
        penalty, -beta, beta_aux, **options
    )
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-14)
    formula = FORMULAS[penalty]
    scaled = formula(7 * beta, 7 * beta_aux, **options)
    torch.testing.assert_close(scaled, 7 * formula(beta, beta_aux, **options), rtol=1e-14, atol=0)


@pytest.mark.parametrize(("penalty", "options"), CASES + WITH_SCALES)
def test_orders_are_logarithmic_derivatives(penalty, options):
    """By autograd, where that is accurate itself."""
    generator = torch.Generator().manual_seed(0)
    exponents = 6 * torch.rand(2, 500, dtype=torch.float64, generator=generator) - 3
    beta, beta_aux = (10**exponents).unbind()
    beta[::2] *= -1
    for tensor in (beta, beta_aux):
        tensor.requires_grad_()
    values = FORMULAS[penalty](beta, beta_aux, **options)
    by_beta, by_aux = torch.autograd.grad(values.log().sum(), (beta, beta_aux))
    close = {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(l_order(penalty, beta, beta_aux, **options), by_beta * beta, **close)
    torch.testing.assert_close(
        feature_dependence(penalty, beta, beta_aux, **options), by_aux * beta_aux, **close
    )


def exact_q(beta, beta_aux, gamma):
    def log_r(log_beta, log_aux):
        alpha = mp.exp(log_aux) + gamma**2
        z = 2 * mp.exp(log_beta) / alpha
        return mp.log(alpha * (2 - mp.sqrt(4 + z**2) + z * mp.asinh(z / 2)))

    place = mp.log(beta), mp.log(beta_aux)
    return mp.diff(log_r, place, (1, 0)), mp.diff(log_r, place, (0, 1))


def exact_relu(beta, beta_aux, correlation, readout):
    """Differences of the cost at the best m: the envelope theorem is not used."""

    def log_r(log_beta, log_aux):
        b, m0 = mp.exp(log_beta), mp.exp(log_aux / 2)
        roots = mp.polyroots([1, -m0 * correlation, 0, readout * b, -(b**2)], maxsteps=500, extraprec=400)
        return mp.log(
            min(
                (b / m - readout) ** 2 + m**2 + m0**2 - 2 * m * m0 * correlation
                for m in (mp.re(r) for r in roots if mp.re(r) > 0 and abs(mp.im(r)) < abs(r) / 10**25)
            )
        )

    place = mp.log(beta), mp.log(beta_aux)
    return mp.diff(log_r, place, (1, 0)), mp.diff(log_r, place, (0, 1))


@pytest.mark.parametrize(
    ("penalty", "options", "oracle"),
    [
        ("q", {"gamma": 0.0}, exact_q),
        ("q", {"gamma": 1e-3}, exact_q),
        ("relu", {"correlation": 1.0, "readout": 0.0}, exact_relu),
        ("relu", {"correlation": 0.5, "readout": 0.0}, exact_relu),
        ("relu", {"correlation": 0.5, "readout": -2.0}, exact_relu),
    ],
)
def test_orders_at_the_extremes(penalty, options, oracle):
    extremes = [1e-8, 1e-2, 1.7, 2e4, 1e8]
    with mp.workdps(120):
        for beta in extremes:
            for beta_aux in extremes:
                order, dependence = (
                    float(v) for v in oracle(mp.mpf(beta), mp.mpf(beta_aux), *map(mp.mpf, options.values()))
                )
                assert l_order(penalty, beta, beta_aux, **options).item() == pytest.approx(order, abs=1e-12)
                assert feature_dependence(penalty, beta, beta_aux, **options).item() == pytest.approx(
                    dependence, abs=1e-12
                )


def test_q_orders_with_a_readout_have_their_own_law():
    beta, beta_aux, gamma = logspaced(-4, 4)[:, None], logspaced(-4, 4), 0.5
    order = l_order("q", beta, beta_aux, gamma=gamma)
    total = order + feature_dependence("q", beta, beta_aux, gamma=gamma)
    torch.testing.assert_close(total, 1 + gamma**2 / (beta_aux + gamma**2) * (order - 1), rtol=1e-13, atol=0)


def test_limits_at_zero():
    for penalty in ("q", "mtl", "relu"):
        for beta in (0.0, 1e-150):
            assert l_order(penalty, beta, 2.0).item() == pytest.approx(2, abs=1e-12)
            assert feature_dependence(penalty, beta, 2.0).item() == pytest.approx(-1, abs=1e-12)
        assert l_order(penalty, 1.0, 0.0).item() == pytest.approx(1, abs=1e-12)
        assert feature_dependence(penalty, 1.0, 0.0).item() == pytest.approx(0, abs=1e-12)
        assert l_order(penalty, 0.0, 0.0).isnan()  # it depends on the way there
        assert feature_dependence(penalty, 0.0, 0.0).isnan()
    for beta in (0.0, 1e-150):
        assert l_order("relu", beta, 2.0, correlation=0.9).item() == pytest.approx(0, abs=1e-12)
        assert feature_dependence("relu", beta, 2.0, correlation=0.9).item() == pytest.approx(1)
        assert l_order("q", beta, 0.0, gamma=0.1).item() == pytest.approx(2)
        assert feature_dependence("q", beta, 0.0, gamma=0.1).item() == 0


def test_signs_shapes_and_dtypes():
    beta, beta_aux = torch.rand(4, 1), torch.rand(3)
    for order in (l_order, feature_dependence):
        for penalty in ("q", "mtl", "relu"):
            found = order(penalty, beta, beta_aux)
            assert found.shape == (4, 3)
            assert found.dtype == torch.float32
            assert torch.equal(found, order(penalty, -beta, beta_aux))
            assert order(penalty, 1.0, 2.0).dtype == torch.float64
        assert torch.equal(order("q", beta, beta_aux), order("q", beta, -beta_aux))
        per_unit = order("relu", beta, beta_aux, correlation=torch.tensor([0.1, 0.5, 1.0]))
        torch.testing.assert_close(per_unit[:, 1], order("relu", beta, beta_aux, correlation=0.5)[:, 1])


def test_regimes():
    dependence = torch.tensor([[-1.0, -0.51, -0.5, -0.3], [-0.1, -0.099, 0.0, 1.0]], dtype=torch.float64)
    found = regime(dependence)
    assert found.dtype == torch.int64
    named = [[REGIMES[i] for i in row] for row in found.tolist()]
    assert named == [["lazy", "lazy", "nested", "nested"], ["nested", "rich", "rich", "rich"]]
    with pytest.raises(ConfigurationError, match="dependence: NaN"):
        regime(torch.tensor([math.nan]))


@pytest.mark.parametrize(
    ("penalty", "options", "decades"),
    [("q", {}, 3.66), ("mtl", {}, 0.76), ("relu", {}, 1.32), ("relu", {"correlation": 1.0}, 1.32)],
)
def test_nested_ratios_end_where_the_regime_does(penalty, options, decades):
    low, high = nested_ratios(penalty, **options)
    assert math.log10(high / low) == pytest.approx(decades, abs=5e-3)
    assert feature_dependence(penalty, low, 1.0, **options).item() == pytest.approx(NESTED[0], abs=1e-10)
    assert feature_dependence(penalty, high, 1.0, **options).item() == pytest.approx(NESTED[1], abs=1e-10)


def test_nested_ratios_of_multi_task_training_are_those_of_its_formula():
    assert nested_ratios("mtl") == pytest.approx((math.sqrt(3), math.sqrt(99)), rel=1e-12)


@pytest.mark.parametrize("correlation", [0.75, 0.9, 0.97, 0.99, 0.999])
def test_nested_ratios_of_turning_units(correlation):
    """All between the ends is nested, all above rich; by a grid, decade by decade."""
    low, high = nested_ratios("relu", correlation=correlation)
    between = torch.from_numpy(np.geomspace(low * 1.0001, high / 1.0001, 2000))
    assert (regime(feature_dependence("relu", between, 1.0, correlation=correlation)) == 1).all()
    above = torch.from_numpy(np.geomspace(high * 1.0001, 1e9, 2000))
    assert (regime(feature_dependence("relu", above, 1.0, correlation=correlation)) == 2).all()
    below = regime(feature_dependence("relu", low / 1.0001, 1.0, correlation=correlation))
    assert REGIMES[int(below)] == ("lazy" if correlation > 0.98 else "rich")


def test_both_stretches_of_a_correlation_near_one():
    """The decades with dependence in the nested range, and those with the lazy stretch between them."""
    ratios = logspaced(-6, 6, 120_001)
    found = regime(feature_dependence("relu", ratios, 1.0, correlation=0.99))
    assert (found == 1).sum().item() / 1e4 == pytest.approx(1.64, abs=0.01)
    assert (found <= 1).sum().item() / 1e4 == pytest.approx(2.22, abs=0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: l_order("l1", 1.0, 1.0), "penalty: 'l1' is unknown"),
        (lambda: l_order("mtl", 1.0, 1.0, gamma=0.1), "gamma: 'mtl' has no such option; it has none"),
        (lambda: feature_dependence("q", 1.0, 1.0, correlation=1.0), "correlation: 'q' has no .* has gamma"),
        (lambda: feature_dependence("q", 1.0, 1.0, gamma=-1.0), "gamma: -1 is negative"),
        (lambda: l_order("relu", 1.0, 1.0, correlation=2.0), "correlation: 2 is no correlation"),
        (lambda: l_order("relu", 1.0, -1.0), "beta_aux: -1 is negative"),
        (lambda: l_order("q", math.nan, 1.0), "beta: has NaN"),
        (lambda: nested_ratios("Q"), "penalty: 'Q' is unknown"),
        (lambda: nested_ratios("q", gamma=0.1), "gamma: 0.1 gives no ratio"),
        (lambda: nested_ratios("relu", correlation=0.7), "nowhere nested"),
        (lambda: nested_ratios("relu", correlation=-0.5), "nowhere nested"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ConfigurationError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def documented(title):
    """Return the rows of numbers of the first table after a line of the documentation."""
    text = (Path(__file__).parents[2] / "docs" / "theory.md").read_text().partition(title)[2]
    table = text.partition("\n|")[2].partition("\n\n")[0].splitlines()[2:]
    return [[float(c.replace(",", "")) for c in row.strip("| ").split("|")[1:]] for row in table]


def test_the_documentation_tells_what_the_functions_compute():
    kinds = [("q", {}), ("mtl", {}), *(("relu", {"correlation": c}) for c in (1.0, 0.9, 0.5, 0.0))]
    rows = documented("l-order at $\\beta = 1$:")
    assert len(rows) == len(kinds)
    for (penalty, options), row in zip(kinds, rows, strict=True):
        found = l_order(penalty, 1.0, torch.tensor([0.001, 0.1, 1, 10, 100]).double(), **options)
        assert row == pytest.approx(found.tolist(), abs=5.1e-5)
    kinds[3:] = [("relu", {"correlation": c}) for c in (0.95, 0.9, 0.8)]
    rows = documented("nothing but the ratio")
    assert len(rows) == len(kinds)
    for (penalty, options), (low, high, decades) in zip(kinds, rows, strict=True):
        assert (low, high) == pytest.approx(nested_ratios(penalty, **options), rel=5e-3)
        assert decades == pytest.approx(math.log10(high / low), abs=6e-3)


def test_the_documented_example():
    beta, beta_aux = torch.tensor([0.9, 0.4, 0.01]), torch.tensor([1.2, 1e-3, 1e-9])
    found = regime(feature_dependence("q", beta, beta_aux, gamma=1e-3))
    assert [REGIMES[i] for i in found] == ["lazy", "nested", "rich"]
