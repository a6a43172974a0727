"""Participation ratio and shared dimensions against written-out definitions, U-statistics, known spectra."""

import itertools
import math

import numpy as np
import pytest
import torch
from dimensionality import participation_ratio as reference_participation_ratio

from lit_aux.errors import ConfigurationError
from lit_aux.functional import _gram, effective_shared_dimensions, participation_ratio, shared_dimensionality

SHAPES = [(12, 40), (40, 12), (20, 19), (20, 20), (20, 21)]
PAIRINGS = ["feature", "sample"]


def activations(n, d, seed=0, mean=0.0):
    """Correlated features of unequal variance."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.linspace(0.1, 3, d, dtype=torch.float64)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64) / d**0.5
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) * scales) @ mix + mean


def pair(n, d, mean=0.0):
    x = activations(n, d, 0)
    return x + mean, 0.6 * x + activations(n, d, 1) - mean


def definition(x, y, pairing, center):
    """The formula with explicit matrices and numpy traces of products."""
    x, y = x.double().numpy(), y.double().numpy()
    if center:
        x, y = x - x.mean(0), y - y.mean(0)
    cx, cy = (x.T @ x, y.T @ y) if pairing == "feature" else (x @ x.T, y @ y.T)
    trace = np.trace
    return trace(cx @ cy) * trace(cx) * trace(cy) / (trace(cx @ cx) * trace(cy @ cy))


def u_statistics(x, y, pairing):
    """Averages over all ordered tuples of four distinct samples, by loops."""
    x, y = x.numpy(), y.numpy()
    traces = {name: [] for name in ("xx", "yy", "xy", "t_xx", "t_yy", "t_xy", "paired")}
    for i, j, k, m in itertools.permutations(range(len(x)), 4):
        dx, ex, dy, ey = x[i] - x[j], x[k] - x[m], y[i] - y[j], y[k] - y[m]
        traces["xx"].append((dx @ ex) ** 2 / 4)
        traces["yy"].append((dy @ ey) ** 2 / 4)
        traces["xy"].append((dx @ ex) * (dy @ ey) / 4)
        traces["paired"].append((dx @ ey) ** 2 / 4)
        traces["t_xx"].append((dx @ dx) * (ex @ ex) / 4)
        traces["t_yy"].append((dy @ dy) * (ey @ ey) / 4)
        traces["t_xy"].append((dx @ dx) * (ey @ ey) / 4)
    t = {name: np.mean(values) for name, values in traces.items()}
    shared = t["xy"] if pairing == "sample" else t["paired"]
    return t["t_xx"] / t["xx"], t["t_yy"] / t["yy"], shared * t["t_xy"] / (t["xx"] * t["yy"])


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_naive_measures_are_their_definition(n, d, pairing, center):
    x, y = pair(n, d, mean=0.5)
    found = shared_dimensionality(x, y, pairing=pairing, center=center)
    assert found.ensd.item() == pytest.approx(definition(x, y, pairing, center), rel=1e-9)
    for value, z in ((found.pr_x, x), (found.pr_y, y)):
        assert value.item() == pytest.approx(definition(z, z, "feature", center), rel=1e-9)
        assert participation_ratio(z, center=center).item() == pytest.approx(value.item(), rel=1e-12)
    assert effective_shared_dimensions(x, y, pairing=pairing, center=center) == found.ensd


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize(("n", "d"), [(7, 3), (7, 12), (4, 5), (6, 6)])
def test_unbiased_measures_are_u_statistics(n, d, pairing):
    x, y = pair(n, d, mean=2.0)
    expected = u_statistics(x, y, pairing)
    found = shared_dimensionality(x, y, pairing=pairing, unbiased=True)
    assert [v.item() for v in found] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_unbiased_participation_ratio_is_the_published_row_estimator(n, d):
    x = activations(n, d)
    expected = reference_participation_ratio(x.numpy(), return_all=True)["row"]
    assert participation_ratio(x, unbiased=True).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize(("n", "d"), [(300, 260), (260, 300), (1200, 1190)])
def test_both_forms_agree_over_several_blocks(n, d, pairing, unbiased, monkeypatch):
    x, y = pair(n, d)
    whole = shared_dimensionality(x, y, pairing=pairing, unbiased=unbiased)
    monkeypatch.setattr(_gram, "BLOCK_ELEMENTS", 1)
    blocks = shared_dimensionality(x, y, pairing=pairing, unbiased=unbiased)
    padded = [torch.cat((z, torch.zeros(n, 300, dtype=z.dtype)), 1) for z in (x, y)]  # forces the Gram form
    gram = shared_dimensionality(*padded, pairing=pairing, unbiased=unbiased)
    for other in (blocks, gram):
        assert [v.item() for v in other] == pytest.approx([v.item() for v in whole], rel=1e-10)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize(("dx", "dy"), [(5, 9), (5, 60), (60, 5), (40, 50)])
def test_sample_pairing_takes_different_networks(dx, dy, unbiased):
    x, y = activations(30, dx, 1), activations(30, dy, 2)
    found = effective_shared_dimensions(x, y, pairing="sample", unbiased=unbiased).item()
    wide = [torch.cat((z, torch.zeros(30, 60 - z.shape[1])), 1) for z in (x, y)]
    assert found == pytest.approx(
        effective_shared_dimensions(*wide, pairing="sample", unbiased=unbiased).item(), rel=1e-9
    )
    if not unbiased:
        assert found == pytest.approx(definition(x, y, "sample", True), rel=1e-9)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize(("n", "d"), [(15, 40), (40, 15)])
def test_properties(n, d, pairing, unbiased):
    x, y = pair(n, d)
    options = {"pairing": pairing, "unbiased": unbiased}
    value = effective_shared_dimensions(x, y, **options).item()
    pr = [participation_ratio(z, unbiased=unbiased).item() for z in (x, y)]
    assert effective_shared_dimensions(y, x, **options).item() == pytest.approx(value, rel=1e-10)
    assert effective_shared_dimensions(1e-3 * x, 50 * y, **options).item() == pytest.approx(value, rel=1e-9)
    assert effective_shared_dimensions(x + 7, y - 3, **options).item() == pytest.approx(value, rel=1e-9)
    same = effective_shared_dimensions(x, x.clone(), pairing="sample", unbiased=unbiased).item()
    assert same == pytest.approx(pr[0], rel=1e-10)
    rotation = torch.linalg.qr(activations(d, d, 5)).Q
    turned = effective_shared_dimensions(x @ rotation, y, **options).item()
    if pairing == "sample":
        assert turned == pytest.approx(value, rel=1e-9)
    else:
        assert abs(turned / value - 1) > 0.05
        both = effective_shared_dimensions(x @ rotation, y @ rotation, **options).item()
        assert both == pytest.approx(value, rel=1e-9)
    if not unbiased:
        assert 0 <= value <= math.sqrt(pr[0] * pr[1]) * (1 + 1e-12)
        assert effective_shared_dimensions(x, x.clone(), pairing=pairing).item() == pytest.approx(
            pr[0], rel=1e-10
        )
        assert 1 <= pr[0] <= min(n - 1, d)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize(("n", "d"), [(64, 100), (100, 64)])
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_large_means_and_narrow_dtypes_lose_nothing(n, d, mean, unbiased):
    for dtype in (torch.float32, torch.bfloat16):
        x, y = ((z * 8 + mean).to(dtype) for z in pair(n, d))
        exact = [(z.double() - z.double().mean(0)) for z in (x, y)]
        for pairing in PAIRINGS:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found = shared_dimensionality(x, y, pairing=pairing, unbiased=unbiased)
            expected = shared_dimensionality(*exact, pairing=pairing, unbiased=unbiased)
            assert all(v.dtype == torch.float64 and v.shape == () for v in found)
            assert [v.item() for v in found] == pytest.approx([v.item() for v in expected], rel=1e-9)


@pytest.mark.parametrize("exponent", [-40, 37])
def test_the_whole_range_of_float32_works(exponent):
    x, y = pair(10, 20)
    expected = effective_shared_dimensions(x, y).item()
    scaled = effective_shared_dimensions(x * 10.0**exponent, y * 10.0**exponent).item()
    assert scaled == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_integers_and_higher_dimensions_are_converted(dtype):
    x = torch.randint(0, 2, (9, 2, 3, 4), generator=torch.Generator().manual_seed(0)).to(dtype)
    flat = x.double().reshape(9, -1)
    assert participation_ratio(x).item() == pytest.approx(definition(flat, flat, "feature", True), rel=1e-9)
    assert participation_ratio(x.transpose(1, 3)).item() == pytest.approx(
        participation_ratio(x).item(), rel=1e-9
    )


def test_inputs_are_left_alone():
    x, y = pair(8, 20)
    before = x.clone(), y.clone()
    shared_dimensionality(x.requires_grad_(), y)
    torch.testing.assert_close((x.detach(), y), before, rtol=0, atol=0)


def gaussian_pair(n, generator, *, shared=False):
    """Independent features of exponentially decaying variance; optionally the same draws in both."""
    index = torch.arange(512, dtype=torch.float64)
    draws = [torch.randn(n, 512, generator=generator, dtype=torch.float64) for _ in range(2)]
    second = draws[0] if shared else draws[1]
    return draws[0] * torch.exp(-index / 40), second * torch.exp(-index / 9.77)


@pytest.mark.parametrize(
    ("n", "shared", "draws", "naive_pr", "naive_ensd"),
    [(50, True, 250, 21.6, 10), (200, False, 60, 33.3, 14)],
)
def test_unbiased_estimates_recover_known_spectra(n, shared, draws, naive_pr, naive_ensd):
    """PR 40.0 and 9.80, feature-paired ENSD 15.75; the naive values are too low."""
    generator = torch.Generator().manual_seed(0)
    pairs = [gaussian_pair(n, generator, shared=shared) for _ in range(draws)]
    corrected = torch.tensor([shared_dimensionality(x, y, unbiased=True) for x, y in pairs]).mean(0)
    naive = torch.tensor([shared_dimensionality(x, y) for x, y in pairs[:50]]).mean(0)
    assert corrected.tolist() == pytest.approx([40.0, 9.80, 15.75], rel=0.02)
    assert naive[0].item() == pytest.approx(naive_pr, rel=0.02)
    assert naive[2] < naive_ensd


def test_unbiased_sample_pairing_of_unrelated_networks_is_zero_on_average():
    generator = torch.Generator().manual_seed(1)
    draws = [(gaussian_pair(50, generator)[0], gaussian_pair(50, generator)[1]) for _ in range(100)]
    values = {
        u: np.mean([effective_shared_dimensions(*d, pairing="sample", unbiased=u) for d in draws])
        for u in (0, 1)
    }
    assert abs(values[1]) < 0.3
    assert values[0] > 3


@pytest.mark.parametrize("shape", [(10, 3), (10, 30)])
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_constant_input_is_nan_with_a_warning(shape, constant):
    x = torch.full(shape, constant)
    with pytest.warns(UserWarning, match="does not vary"):
        assert participation_ratio(x).isnan()
    with pytest.warns(UserWarning, match="y does not vary"):
        found = shared_dimensionality(activations(*shape), x)
    assert found.ensd.isnan()
    assert not found.pr_x.isnan()
    with pytest.warns(UserWarning, match="does not vary"):
        assert participation_ratio(x, unbiased=True).isnan()


@pytest.mark.parametrize("n", [4, 8, 50])
def test_denominator_of_zero_is_nan_with_a_warning(n):
    """Equidistant samples have orthogonal differences: their estimate of tr(Sigma^2) is exactly 0."""
    x = torch.eye(n) * 3 + 1
    y = torch.randn(n, n, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="not positive") as caught:
        assert participation_ratio(x, unbiased=True).isnan()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="not positive"):
        found = shared_dimensionality(x, y, unbiased=True)
    assert [v.isnan().item() for v in found] == [True, False, True]
    assert participation_ratio(x).item() == pytest.approx(n - 1)


def test_unbiased_estimate_is_of_the_centred_quantity():
    x = activations(20, 8) + 5
    assert participation_ratio(x, center=False, unbiased=True) == participation_ratio(x, unbiased=True)


def test_no_matrix_over_features_is_formed_for_wide_layers():
    x = torch.randn(8, 200_000)  # D x D would take 320 GB
    assert participation_ratio(x).item() == pytest.approx(7, abs=0.1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(10, 3), (10, 30)])
@pytest.mark.parametrize("center", [True, False])
def test_non_finite_values_are_an_error(bad, shape, center):
    x = activations(*shape)
    y = x.clone()
    y[3, 2] = bad
    with pytest.raises(ConfigurationError, match=r"^y: has NaN or infinite"):
        effective_shared_dimensions(x, y, center=center)
    with pytest.raises(ConfigurationError, match=r"^x: has NaN or infinite"):
        participation_ratio(y, center=center)


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        ((5, 3), (6, 3), {}, "y: 6 samples"),
        ((5, 3), (5, 4), {}, "pairing: 'feature' needs the same features"),
        ((1, 3), (1, 3), {}, "give at least 2"),
        ((3, 3), (3, 3), {"unbiased": True}, "give at least 4"),
        ((5, 3), (5, 3), {"pairing": "samples"}, "did you mean 'sample'"),
        ((5,), (5,), {}, "give real activations"),
    ],
)
def test_errors_are_one_line(x, y, options, message):
    with pytest.raises(ConfigurationError, match=message) as error:
        effective_shared_dimensions(torch.randn(x), torch.randn(y), **options)
    assert "\n" not in str(error.value)
