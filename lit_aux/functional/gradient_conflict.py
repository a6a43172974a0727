"""How gradients of several tasks lie to each other, and to the direction that is taken."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError

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
    """
    sums: Tensor | None = None
    for x, y in zip_longest(_tensors(a), _tensors(b)):
        if x is None or y is None or x.shape != y.shape:
            shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (y, x)]
            raise ConfigurationError(f"b: a tensor of shape {shapes[0]} is beside one of {shapes[1]} in a")
        one, other = (real_parts(tensor).flatten().to(x.device, torch.float64) for tensor in (x, y))
        terms = torch.stack((one @ other, one @ one, other @ other))
        sums = terms if sums is None else sums + terms.to(sums.device)
    if sums is None:
        raise ConfigurationError("a: there is no tensor; give one for each parameter")
    length = sums[1].sqrt() * sums[2].sqrt()
    return torch.where(length == 0, 0.0, sums[0] / length).clamp(-1, 1)


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
    """
    _check_some(gradients)
    return torch.stack([gradient_cosine(gradient, direction).cpu() for gradient in gradients])


def _check_some(gradients: Sequence[Any]) -> None:
    if not len(gradients):
        raise ConfigurationError("gradients: there is none; give one for each task")


def _tensors(gradient: Gradient | Iterable[Tensor]) -> Iterable[Tensor]:
    return (gradient,) if isinstance(gradient, Tensor) else gradient
