"""Ridge regression with a free intercept, for a whole path of penalties and many targets at once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.finite import all_finite
from lit_aux.functional._scale import magnitude, safe_scale

BLOCK_ELEMENTS = 2**20
"""Predictions and inputs that are held at a time while losses are summed: 8 MiB each in float64."""


@dataclass(frozen=True)
class BestRidge:
    """What `best_ridge` found, one entry a target; float64 tensors."""

    alpha: Tensor
    """The penalty with the smallest test loss, (T,); the smallest such penalty where several tie."""
    loss_best: Tensor
    """Test mean squared error at ``alpha``, (T,)."""
    losses: Tensor
    """Test mean squared error at every penalty, (A, T)."""
    train_loss: Tensor
    """Training mean squared error at ``alpha``, (T,)."""


def default_alphas() -> Tensor:
    """Return the 100 penalties of the published probes, log-spaced from 1e-5 to 1e10; float64."""
    return torch.logspace(-5, 10, 100, dtype=torch.float64)


@torch.no_grad()
def ridge_path(
    train: Tensor, y: Tensor, test: Tensor, alphas: Tensor | None = None, *, kernel: bool = False
) -> Tensor:
    r"""Predict with ridge regression at every penalty.

    Minimises :math:`\sum_i (y_i - b - \langle w, \phi_i\rangle)^2 + \alpha |w|^2` over w and the intercept b,
    which is not penalised: scikit-learn's ``Ridge(alpha)``. One decomposition of the centred inputs serves
    all penalties and targets: singular values for features, which are exact where alpha is tiny against them;
    eigenvalues for kernels. Directions whose variance is rounding (relative to the inputs' size, so that the
    scale of the features does not matter) are left out, which is the limit alpha -> 0.

    Args:
        train: Features of the training set, (n, P); or their Gram matrix, (n, n), with ``kernel``.
        y: Targets, (n, T).
        test: Features of the test set, (m, P); or products of test with training features, (m, n).
        alphas: Penalties, (A,), none negative; by default those of `default_alphas`.
        kernel: Whether ``train`` and ``test`` are inner products. They need not be centred.

    Returns:
        Predictions, (A, m, T), float64. For losses on large test sets use `best_ridge`, which never holds
        all of them.

    Raises:
        ConfigurationError: If shapes do not fit, a value is not finite or a penalty is negative.
    """
    alphas = _check(train, y, test, alphas, kernel)
    train, test, scaled = _scaled(train, test, alphas, kernel)
    center, mean, weights = _solve(train, y, scaled, kernel)
    found = (test.to(torch.float64) - center) @ weights
    return found.view(len(test), len(alphas), -1).movedim(1, 0) + mean


@torch.no_grad()
def best_ridge(
    train: Tensor,
    y: Tensor,
    test: Tensor,
    y_test: Tensor,
    alphas: Tensor | None = None,
    *,
    kernel: bool = False,
) -> BestRidge:
    """Fit every penalty of `ridge_path` and choose, for each target, the best one on the test set.

    The test set is visited in blocks of rows and predictions are not kept.

    Args:
        train: As in `ridge_path`.
        y: Targets, (n, T).
        test: As in `ridge_path`.
        y_test: Test targets, (m, T).
        alphas: As in `ridge_path`.
        kernel: As in `ridge_path`.

    Raises:
        ConfigurationError: As in `ridge_path`.
    """
    alphas = _check(train, y, test, alphas, kernel)
    if y_test.shape != (len(test), y.shape[1]):
        raise ConfigurationError(
            f"y_test: shape {tuple(y_test.shape)}; give targets ({len(test)}, {y.shape[1]}), a row a test row"
        )
    if not y.shape[1]:
        raise ConfigurationError(f"y: shape {tuple(y.shape)}; give targets ({len(train)}, T), T > 0")
    _check_values("y_test", y_test)
    train, test, scaled = _scaled(train, test, alphas, kernel)
    y, y_test = y.to(torch.float64), y_test.to(torch.float64)
    unit = safe_scale(torch.maximum(y.abs().amax(0), y_test.abs().amax(0)))  # of each target by itself
    y, y_test = y / unit, y_test / unit
    fit = _solve(train, y, scaled, kernel)
    losses = _mean_squares(test, y_test, *fit)
    place = losses.argmin(0)
    best = losses.gather(0, place[None])[0]
    train_loss = _mean_squares(train, y, *fit).gather(0, place[None])[0]
    best, losses, train_loss = (values * unit * unit for values in (best, losses, train_loss))
    return BestRidge(alphas[place], best, losses, train_loss)


def _check(train: Tensor, y: Tensor, test: Tensor, alphas: Tensor | None, kernel: bool) -> Tensor:
    """Check what a person gave and return the penalties in float64 on the device of ``train``."""
    alphas = (default_alphas() if alphas is None else alphas).to(train.device, torch.float64)
    if train.ndim != 2 or not len(train) or (kernel and train.shape[0] != train.shape[1]):
        right = "a Gram matrix (n, n)" if kernel else "features (n, P)"
        raise ConfigurationError(f"train: shape {tuple(train.shape)}; give {right}")
    if y.ndim != 2 or len(y) != len(train):
        raise ConfigurationError(f"y: shape {tuple(y.shape)}; give targets ({len(train)}, T)")
    if test.ndim != 2 or test.shape[1] != train.shape[1] or not len(test):
        raise ConfigurationError(f"test: shape {tuple(test.shape)}; give (m, {train.shape[1]}), m > 0")
    if alphas.ndim != 1 or not len(alphas) or not bool((alphas >= 0).all()):
        raise ConfigurationError(f"alphas: {alphas.tolist()}; give at least one number, none below 0")
    for name, values in (("train", train), ("y", y), ("test", test)):
        _check_values(name, values)
    return alphas


def _check_values(name: str, values: Tensor) -> None:
    """Raise `ConfigurationError` for complex numbers, NaN and infinite ones."""
    if values.is_complex():
        raise ConfigurationError(f"{name}: {values.dtype} is no real number; give floating point")
    if not all_finite(values):
        raise ConfigurationError(f"{name}: has NaN or infinite values; give finite numbers")


def _scaled(train: Tensor, test: Tensor, alphas: Tensor, kernel: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs and penalties of the same predictions whose squares neither overflow nor vanish."""
    unit = safe_scale(magnitude("train", train, "numbers"))
    if float(unit) == 1:
        return train, test, alphas
    scaled = alphas / unit if kernel else alphas / unit / unit
    return train.to(torch.float64) / unit, test.to(torch.float64) / unit, scaled


def _solve(train: Tensor, y: Tensor, alphas: Tensor, kernel: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the centre c, the targets' mean b and weights W such that ``(test - c) @ W + b`` predicts.

    With the centred features F = U diag(s) V', the primal weights are ``V s/(s^2 + alpha) U'y``; those of the
    kernel F F' are ``U 1/(s^2 + alpha) U'y``. W is (P or n, A T), the targets running fastest.
    """
    inputs, targets = train.to(torch.float64), y.to(torch.float64)
    center, mean = inputs.mean(0), targets.mean(0)
    if kernel:
        # A kernel in float32 carries the rounding of float32 in every direction.
        kind = train.dtype if train.is_floating_point() else torch.float64
        size = 16 * torch.finfo(kind).eps * inputs.diagonal().sum()
        squares, left = torch.linalg.eigh(inputs - center - center[:, None] + center.mean())
        kept = squares > size
        left = out = left[:, kept]
        squares = squares[kept]
        gains = torch.ones_like(squares)
    else:
        size = max(inputs.shape) * torch.finfo(torch.float64).eps * torch.linalg.norm(inputs)
        left, values, right = torch.linalg.svd(inputs - center, full_matrices=False)
        kept = values > size
        left, gains, out = left[:, kept], values[kept], right[kept].T
        squares = gains.square()
    scores = left.T @ (targets - mean)  # (r, T)
    filters = gains[:, None] / (squares[:, None] + alphas)  # (r, A)
    weights = out @ (filters[:, :, None] * scores[:, None, :]).flatten(1)
    if kernel:
        # Their sum is zero but for rounding, which the row means of test kernels, left in, would amplify.
        weights -= weights.mean(0)
    return center, mean, weights


def _mean_squares(inputs: Tensor, targets: Tensor, center: Tensor, mean: Tensor, weights: Tensor) -> Tensor:
    """Return the mean squared error of every column of ``weights``, (A, T), in blocks of rows."""
    rows = max(1, BLOCK_ELEMENTS // max(weights.shape))
    total = weights.new_zeros(weights.shape[1] // len(mean), len(mean))
    for start in range(0, len(inputs), rows):
        x, y = (part[start : start + rows].to(torch.float64) for part in (inputs, targets))
        found = (x - center) @ weights
        total += (found.view(len(x), -1, len(mean)) - (y - mean)[:, None, :]).square_().sum(0)
    return total / len(inputs)
