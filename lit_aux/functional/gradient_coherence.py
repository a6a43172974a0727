"""How much per-example gradients scatter, from the norms of averages over batches of two sizes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.functional.gradient_conflict import real_parts


@dataclass(frozen=True)
class GradientMoments:
    r"""Unbiased estimates of the first two moments of per-example gradients.

    Attributes:
        trace: Trace of their covariance, divisor N: :math:`\frac1N \sum_i \|g_i - \bar g\|^2`.
        squared_norm: :math:`\|\bar g\|^2` of their mean. Unbiased, hence below 0 at times.
    """

    trace: float
    squared_norm: float


def moments_from_norms(
    small_squares: float, large_square: float, *, small: int, large: int, total: int
) -> GradientMoments:
    r"""Estimate the moments of per-example gradients from norms at two batch sizes.

    A batch of Z of N examples, drawn without replacement, has a mean gradient with
    :math:`E\|g_Z\|^2 = \|\bar g\|^2 + \frac{A_Z}{Z} \mathrm{tr}\,\Sigma`, where
    :math:`A_Z = (N-Z)/(N-1)`. Two sizes B and L give two equations (McCandlish et al., arXiv 1812.06162,
    appendix A.1, there for an infinite set). Right for every L up to N, where :math:`\|\bar g\|^2` is the
    large batch's own.

    Args:
        small_squares: Mean squared norm of the gradients of batches of B examples.
        large_square: Squared norm (or a mean of such) of the gradient of L examples.
        small: B.
        large: L, above B.
        total: N, at least L.

    Raises:
        ConfigurationError: If the sizes are not 1 <= B < L <= N.

    Example:
        >>> from lit_aux.functional import moments_from_norms
        >>> found = moments_from_norms(3.0, 2.0, small=1, large=2, total=100)
        >>> round(found.trace, 2), round(found.squared_norm, 2)
        (1.98, 1.02)
    """
    if not 1 <= small < large <= total:
        raise ConfigurationError(
            f"large: {large} with small {small} and total {total}; sizes must be 1 <= small < large <= total"
        )
    b, a = ((total - size) / (total - 1) / size for size in (small, large))
    trace = (small_squares - large_square) / (b - a)
    return GradientMoments(trace, (b * large_square - a * small_squares) / (b - a))


def gradient_coherence(
    gradients: Iterable[Sequence[Tensor]],
    *,
    batch_size: int,
    total: int,
    like: Sequence[Tensor] | None = None,
    reduce: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> GradientMoments:
    """Estimate the moments of per-example gradients from those of small batches, averaged into a large one.

    Beside the gradient at hand only one sum is held, in float32 or better; norms are summed in float64.

    Args:
        gradients: Mean gradients over n disjoint batches of ``batch_size`` examples, drawn without
            replacement; each one tensor a parameter.
        batch_size: B.
        total: N, the number of examples that batches are drawn from; at least n B.
        like: Tensors of the gradients' shapes and device; needed where processes share the gradients and one
            may have none.
        reduce: Sums a tensor over processes, so that all end with the same estimate.

    Returns:
        The estimates, which are exact for B = 1 and n = N.

    Raises:
        ConfigurationError: For fewer than two batches, or more than N examples in them.

    Example:
        >>> from torch import tensor
        >>> from lit_aux.functional import gradient_coherence
        >>> batches = [[tensor([1.0, 0.0])], [tensor([1.0, 0.2])]]
        >>> found = gradient_coherence(batches, batch_size=8, total=64)
        >>> found.squared_norm > 0
        True
    """
    sums = [] if like is None else [_zeros(tensor) for tensor in like]
    counted = torch.zeros(2, dtype=torch.float64)  # batches, and the squared norms of their gradients
    for gradient in gradients:
        sums = sums or [_zeros(tensor) for tensor in gradient]
        for so_far, part in zip(sums, gradient, strict=True):
            so_far += part.detach()
        counted += torch.tensor([1.0, float(_squared_norm(gradient))], dtype=torch.float64)
        del gradient  # before the next one is made
    n, squares = reduce(counted).tolist()
    if n < 2 or batch_size < 1 or n * batch_size > total:
        raise ConfigurationError(
            f"gradients: {n:.0f} batches of {batch_size} from {total} examples; give 2 or more, disjoint ones"
        )
    # One tensor after another: the sum over processes must not take the memory of another gradient.
    large = sum(float(_squared_norm([reduce(part)])) for part in sums) / n**2
    return moments_from_norms(squares / n, large, small=batch_size, large=round(n) * batch_size, total=total)


def _zeros(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor.detach(), dtype=torch.promote_types(tensor.dtype, torch.float32))


def _squared_norm(gradient: Sequence[Tensor]) -> Tensor:
    parts = (real_parts(part.detach()) for part in gradient)
    norms = (torch.linalg.vector_norm(part, dtype=torch.float64) for part in parts)
    return torch.stack([norm.square() for norm in norms]).sum()
