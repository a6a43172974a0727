"""k-means inertia against the best of all partitions, by brute force, and by its properties."""

import itertools

import numpy as np
import pytest
import torch

from lit_aux.errors import ConfigurationError
from lit_aux.functional import kmeans_inertia


def units(n, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def scatter(rows, counts):
    """Weighted squared distances from the weighted mean, by loops."""
    mean = sum(c * row for c, row in zip(counts, rows, strict=True)) / sum(counts)
    return sum(c * float(((row - mean) ** 2).sum()) for c, row in zip(counts, rows, strict=True))


def best_partition(weights, k, counts=None, reference="mean"):
    """The smallest ratio over every assignment of units to k clusters."""
    rows = [w / np.sqrt((w**2).sum()) for w in weights.numpy()]
    counts = [1.0] * len(rows) if counts is None else counts
    whole = scatter(rows, counts) if reference == "mean" else sum(counts)
    best = np.inf
    for labels in itertools.product(range(k), repeat=len(rows)):
        if len(set(labels)) < k:
            continue
        parts = [[i for i, label in enumerate(labels) if label == c] for c in range(k)]
        best = min(best, sum(scatter([rows[i] for i in p], [counts[i] for i in p]) for p in parts))
    return best / whole


@pytest.mark.parametrize("reference", ["mean", "origin"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("k", "seed"), [(1, 0), (2, 0), (2, 1), (3, 2), (4, 3)])
def test_inertia_is_that_of_the_best_partition(k, seed, weighted, reference):
    weights = units(6, 3, seed)
    counts = [0.2, 3.0, 1.0, 0.7, 5.0, 0.1] if weighted else None
    expected = best_partition(weights, k, counts, reference)
    found = kmeans_inertia(
        weights, k, unit_weights=None if counts is None else torch.tensor(counts), reference=reference
    )
    # The counts come in float32, which holds them to 1e-8.
    assert found.item() == pytest.approx(expected, rel=1e-6 if weighted else 1e-12)
    assert found.dtype == torch.float64
    assert found.shape == ()


def test_a_weight_of_two_is_the_unit_twice():
    weights = units(6, 3)
    counts = torch.tensor([1, 2, 1, 3, 1, 1])
    repeated = weights.repeat_interleave(counts, dim=0)
    for reference in ("mean", "origin"):
        found = kmeans_inertia(weights, [1, 2, 3], unit_weights=counts, reference=reference)
        torch.testing.assert_close(found, kmeans_inertia(repeated, [1, 2, 3], reference=reference))


def test_only_directions_count_and_dead_units_do_not():
    weights = units(8, 4)
    expected = kmeans_inertia(weights, [2, 3])
    scaled = weights * torch.logspace(-30, 3, 8, dtype=torch.float64)[:, None]
    torch.testing.assert_close(kmeans_inertia(scaled, [2, 3]), expected)
    dead = torch.cat([torch.zeros(3, 4), weights, 1e-9 * units(2, 4, seed=9)])
    torch.testing.assert_close(kmeans_inertia(dead, [2, 3], min_norm=1e-6), expected)
    unweighted = torch.cat([weights, units(2, 4, seed=9)])
    counts = torch.tensor([1.0] * 8 + [0.0] * 2)
    torch.testing.assert_close(kmeans_inertia(unweighted, [2, 3], unit_weights=counts), expected)
    assert not torch.allclose(kmeans_inertia(unweighted, [2, 3]), expected)


def test_min_norm_keeps_units_of_exactly_that_length():
    weights = torch.tensor([[3.0, 4.0], [5.0, 0.0], [0.0, 5.0]])
    kmeans_inertia(weights, 3, min_norm=5.0)
    with pytest.raises(ConfigurationError, match="no unit is alive"):
        kmeans_inertia(weights, 1, min_norm=5.001)


def test_units_in_k_directions_leave_nothing_unexplained():
    centres = torch.linalg.qr(units(5, 5))[0]
    weights = centres.repeat(20, 1) * (0.1 + torch.rand(100, 1, generator=torch.Generator().manual_seed(0)))
    found = kmeans_inertia(weights.float(), [3, 4, 5])
    # Orthogonal and equally many: merging two of five directions loses 1 of 5 - 1 parts of the variance.
    torch.testing.assert_close(found, torch.tensor([0.5, 0.25, 0.0], dtype=torch.float64), atol=1e-6, rtol=0)


def test_one_cluster_explains_nothing_around_the_mean():
    assert kmeans_inertia(units(9, 3), 1).item() == 1
    parallel = units(1, 3) * torch.arange(1, 6)[:, None]
    assert kmeans_inertia(parallel, 1).isnan()
    assert kmeans_inertia(parallel, 1, reference="origin").item() == pytest.approx(0, abs=1e-15)


def test_replicas_and_several_k_are_the_single_calls():
    weights, counts = units(36, 5).view(3, 12, 5).float(), torch.rand(3, 12)
    found = kmeans_inertia(weights, range(1, 4), unit_weights=counts, seed=4)
    assert found.shape == (3, 3)
    for r in range(3):
        for k in (1, 2, 3):
            single = kmeans_inertia(weights[r], k, unit_weights=counts[r], seed=4)
            assert torch.equal(found[r, k - 1], single)
    assert kmeans_inertia(weights, 2).shape == (3,)
    assert kmeans_inertia(weights[0], [2]).shape == (1,)
    shared = kmeans_inertia(weights, 2, unit_weights=counts[0])
    assert torch.equal(shared[1], kmeans_inertia(weights[1], 2, unit_weights=counts[0]))


def test_equal_seeds_give_equal_values_and_no_random_state_moves():
    weights = units(300, 6)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = kmeans_inertia(weights, [5, 9], seed=3)
    assert torch.equal(first, kmeans_inertia(weights, [5, 9], seed=3))
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()  # noqa: NPY002


PARALLEL = torch.tensor([[1.0, 2.0], [3.0, 6.0], [2.0, 1.0], [0.0, 0.0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PARALLEL, 3), "k: 3 clusters of 2 distinct living units; give at most 2"),
        ((torch.stack([units(4, 2).float(), PARALLEL]), 3), "units of replica 1; give at most 2"),
        ((PARALLEL, 0), "k: 0 is no number"),
        ((PARALLEL, []), r"k: \[\] is no number"),
        ((PARALLEL, [1, 1.5]), r"k: \[1, 1.5\] is no number"),
        ((PARALLEL, "3"), "k: '3' is no number"),
        ((torch.zeros(3, 2), 1), "weights: no unit is alive"),
        ((torch.zeros(3), 1), r"weights: torch.float32 of shape \(3,\); give real"),
        ((torch.zeros(3, 0), 1), "weights: .*; give real"),
        ((torch.tensor([[1.0, float("nan")]]), 1), "weights: has NaN"),
    ],
)
def test_bad_weights_and_k_are_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        kmeans_inertia(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": "median"}, "reference: 'median' is unknown"),
        ({"min_norm": -1.0}, "min_norm: -1.0 must be"),
        ({"min_norm": float("nan")}, "min_norm: nan must be"),
        ({"unit_weights": torch.ones(3)}, r"unit_weights: shape \(1, 3\)"),
        ({"unit_weights": torch.ones(2, 4)}, r"unit_weights: shape \(2, 4\)"),
        ({"unit_weights": -torch.ones(4)}, "unit_weights: -1 is negative"),
        ({"unit_weights": torch.zeros(4)}, "no unit is alive"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        kmeans_inertia(PARALLEL, 1, **options)
