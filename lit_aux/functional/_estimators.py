"""Naive and unbiased estimates of participation ratio and shared dimensions from traces.

X and Y come centred and scaled to unit total variance (see `_gram.Products`). Centred Gram matrices have zero
row sums, so the sums over distinct samples in Song et al. (2012) and Chun et al. (2026) need only the traces
and the diagonals: with the diagonal removed, the row sums of K are minus its diagonal.
"""

import math
import warnings

import torch
from torch import Tensor

from lit_aux.functional._gram import Products


def naive(p: Products, *, feature: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return PR of X, PR of Y and their shared dimensions as ratios of sample traces."""
    return 1 / p.xx, 1 / p.yy, (p.gg if feature else p.xy) / (p.xx * p.yy)


def unbiased(p: Products, *, feature: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same three, each trace replaced by its unbiased estimate over distinct samples."""
    n = p.samples
    xx, yy, xy = p.x_norms.square().sum(), p.y_norms.square().sum(), (p.x_norms * p.y_norms).sum()
    x_power = _power(n, p.xx, xx)
    y_power = x_power if p.yy is p.xx else _power(n, p.yy, yy)
    numerator = _paired_covariance_product(p) if feature else _covariance_product(n, p.xy, xy)
    shared = numerator * _trace_product(n, p.xy, xy) / (x_power * y_power)
    return _trace_product(n, p.xx, xx) / x_power, _trace_product(n, p.yy, yy) / y_power, shared


def _covariance_product(n: int, product: Tensor, diagonal: Tensor) -> Tensor:
    """Estimate ||Sigma_xy||_F^2 from <Kx, Ky> and its part on the diagonal (HSIC_1, Song et al.)."""
    total = product - diagonal + 1 / ((n - 1) * (n - 2)) - 2 * diagonal / (n - 2)
    return total / (n * (n - 3))


def _power(n: int, product: Tensor, diagonal: Tensor) -> Tensor:
    """Estimate tr Sigma^2, a mean of squares; NaN with a warning where only rounding is left of it."""
    value = _covariance_product(n, product, diagonal)
    rounding = 64 * torch.finfo(torch.float64).eps * product / (n * (n - 3))
    if value.item() <= rounding.item():
        warnings.warn(
            "the unbiased estimate of tr(Sigma^2) is not positive, too few samples for this many dimensions: "
            "the result is NaN",
            stacklevel=6,
        )
        return torch.full_like(value, math.nan)
    return value


def _trace_product(n: int, product: Tensor, diagonal: Tensor) -> Tensor:
    """Estimate tr Sigma_x tr Sigma_y: the mean of |x_i - x_j|^2 |y_k - y_l|^2 / 4 over distinct ids."""
    total = (n * n - 3 * n + 1) - n * (n - 1) * diagonal + 2 * product
    return total / (n * (n - 1) * (n - 2) * (n - 3))


def _paired_covariance_product(p: Products) -> Tensor:
    """Estimate tr(Sigma_x Sigma_y) from G = X Y' without its diagonal, over distinct samples."""
    n, square, trace = p.samples, p.dots.square().sum(), p.dots.sum()
    off, transposed = p.gg - square, p.gg_transposed - square
    total = (
        (n - 2) * (n - 3) * off
        - 2 * (n - 3) * (square - off)
        + trace.square()
        - 4 * square
        + off
        + transposed
    )
    return total / (n * (n - 1) * (n - 2) * (n - 3))
