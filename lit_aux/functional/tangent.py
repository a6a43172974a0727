"""Tangent features of the two small networks: the kernels of their gradients, never the gradients."""

from collections.abc import Callable

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.functional.gradient_flow import PATHWAYS, Pathways

BLOCK_ELEMENTS = 2**20
"""Activations that are held at a time while a kernel is filled: 8 MiB in float64."""


def relu_features(first: Tensor, x: Tensor) -> Tensor:
    """Compute the hidden activations ``relu(x first')``: the gradient with respect to the readout.

    Args:
        first: Weights of the first layer, (H, d).
        x: Inputs, (n, d).

    Returns:
        Features, (n, H), in the dtype of the arguments.
    """
    return (x @ first.T).relu_()


@torch.no_grad()
def relu_tangent_kernel(
    first: Tensor, readout: Tensor, x: Tensor, x2: Tensor | None = None, *, dtype: torch.dtype = torch.float64
) -> Tensor:
    r"""Compute the tangent kernel of a ReLU network with one hidden layer.

    For :math:`f(x) = \sum_h v_h\,\mathrm{relu}(\langle w_h, x\rangle)`, the inner products of the gradients
    with respect to all weights, first layer and readout (Jacot et al., NeurIPS 2018):

    :math:`\sum_h a_h(x) a_h(x') + \langle x, x'\rangle \sum_h v_h^2 m_h(x) m_h(x')`

    with activations a and their masks m (zero where the input to a unit is not positive, as in PyTorch). The
    H (d + 1) features are never formed: beyond the result, memory is three matrices of the size (m, H) and a
    block of rows of ``x``, which should therefore be the larger set.

    Args:
        first: Weights of the first layer, (H, d).
        readout: Weights of the readout, (H,).
        x: Inputs, (n, d).
        x2: The other inputs, (m, d); by default ``x``.
        dtype: Of the products and the result; float32 takes half the time and errs by about 1e-7 of the
            largest entry.

    Returns:
        The kernel, (n, m).

    Raises:
        ConfigurationError: If shapes do not fit.
    """
    x2 = x if x2 is None else x2
    if first.ndim != 2 or readout.shape != first.shape[:1]:
        raise ConfigurationError(
            f"readout: shape {tuple(readout.shape)} for first {tuple(first.shape)}; give (H,) for (H, d)"
        )
    _check_inputs(first.shape[1], x, x2)
    first, readout = first.to(dtype), readout.to(dtype)
    weight = readout.square()
    right = x2.to(dtype)
    right_hidden = relu_features(first, right)
    right_mask = (right_hidden > 0).to(dtype) * weight

    def block(left: Tensor) -> Tensor:
        hidden = relu_features(first, left)
        found = (hidden > 0).to(dtype) @ right_mask.T
        found *= left @ right.T
        return found.addmm_(hidden, right_hidden.T)

    return _in_blocks(block, x.to(dtype), len(x2), max(len(first), len(x2)))


def diagonal_features(weights: Pathways, x: Tensor) -> Tensor:
    """Compute the gradient of the diagonal network with respect to its readout.

    Args:
        weights: As in `diagonal_tangent_kernel`; the ``v`` are not read.
        x: Inputs, (n, D).

    Returns:
        Features ``(w_plus x, -w_minus x)``, (n, 2 D), in the dtype of the arguments.
    """
    return torch.cat((x * weights["w_plus"], x * -weights["w_minus"]), 1)


@torch.no_grad()
def diagonal_tangent_kernel(
    weights: Pathways, x: Tensor, x2: Tensor | None = None, *, dtype: torch.dtype = torch.float64
) -> Tensor:
    r"""Compute the tangent kernel of a diagonal linear network with one output.

    For :math:`f(x) = \sum_d (w^+_d v^+_d - w^-_d v^-_d) x_d`, the inner products of the gradients with
    respect to all weights: :math:`\sum_d (w^{+2}_d + v^{+2}_d + w^{-2}_d + v^{-2}_d) x_d x'_d`.

    Args:
        weights: ``w_plus``, ``v_plus``, ``w_minus``, ``v_minus``, each (D,).
        x: Inputs, (n, D).
        x2: The other inputs, (m, D); by default ``x``.
        dtype: Of the products and the result.

    Returns:
        The kernel, (n, m).

    Raises:
        ConfigurationError: If a pathway is missing or shapes do not fit.
    """
    x2 = x if x2 is None else x2
    missing = [name for name in PATHWAYS if name not in weights]
    if missing:
        raise ConfigurationError(f"weights: {', '.join(missing)} missing; give {', '.join(PATHWAYS)}")
    shapes = {tuple(weights[name].shape) for name in PATHWAYS}
    if shapes != {(x.shape[-1],)}:
        raise ConfigurationError(
            f"weights: shapes {sorted(shapes)} for x {tuple(x.shape)}; give ({x.shape[-1]},)"
        )
    _check_inputs(x.shape[-1], x, x2)
    scale = torch.stack([weights[name].to(dtype).square() for name in PATHWAYS]).sum(0)
    right = x2.to(dtype) * scale
    return _in_blocks(lambda left: left.to(dtype) @ right.T, x, len(x2), max(x.shape[1], len(x2)), dtype)


def _check_inputs(size: int, x: Tensor, x2: Tensor) -> None:
    """Raise `ConfigurationError` unless both are (n, size)."""
    for name, value in (("x", x), ("x2", x2)):
        if value.ndim != 2 or value.shape[1] != size:
            raise ConfigurationError(f"{name}: shape {tuple(value.shape)}; give inputs (n, {size})")


def _in_blocks(
    block: Callable[[Tensor], Tensor], x: Tensor, columns: int, width: int, dtype: torch.dtype | None = None
) -> Tensor:
    """Fill an (n, columns) matrix from blocks of rows of ``x`` so that no temporary exceeds the limit."""
    out = x.new_empty((len(x), columns), dtype=dtype or x.dtype)
    rows = max(1, BLOCK_ELEMENTS // max(width, 1))
    for start in range(0, len(x), rows):
        out[start : start + rows] = block(x[start : start + rows])
    return out
