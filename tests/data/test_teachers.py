"""The teachers themselves: what is active, how main and auxiliary units lie, and what their targets are."""

import itertools
import math

import numpy as np
import pytest
import torch
from teacher_helpers import diagonal, relu

from lit_aux.data.relu_teacher import correlated_directions

SAMPLINGS = ["published", "independent"]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(("k_main", "overlap"), [(8, 0), (8, 8), (8, 3), (3, 3), (3, 0), (1, 1)])
def test_diagonal_teachers_share_exactly_the_overlap(sampling, k_main, overlap):
    data = diagonal(sampling=sampling, k_main=k_main, overlap=overlap, seed=3)
    main, aux = data.teacher(0, "main"), data.teacher(0, "aux")
    for beta, k in ((main, k_main), (aux, 8)):
        assert torch.equal(beta[beta != 0].abs(), torch.full((k,), 1.0, dtype=beta.dtype) / math.sqrt(k))
        assert float(beta.square().sum()) == pytest.approx(1)
    shared = (main != 0) & (aux != 0)
    assert int(shared.sum()) == overlap
    assert torch.equal(main[shared].sign(), aux[shared].sign())


def test_more_main_entries_than_auxiliary_ones_where_each_has_a_sign():
    data = diagonal(sampling="independent", k_main=20, overlap=8)
    assert int((data.teacher(0, "main") != 0).sum()) == 20
    assert set(data.teacher(0, "main").sign().unique().tolist()) == {-1.0, 0.0, 1.0}


def test_smaller_overlaps_share_the_first_of_larger_ones():
    supports = [
        set(
            ((d := diagonal(overlap=o)).teacher(0, "main") * d.teacher(0, "aux")).nonzero().flatten().tolist()
        )
        for o in (0, 2, 5, 8)
    ]
    assert all(few < many for few, many in itertools.pairwise(supports))


@pytest.mark.parametrize("task", ["main", "aux"])
def test_diagonal_targets_are_products(task):
    data = diagonal(seed=1)
    for x, y in (data.train_set(0, task), data.test_set(0, task)):
        expected = np.einsum("nd,d->n", x.numpy(), data.teacher(0, task).numpy())
        np.testing.assert_allclose(y[:, 0].numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(
    "correlations", [[0.0] * 6, [1.0] * 6, [0.9] * 6, [1.0, 1.0, 1.0, 0.0, 0.9, -0.5], [-1.0] * 6, [0.9]]
)
def test_relu_units_have_the_correlations_asked_for(sampling, correlations):
    data = relu(sampling=sampling, correlation=[correlations], k_main=len(correlations), seed=2)
    main, aux = data.teacher(0, "main").directions, data.teacher(0, "aux").directions
    expected = torch.zeros(len(correlations), 6, dtype=torch.float64)
    for j, c in enumerate(correlations):
        expected[j, j] = c
    torch.testing.assert_close(main @ aux.T, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(main @ main.T, torch.eye(len(main), dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(aux @ aux.T, torch.eye(6, dtype=torch.float64), atol=1e-12, rtol=0)


def test_relu_directions_are_those_of_the_protocol():
    from scipy.stats import ortho_group

    basis = ortho_group.rvs(15, random_state=np.random.RandomState(1))
    data = relu(seed=1, correlation=[1.0, 0.9, 0.0, 0.9, 1.0, 0.0])
    np.testing.assert_array_equal(data.teacher(0, "aux").directions.numpy(), basis[:6])
    for j, c in enumerate([1.0, 0.9, 0.0, 0.9, 1.0, 0.0]):
        expected = c * basis[j] + np.sqrt(1 - c * c) * basis[6 + j]
        np.testing.assert_allclose(data.teacher(0, "main").directions[j].numpy(), expected, atol=1e-14)


def test_fresh_directions_beyond_the_end_of_the_basis_are_those_left_over():
    basis = torch.eye(7, dtype=torch.float64)
    # auxiliary rows 0-3; unit 0 takes row 4, unit 3 would take row 7 and gets the first one left
    found = correlated_directions(basis, 4, [0.0, 1.0, 1.0, 0.6])
    expected = torch.zeros(4, 7, dtype=torch.float64)
    expected[0, 4] = expected[1, 1] = expected[2, 2] = 1
    expected[3, 3], expected[3, 5] = 0.6, 0.8
    torch.testing.assert_close(found, expected)
    crowded = relu(k_aux=10, k_main=10, correlation=[1.0] * 5 + [0.5] * 5)
    main = crowded.teacher(0, "main").directions
    torch.testing.assert_close(main @ main.T, torch.eye(10, dtype=torch.float64), atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="too few"):
        correlated_directions(basis, 4, [0.0] * 4)


def test_forty_units_each_in_a_hundred_dimensions():
    data = relu(k_aux=40, k_main=40, correlation=0, in_features=100, n_main=4)
    units = torch.cat([data.teacher(0, task).directions for task in ("aux", "main")])
    torch.testing.assert_close(units @ units.T, torch.eye(80, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("scale", "size"), [("sqrt", 1 / math.sqrt(3)), ("units", 1 / 3)])
def test_relu_output_weights(scale, size):
    data = relu(output_scale=scale, k_main=3, magnitude=[0.1, 1])
    small, whole = (data.teacher(i, "main").readout for i in (0, 1))
    torch.testing.assert_close(whole.abs(), torch.full((3,), size, dtype=torch.float64))
    torch.testing.assert_close(small, 0.1 * whole)
    aux = data.teacher(0, "aux").readout
    expected = 1 / math.sqrt(6) if scale == "sqrt" else 1 / 6
    torch.testing.assert_close(aux.abs(), torch.full((6,), expected, dtype=torch.float64))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_relu_signs_are_drawn_for_each_task_and_seed_and_for_nothing_else(sampling):
    seeds = list(range(20))
    data = relu(sampling=sampling, seed=seeds)
    signs = {
        task: torch.stack([data.teacher(i, task).readout.sign() for i in seeds]) for task in ("aux", "main")
    }
    for both in signs.values():
        assert 30 < int((both > 0).sum()) < 90
    assert 30 < int((signs["aux"] == signs["main"]).sum()) < 90
    few = relu(sampling=sampling, seed=seeds, k_main=2, magnitude=0.1, n_main=5)
    assert torch.equal(
        torch.stack([few.teacher(i, "main").readout.sign() for i in seeds]), signs["main"][:, :2]
    )


@pytest.mark.parametrize("task", ["main", "aux"])
def test_relu_targets_are_those_of_the_units(task):
    data = relu(seed=1, correlation=0.9, magnitude=0.5)
    teacher = data.teacher(0, task)
    for x, y in (data.train_set(0, task), data.test_set(0, task)):
        expected = np.zeros(len(x))
        for direction, weight in zip(teacher.directions.numpy(), teacher.readout.numpy(), strict=True):
            expected += weight * np.maximum(np.einsum("nd,d->n", x.numpy(), direction), 0)
        np.testing.assert_allclose(y[:, 0].numpy(), expected, rtol=1e-12, atol=1e-13)


def test_relu_inputs_do_not_depend_on_the_teacher():
    one, other = relu(correlation=0), relu(correlation=0.9, magnitude=0.1, output_scale="units")
    for task in ("main", "aux"):
        assert torch.equal(one.train_set(0, task)[0], other.train_set(0, task)[0])
        assert torch.equal(one.test_set(0, task)[0], other.test_set(0, task)[0])


def test_diagonal_inputs_do_not_depend_on_the_main_teacher():
    one, other = diagonal(overlap=8), diagonal(overlap=0, k_main=3)
    for task in ("main", "aux"):
        assert torch.equal(one.train_set(0, task)[0], other.train_set(0, task)[0])
        assert torch.equal(one.test_set(0, task)[0], other.test_set(0, task)[0])
