"""How gradients of several tasks lie to each other, and to the direction that is taken."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.functional._scale import ordinary, safe_scale

Gradient = Tensor | Sequence[Tensor]
"""A gradient: one tensor, or one for each parameter."""


@torch.no_grad()
def gradient_cosine(a: Gradient | Iterable[Tensor], b: Gradient | Iterable[Tensor]) -> Tensor:
    r"""Compute the cosine :math:`\langle a, b\rangle / (\|a\| \|b\|)` of two gradients.

    Below 0 they conflict: a small step against one of them makes the other one's loss larger.

    Args:
        a: A gradient of any dtype; a complex number counts as two real ones. Tensors that an iterator makes
            need never be in memory together.
        b: Another one, its tensors of the same shapes.

    Returns:
        A scalar of float64, in which sums are made, in [-1, 1]; 0 if either gradient is zero.

    Raises:
        ConfigurationError: If there is no tensor, or shapes differ.

    Example:
        >>> from torch import tensor
        >>> from lit_aux.functional import gradient_cosine
        >>> round(gradient_cosine(tensor([1.0, 0.0]), tensor([1.0, 1.0])).item(), 4)
        0.7071
    """
    sums: _Products | None = None
    for x, y in zip_longest(_tensors(a), _tensors(b)):
        if x is None or y is None or x.shape != y.shape:
            shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (y, x)]
            raise ConfigurationError(f"b: a tensor of shape {shapes[0]} is beside one of {shapes[1]} in a")
        sums = _Products(_place(x)) if sums is None else sums
        sums.add(x, y)
    if sums is None:
        raise ConfigurationError("a: there is no tensor; give one for each parameter")
    length = sums.values[1].sqrt() * sums.values[2].sqrt()
    return torch.where(length == 0, 0.0, sums.values[0] / length).clamp(-1, 1)


class _Products:
    """The inner products <a, b>, <a, a> and <b, b>, tensor by tensor, over the scales of a and b.

    A scale is 1 unless all numbers of float64 so far are so small, or one so large, that squares would be
    lost, which their sums tell; 0 as long as all were 0.
    """

    def __init__(self, place: torch.device) -> None:
        self.values = torch.zeros(3, dtype=torch.float64, device=place)
        self.scales = torch.zeros(2, dtype=torch.float64, device=place)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add what one tensor of each gradient contributes."""
        exact = torch.float64 in (x.dtype.to_real(), y.dtype.to_real())
        one, other = (real_parts(tensor).flatten().to(_place(x), torch.float64) for tensor in (x, y))
        if not one.numel():
            return
        terms, scales = _dots(one, other), torch.ones_like(self.scales)
        odd = exact and not ordinary(terms[1:])
        if odd:
            largest = torch.stack([torch.maximum(v.max(), -v.min()) for v in (one, other)])
            scales = torch.where(largest == 0, 0.0, safe_scale(largest)).to(self.scales.device)
        scales = torch.maximum(self.scales, scales)
        used = torch.where(scales > 0, scales, 1.0)
        ratios = self.scales / used
        if odd:
            terms = _dots(*(v / scale for v, scale in zip((one, other), used.to(one.device), strict=True)))
        terms = terms.to(self.values.device)
        if not odd:
            terms = terms / torch.stack((used[0] * used[1], used[0].square(), used[1].square()))
        kept = torch.stack((ratios[0] * ratios[1], ratios[0].square(), ratios[1].square()))
        self.values = self.values * kept + terms
        self.scales = scales


def _dots(one: Tensor, other: Tensor) -> Tensor:
    return torch.stack((one @ other, one @ one, other @ other))


def _place(tensor: Tensor) -> torch.device:
    """Return where sums in float64 can be made."""
    return torch.device("cpu") if tensor.device.type == "mps" else tensor.device


def real_parts(tensor: Tensor) -> Tensor:
    """Return a tensor of real numbers: complex ones as pairs along a new last axis."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def pairwise_cosines(gradients: Sequence[Gradient]) -> Tensor:
    """Compute the cosines of every two gradients.

    Args:
        gradients: K gradients of the same shapes.

    Returns:
        A symmetric (K, K) tensor of float64; 1 on the diagonal, and 0 for a gradient that is zero.

    Raises:
        ConfigurationError: As for :func:`gradient_cosine`, and if there is no gradient.

    Example:
        >>> from torch import tensor
        >>> from lit_aux.functional import pairwise_cosines
        >>> pairwise_cosines([tensor([1.0, 0.0]), tensor([0.0, 2.0]), tensor([-1.0, 0.0])])
        tensor([[ 1.,  0., -1.],
                [ 0.,  1.,  0.],
                [-1.,  0.,  1.]], dtype=torch.float64)
    """
    _check_some(gradients)
    cosines = torch.zeros(len(gradients), len(gradients), dtype=torch.float64)
    for i, first in enumerate(gradients):
        cosines[i, i] = gradient_cosine(first, first).round()
        for j, second in enumerate(gradients[:i]):
            cosines[i, j] = cosines[j, i] = gradient_cosine(first, second)
    return cosines


def gradient_conflict(gradients: Sequence[Gradient], direction: Gradient) -> Tensor:
    """Compute the cosine of each task's gradient with the direction that is applied.

    Mueller et al., "Can Optimization Trajectories Explain Multi-Task Transfer?" (arXiv 2408.14677).

    Args:
        gradients: K tasks' gradients of the same shapes.
        direction: What is subtracted from the weights, up to its length: the mean of the gradients, what an
            aggregator makes of them, or the weights before a step minus those after it.

    Returns:
        A tensor (K,) of float64; 0 for a gradient, or a direction, that is zero.

    Raises:
        ConfigurationError: As for :func:`gradient_cosine`, and if there is no gradient.

    Example:
        >>> from torch import tensor
        >>> from lit_aux.functional import gradient_conflict
        >>> gradient_conflict([tensor([1.0, 0.0]), tensor([0.0, 1.0])], tensor([1.0, 0.0]))
        tensor([1., 0.], dtype=torch.float64)
    """
    _check_some(gradients)
    return torch.stack([gradient_cosine(gradient, direction).cpu() for gradient in gradients])


def _check_some(gradients: Sequence[Any]) -> None:
    if not len(gradients):
        raise ConfigurationError("gradients: there is none; give one for each task")


def _tensors(gradient: Gradient | Iterable[Tensor]) -> Iterable[Tensor]:
    return (gradient,) if isinstance(gradient, Tensor) else gradient
