"""Ridge paths against scikit-learn, minimum-norm least squares and how ridge answers to a change of units."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from lit_aux.errors import ConfigurationError
from lit_aux.functional import ridge
from lit_aux.functional.ridge import best_ridge, default_alphas, ridge_path

ALPHAS = torch.tensor([1e-3, 0.3, 1.0, 40.0, 1e6], dtype=torch.float64)
SHAPES = [(12, 40), (40, 12), (20, 20), (1, 3)]


def problem(n, p, *, m=17, targets=3, offset=2.0, rank=None, seed=0):
    """Features with unequal means, and targets with a mean, of a training and a test set."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mix = normal(rank or p, p)
    weights, shift = normal(p, targets), normal(p) * offset
    x, x_test = (normal(k, rank or p) @ mix + shift for k in (n, m))
    y, y_test = (a @ weights + 0.5 * normal(len(a), targets) + 7 for a in (x, x_test))
    return x, y, x_test, y_test


def reference(x, y, x_test, alphas, solver="auto"):
    """Predictions of scikit-learn, one penalty at a time: (A, m, T)."""
    fitted = [Ridge(alpha, solver=solver).fit(x.numpy(), y.numpy()) for alpha in alphas.tolist()]
    return torch.tensor(np.stack([f.predict(x_test.numpy()).reshape(len(x_test), -1) for f in fitted]))


def path(x, y, x_test, alphas, kernel):
    if kernel:
        return ridge_path(x @ x.T, y, x_test @ x.T, alphas, kernel=True)
    return ridge_path(x, y, x_test, alphas)


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize(("n", "p"), SHAPES)
def test_predictions_are_those_of_scikit_learn(n, p, kernel):
    x, y, x_test, _ = problem(n, p)
    expected = reference(x, y, x_test, ALPHAS)
    torch.testing.assert_close(path(x, y, x_test, ALPHAS, kernel), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_size_of_features_only_rescales_the_penalty(kernel, scale):
    x, y, x_test, _ = problem(15, 40)
    expected = reference(x, y, x_test, ALPHAS)
    found = path(scale * x, y, scale * x_test, ALPHAS * scale**2, kernel)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 1e-14])
def test_without_a_penalty_it_is_the_least_squares_of_smallest_norm(kernel, alpha):
    x, y, x_test, _ = problem(30, 50, rank=6)
    weights = np.linalg.lstsq((x - x.mean(0)).numpy(), (y - y.mean(0)).numpy(), rcond=1e-10)[0]
    expected = (x_test - x.mean(0)) @ torch.tensor(weights) + y.mean(0)
    found = path(x, y, x_test, torch.tensor([alpha], dtype=torch.float64), kernel)[0]
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_features_keep_directions_that_a_kernel_loses_in_rounding():
    x, y, x_test, _ = problem(10, 30)
    scales = torch.logspace(0, -9, 30, dtype=torch.float64)  # squared: eighteen decades
    alphas = torch.tensor([1e-13, 1e-8], dtype=torch.float64)
    expected = reference(x * scales, y, x_test * scales, alphas, solver="svd")
    torch.testing.assert_close(
        ridge_path(x * scales, y, x_test * scales, alphas), expected, rtol=1e-6, atol=0
    )


def test_a_large_mean_of_the_features_does_not_hide_their_variance_in_a_kernel():
    x, y, x_test, _ = problem(15, 40, offset=1e4)
    x_test = x_test + 2 * x.mean(0)  # and elsewhere on the test set, so that the kernel's rows have means too
    expected = reference(x, y, x_test, ALPHAS)
    found = path(x, y, x_test, ALPHAS, True)
    assert ((found - expected).abs().amax((1, 2)) < 1e-7 * expected.abs().amax((1, 2))).all()


def test_a_kernel_in_single_precision_is_not_fitted_through_its_rounding():
    x, y, x_test, _ = problem(60, 80, rank=6)
    alphas = torch.tensor([1e-9], dtype=torch.float64)
    exact = path(x, y, x_test, alphas, True)
    rounded = ridge_path((x @ x.T).float(), y, (x_test @ x.T).float(), alphas, kernel=True)
    torch.testing.assert_close(rounded, exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kernel", [False, True])
def test_features_that_do_not_vary_predict_the_mean(kernel):
    x, y = torch.full((9, 4), 0.1, dtype=torch.float64), problem(9, 4)[1]
    found = path(x, y, x[:5] + 1, ALPHAS, kernel)
    torch.testing.assert_close(found, y.mean(0).expand(5, 5, 3), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("limit", [1, 100, 2**20])
def test_best_ridge_is_the_best_of_scikit_learns_losses(monkeypatch, kernel, limit):
    monkeypatch.setattr(ridge, "BLOCK_ELEMENTS", limit)  # 1, 4 or all of the rows at a time
    x, y, x_test, y_test = problem(25, 20)
    alphas = torch.logspace(-3, 4, 8, dtype=torch.float64)
    losses = (reference(x, y, x_test, alphas) - y_test).square().mean(1)
    train_losses = (reference(x, y, x, alphas) - y).square().mean(1)
    best = losses.argmin(0)
    assert best.min() > 0
    assert best.max() < 7  # neither end, or choosing would not be tested
    args = (x @ x.T, y, x_test @ x.T, y_test) if kernel else (x, y, x_test, y_test)
    found = best_ridge(*args, alphas, kernel=kernel)
    torch.testing.assert_close(found.losses, losses, rtol=1e-8, atol=0)
    torch.testing.assert_close(found.alpha, alphas[best])
    torch.testing.assert_close(found.loss_best, losses.min(0).values, rtol=1e-8, atol=0)
    torch.testing.assert_close(found.train_loss, train_losses[best, [0, 1, 2]], rtol=1e-8, atol=0)


def test_the_penalties_are_the_published_ones():
    expected = torch.tensor(np.logspace(-5, 10, 100))
    torch.testing.assert_close(default_alphas(), expected, rtol=1e-12, atol=0)
    x, y, x_test, y_test = problem(9, 4)
    torch.testing.assert_close(
        best_ridge(x, y, x_test, y_test).losses, best_ridge(x, y, x_test, y_test, expected).losses
    )


def test_single_precision_data_is_worked_on_in_double_precision():
    x, y, x_test, y_test = (a.float() for a in problem(12, 40))
    expected = best_ridge(x.double(), y.double(), x_test.double(), y_test.double(), ALPHAS)
    found = best_ridge(x, y, x_test, y_test, ALPHAS)
    assert found.losses.dtype == torch.float64
    assert torch.equal(found.losses, expected.losses)


@pytest.mark.parametrize(
    ("change", "kernel", "says"),
    [
        ({"train": torch.ones(9)}, False, "train: shape (9,); give features"),
        ({"train": torch.ones(0, 4)}, False, "train: shape (0, 4)"),
        ({"train": torch.ones(9, 4)}, True, "train: shape (9, 4); give a Gram matrix"),
        ({"y": torch.ones(9)}, False, "y: shape (9,); give targets (9, T)"),
        ({"y": torch.ones(8, 3)}, False, "y: shape (8, 3)"),
        ({"test": torch.ones(17, 5)}, False, "test: shape (17, 5); give (m, 4)"),
        ({"y_test": torch.ones(17, 2)}, False, "y_test: shape (17, 2); give targets (17, 3)"),
        ({"alphas": torch.tensor([1.0, -1.0])}, False, "alphas: [1.0, -1.0]"),
        ({"alphas": torch.tensor([float("nan")])}, False, "alphas: [nan]"),
        ({"test": torch.full((17, 4), float("inf"))}, False, "test: has NaN or infinite"),
    ],
)
def test_bad_input_says_what_would_be_right(change, kernel, says):
    x, y, x_test, y_test = problem(9, 4)
    args = {"train": x, "y": y, "test": x_test, "y_test": y_test, "alphas": ALPHAS} | change
    with pytest.raises(ConfigurationError) as caught:
        best_ridge(**args, kernel=kernel)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)
