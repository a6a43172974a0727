"""Participation ratio and effective number of shared dimensions of neural representations."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError, check_known
from lit_aux.functional._gram import Matrices, Products, matrices, products
from lit_aux.functional._scale import magnitude, safe_scale

Pairing = Literal["feature", "sample"]
"""Whether two networks are matched neuron by neuron, or only through the samples both saw."""


class SharedDimensionality(NamedTuple):
    """Dimensionality of two representations and of what they share; 0-dim float64 tensors."""

    pr_x: Tensor
    pr_y: Tensor
    ensd: Tensor


@torch.no_grad()
def participation_ratio(x: Tensor, *, center: bool = True, unbiased: bool = False) -> Tensor:
    r"""Compute the participation ratio :math:`(\mathrm{tr}\,C)^2 / \mathrm{tr}\,C^2` of activations.

    C is the covariance of the features, or their second moment if not ``center``. The value lies between 1
    and the rank; it is the number of dimensions over which the variance is spread (Gao et al., 2017). From n
    samples it is biased low unless n is much larger than it; ``unbiased`` replaces both traces by unbiased
    estimates, the "row" estimator of Chun et al. (ICLR 2026, arXiv:2509.26560), for a fixed network and
    sampled inputs.

    Everything is computed in float64, from the n x n Gram matrix where there are more features than samples.
    No gradient is recorded.

    Args:
        x: Activations, (n, D) or (n, ...), which is flattened; any real dtype.
        center: Subtract the mean over the samples; False is the convention of some published figures.
        unbiased: Correct for the finite number of samples; needs n >= 4, and is always of the centred
            quantities, whatever ``center`` says.

    Returns:
        A 0-dim float64 tensor on the device of ``x``; NaN, with a warning, where ``x`` does not vary or the
        unbiased estimate of :math:`\mathrm{tr}\,C^2` is not positive.

    Raises:
        ConfigurationError: If there are too few samples or a value is not finite.

    Example:
        >>> import torch
        >>> from lit_aux.functional import participation_ratio
        >>> x = torch.eye(4)[:, :3]  # four samples that fill three dimensions
        >>> participation_ratio(x, center=False)
        tensor(3., dtype=torch.float64)
    """
    x = _prepare("x", x, unbiased)
    return _evaluate(x, x, "sample", center, unbiased).pr_x


@torch.no_grad()
def effective_shared_dimensions(
    x: Tensor, y: Tensor, *, pairing: Pairing = "feature", center: bool = True, unbiased: bool = False
) -> Tensor:
    r"""Compute the effective number of shared dimensions of two sets of activations of the same samples.

    :math:`\mathrm{tr}(C_x C_y)\,\mathrm{tr}C_x\,\mathrm{tr}C_y / (\mathrm{tr}C_x^2\,\mathrm{tr}C_y^2)`
    (Giaffar, Buxo and Aoi, AISTATS 2024). It is symmetric, free of scale, equals the participation ratio for
    ``x = y``, and is at most the geometric mean of the two participation ratios.

    Args:
        x: Activations, (n, Dx) or (n, ...), which is flattened; any real dtype.
        y: Activations of the same n samples, (n, Dy) or (n, ...).
        pairing: ``"feature"`` takes C over features (D x D), which needs the same neurons in both: a network
            before and after finetuning. ``"sample"`` takes it over samples (n x n), which does not change
            when either feature space is rotated, so it also compares different architectures.
        center: Subtract the mean over the samples.
        unbiased: Correct for the finite number of samples; needs n >= 4, and is always of the centred
            quantities, whatever ``center`` says. Without it the feature pairing is biased low, and the sample
            pairing of unrelated representations is biased high.

    Returns:
        A 0-dim float64 tensor on the device of ``x``; NaN with a warning as in `participation_ratio`.

    Raises:
        ConfigurationError: If the numbers of samples differ (or of features, with ``pairing="feature"``),
            the pairing is unknown, there are too few samples, or a value is not finite.

    Example:
        >>> import torch
        >>> from lit_aux.functional import effective_shared_dimensions
        >>> x = torch.eye(6)[:, :4]
        >>> effective_shared_dimensions(x, x[:, [1, 0, 2, 3]], center=False)
        tensor(4., dtype=torch.float64)
    """
    return shared_dimensionality(x, y, pairing=pairing, center=center, unbiased=unbiased).ensd


@torch.no_grad()
def shared_dimensionality(
    x: Tensor, y: Tensor, *, pairing: Pairing = "feature", center: bool = True, unbiased: bool = False
) -> SharedDimensionality:
    """Compute the participation ratio of ``x`` and of ``y`` and what they share, from one set of matrices.

    Arguments, errors and NaN are those of `effective_shared_dimensions`.

    Example:
        >>> import torch
        >>> from lit_aux.functional import shared_dimensionality
        >>> x = torch.eye(6)[:, :4]
        >>> both = shared_dimensionality(x, x, center=False)
        >>> both.pr_x.item(), both.pr_y.item(), round(both.ensd.item(), 6)
        (4.0, 4.0, 4.0)
    """
    check_pairing(pairing)
    x, y = _prepare("x", x, unbiased), _prepare("y", y, unbiased)
    check_same_samples(x, y)
    check_same_features(pairing, (x.shape[1], y.shape[1]))
    return _evaluate(x, y, pairing, center, unbiased)


@torch.no_grad()
def shared_dimensionality_from_moments(
    samples: int,
    means: Sequence[Tensor],
    seconds: Mapping[tuple[int, int], Tensor],
    *,
    pairing: Pairing,
    center: bool,
) -> SharedDimensionality:
    """Compute the naive measures from moments that were accumulated elsewhere.

    Args:
        samples: The number of samples.
        means: Per-feature means of X, or of X and Y; float64, each set over a scale of its own.
        seconds: Sums over samples of products of centred features: (0, 0) for X, (1, 1) for Y, and (0, 1)
            between them for the sample pairing. With X alone, Y is X.
        pairing: As in `effective_shared_dimensions`.
        center: False adds the means back.
    """
    whole = {
        (i, j): second if center else torch.addr(second, means[i], means[j], alpha=samples)
        for (i, j), second in seconds.items()
    }
    first, empty = whole[0, 0], means[0].new_zeros(0)
    second, mixed = whole.get((1, 1), first), whole.get((0, 1), empty.view(0, 0))
    x_square, y_square = (samples * mean.square().sum() * center for mean in (means[0], means[-1]))
    found = Matrices(False, samples, first, second, mixed, empty, empty, empty, x_square, y_square)
    return SharedDimensionality(*_naive(products(found), feature=pairing == "feature"))


def check_pairing(pairing: str) -> None:
    """Raise `ConfigurationError` for an unknown pairing."""
    check_known("pairing", pairing, get_args(Pairing))


def least_samples(unbiased: bool) -> int:
    """Return the smallest number of samples for which the measures are defined."""
    return 4 if unbiased else 2


def check_activations(name: str, x: Tensor) -> None:
    """Raise `ConfigurationError` for what is no real (n, D) or (n, ...) with at least one feature."""
    if x.ndim < 2 or x.is_complex() or 0 in x.shape[1:]:
        raise ConfigurationError(f"{name}: {x.dtype} of shape {tuple(x.shape)}; give real activations (n, D)")


def check_same_samples(x: Tensor, y: Tensor) -> None:
    """Raise `ConfigurationError` for other numbers of samples."""
    if x.shape[0] != y.shape[0]:
        raise ConfigurationError(
            f"y: {y.shape[0]} samples, but x has {x.shape[0]}; both must be of the same inputs"
        )


def check_same_features(pairing: Pairing, sizes: Sequence[int]) -> None:
    """Raise `ConfigurationError` where the feature pairing is given two numbers of features."""
    if pairing == "feature" and sizes[0] != sizes[-1]:
        raise ConfigurationError(
            f"pairing: 'feature' needs the same features, got {sizes[0]} and {sizes[-1]}; use 'sample'"
        )


def activation_scale(name: str, x: Tensor) -> Tensor:
    """Return what activations are divided by before they are squared, 0-dim float64.

    Raises:
        ConfigurationError: For NaN or an infinite value.
    """
    return safe_scale(magnitude(name, x, "activations"))


def _prepare(name: str, x: Tensor, unbiased: bool) -> Tensor:
    """Check one input and flatten it to (n, D)."""
    check_activations(name, x)
    if x.shape[0] < least_samples(unbiased):
        raise ConfigurationError(f"{name}: {x.shape[0]} samples; give at least {least_samples(unbiased)}")
    x = x.detach().flatten(1)
    return x.cpu() if x.device.type == "mps" else x  # MPS has no float64


def _evaluate(x: Tensor, y: Tensor, pairing: Pairing, center: bool, unbiased: bool) -> SharedDimensionality:
    """Compute the three measures of (n, D) activations; ``y`` may be ``x``."""
    feature = pairing == "feature"
    with torch.autocast(x.device.type, enabled=False):
        x_scale = activation_scale("x", x)
        scales = x_scale, x_scale if y is x else activation_scale("y", y)
        found = matrices(x, y, scales, mixed=feature, center=center or unbiased, per_sample=unbiased)
        estimate = _unbiased if unbiased else _naive
        return SharedDimensionality(*estimate(products(found), feature=feature))


# Estimates from traces
#
# X and Y come centred and scaled to unit total variance (see `_gram.Products`). Centred Gram matrices have
# zero row sums, so the sums over distinct samples in Song et al. (2012) and Chun et al. (2026) need only the
# traces and the diagonals: with the diagonal removed, the row sums of K are minus its diagonal.


def _naive(p: Products, *, feature: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return PR of X, PR of Y and their shared dimensions as ratios of sample traces."""
    return 1 / p.xx, 1 / p.yy, (p.gg if feature else p.xy) / (p.xx * p.yy)


def _unbiased(p: Products, *, feature: bool) -> tuple[Tensor, Tensor, Tensor]:
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
    total = (n - 2) * (n - 3) * off - 2 * (n - 3) * (square - off)
    total = total + trace.square() - 4 * square + off + transposed
    return total / (n * (n - 1) * (n - 2) * (n - 3))
