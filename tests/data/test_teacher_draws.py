"""Published draws against the protocol, step by step, with torch's global generator and its distributions."""

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from lit_aux.data import DiagonalTeacherDataModule
from lit_aux.data.teacher_draws import (
    entries_and_signs,
    independent_rows,
    normalized,
    orthogonal_directions,
    published_rows,
)

D, K = 1000, 40


def protocol(seed, *sizes, features=D, teacher=True):
    """Draw as the protocol says: permutation, uniform numbers, then one set of rows after the other."""
    with isolate_rng():
        torch.manual_seed(seed)
        order, uniform = (torch.randperm(features), torch.rand(K)) if teacher else (None, None)
        normal = torch.distributions.Normal(0, 1)
        rows = [normal.sample((size, features)) for size in sizes]
    return order, uniform, [x / (x**2).mean(dim=1, keepdim=True).sqrt() for x in rows]


@pytest.mark.parametrize("features", [15, 1000])
def test_rows_are_those_of_the_distribution_under_the_global_seed(features):
    *_, expected = protocol(3, 10, 7, 33, features=features, teacher=False)
    state = torch.random.get_rng_state()
    found = published_rows(torch.Generator().manual_seed(3), [10, 7, 33], features)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator moved"
    torch.testing.assert_close(found, expected[2], rtol=1e-6, atol=0)
    with isolate_rng():
        torch.manual_seed(5)
        raw = torch.distributions.Normal(0, 1).sample((33, features))
    mine = torch.empty(33, features).normal_(generator=torch.Generator().manual_seed(5))
    assert torch.equal(mine, raw)
    assert torch.equal(published_rows(torch.Generator().manual_seed(5), [33], features), normalized(raw))


def test_entries_and_signs_are_those_of_the_protocol():
    order, uniform, (after,) = protocol(1, 4)
    generator = torch.Generator().manual_seed(1)
    found, signs = entries_and_signs(generator, D, K)
    assert torch.equal(found, order)
    assert torch.equal(signs, (uniform - 0.5).sign())
    assert torch.equal(torch.empty(4, D).normal_(generator=generator).sign(), after.sign())


def test_normalized_rows_have_mean_square_one():
    x = normalized(torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    torch.testing.assert_close((x**2).sum(dim=1), torch.full((5,), 7.0, dtype=torch.float64))


@pytest.mark.parametrize(("few", "many", "features"), [(16, 32, 15), (1, 3, 15), (7, 200, 15), (3, 9, 1)])
def test_fewer_independent_rows_are_the_beginning_of_more(few, many, features):
    small, large = (independent_rows(0, "main", n, features) for n in (few, many))
    assert torch.equal(small, large[:few])
    assert large.unique(dim=0).shape[0] == (many if features > 1 else 2)  # with one input a row is its sign
    others = (independent_rows(1, "main", many, features), independent_rows(0, "aux", many, features))
    assert all(not torch.equal(other, large) for other in others)


def test_independent_rows_are_gaussian_before_scaling():
    # On a sphere of radius sqrt(d) the fourth moment of an entry is 3 d / (d + 2); a uniform one has other.
    x = independent_rows(0, "test", 20_000, 15).double()
    assert abs(float(x.mean())) < 0.01
    assert float((x**4).mean()) == pytest.approx(3 * 15 / 17, rel=0.02)
    covariance = x.T @ x / len(x)
    torch.testing.assert_close(covariance, torch.eye(15, dtype=torch.float64), atol=0.05, rtol=0)


@pytest.mark.parametrize("sampling", ["published", "independent"])
def test_directions_are_orthonormal_and_their_own(sampling):
    basis = orthogonal_directions(0, sampling, 15)
    torch.testing.assert_close(basis @ basis.T, torch.eye(15, dtype=torch.float64))
    assert torch.equal(basis, orthogonal_directions(0, sampling, 15))
    assert not torch.equal(basis, orthogonal_directions(1, sampling, 15))


def test_published_directions_are_scipys():
    from scipy.stats import ortho_group

    expected = ortho_group.rvs(15, random_state=np.random.RandomState(4))
    np.testing.assert_array_equal(orthogonal_directions(4, "published", 15).numpy(), expected)


@pytest.fixture(scope="module")
def seed_0():
    """The published data of seed 0, overlap 20, n_main 128, by the protocol."""
    return protocol(0, 1024, 128, 10_000)


def test_published_diagonal_data_are_those_of_the_protocol(seed_0):
    order, uniform, (x_aux, x_main, x_test) = seed_0
    data = DiagonalTeacherDataModule(seed=0, n_main=128, overlap=20, dtype="float32")
    signs = (uniform - 0.5).sign()
    beta_aux, beta = torch.zeros(D), torch.zeros(D)
    for i in range(K):
        beta_aux[order[i]] = signs[i] / K**0.5
        beta[order[i] if i < 20 else order[K + i - 20]] = signs[i] / K**0.5
    for task, expected, x in (("aux", beta_aux, x_aux), ("main", beta, x_main)):
        torch.testing.assert_close(data.teacher(0, task), expected)
        torch.testing.assert_close(data.train_set(0, task)[0], x, rtol=1e-6, atol=0)
        torch.testing.assert_close(data.train_set(0, task)[1], (x @ expected)[:, None], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(data.test_set(0, "main")[0], x_test, rtol=1e-6, atol=0)


def test_auxiliary_test_rows_follow_the_auxiliary_rows():
    data = DiagonalTeacherDataModule(seed=2, n_main=16, n_test=50)
    *_, (_, x) = protocol(2, 1024, 50)
    torch.testing.assert_close(data.test_set(0, "aux")[0], x.double(), rtol=1e-6, atol=0)


def single_task_loss(data, replica, steps):
    """Return the test loss after some steps of full-batch descent at lr .1 from weights of 1e-3."""
    (x, y), (x_test, y_test) = data.train_set(replica, "main"), data.test_set(replica, "main")
    weights = torch.full((4, D), 1e-3)  # w+, v+, w-, v-
    sign = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    for _ in range(steps):
        beta = weights[0] * weights[1] - weights[2] * weights[3]
        gradient = (x @ beta - y[:, 0]) @ x * (2 / len(x))
        weights = weights - 0.1 * sign * gradient * weights[[1, 0, 3, 2]]
    beta = weights[0] * weights[1] - weights[2] * weights[3]
    return float((x_test @ beta - y_test[:, 0]).double().square().mean())


# Published single-task losses of seed 0 at their best: tests come after step 1 and every 50 steps from there.
PUBLISHED_16 = {0: 0.99530506, 20: 1.0065397, 30: 1.0044556, 40: 1.0340875}


def test_published_losses_after_one_step_come_out():
    data = DiagonalTeacherDataModule(seed=0, n_main=16, overlap=list(PUBLISHED_16), dtype="float32")
    for replica, loss in enumerate(PUBLISHED_16.values()):
        assert single_task_loss(data, replica, 1) == pytest.approx(loss, abs=2e-7)
        nothing = float(data.test_set(replica, "main")[1].double().square().mean())
        assert nothing == pytest.approx(loss, abs=5e-6)


def test_a_published_loss_after_many_steps_comes_out():
    data = DiagonalTeacherDataModule(seed=0, n_main=128, overlap=40, dtype="float32")
    assert single_task_loss(data, 0, 401) == pytest.approx(0.72618932, abs=5e-7)
