"""Norms that theory says training keeps small, and where a linear network's weight lies."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.functional._scale import scaled_norm


def l1_norm(beta: Tensor) -> Tensor:
    r"""Compute :math:`\sum_{o,d} |\beta_{od}|`, which single-task training from small weights keeps small.

    Args:
        beta: Coefficients (..., O, D) of O outputs on D inputs, or (D,); floating point.

    Returns:
        A tensor (...) of the same dtype.

    Raises:
        ConfigurationError: If ``beta`` is not of floating point or has no dimension.

    Example:
        >>> from torch import tensor
        >>> from lit_aux.functional import l1_norm
        >>> l1_norm(tensor([3.0, -4.0]))
        tensor(7.)
    """
    return _sum(_outputs("beta", beta).abs(), (-2, -1))


def l2_norm(beta: Tensor) -> Tensor:
    r"""Compute :math:`(\sum_{o,d} \beta_{od}^2)^{1/2}`, which training from large weights keeps small.

    Arguments, answer and errors are those of `l1_norm`.

    Example:
        >>> from torch import tensor
        >>> from lit_aux.functional import l2_norm
        >>> l2_norm(tensor([3.0, -4.0]))
        tensor(5.)
    """
    return scaled_norm(_outputs("beta", beta), (-2, -1))


def l12_norm(beta: Tensor) -> Tensor:
    r"""Compute :math:`\sum_d (\sum_o \beta_{od}^2)^{1/2}`, which multi-task training keeps small.

    It lies between `l2_norm` and `l1_norm`; for one output it is the l1 norm. Inputs that several outputs
    share cost less than inputs of their own. Half the least squared norm of the weights of a diagonal network
    with these coefficients (Lippl & Lindsey; Dai, Karzand & Srebro, 2021).

    Arguments, answer and errors are those of `l1_norm`.

    Example:
        >>> from torch import tensor
        >>> from lit_aux.functional import l12_norm
        >>> l12_norm(tensor([[3.0, 0.0], [4.0, 1.0]]))  # two tasks, two features
        tensor(6.)
    """
    return _sum(scaled_norm(_outputs("beta", beta), -2), -1)


def f1_norm(first: Tensor, readout: Tensor) -> Tensor:
    r"""Compute :math:`F_1 = \sum_{o,h} |v_{oh}| \, \|w_h\|` of ReLU networks with one hidden layer.

    What single-task training from small weights keeps small: a unit's size as a function, whatever the split
    of it between the layers.

    Args:
        first: Input weights (..., H, d), floating point.
        readout: Output weights (..., O, H) of the same leading axes.

    Returns:
        A tensor (...) of the same dtype.

    Raises:
        ConfigurationError: If shapes do not fit together or a tensor is not of floating point.

    Example:
        >>> from torch import tensor
        >>> from lit_aux.functional import f1_norm
        >>> f1_norm(tensor([[3.0, 4.0]]), tensor([[2.0]]))  # one unit of norm 5, its readout 2
        tensor(10.)
    """
    return l1_norm(unit_products(first, readout))


def f12_norm(first: Tensor, readout: Tensor) -> Tensor:
    r"""Compute :math:`F_{1,2} = \sum_h \|w_h\| (\sum_o v_{oh}^2)^{1/2}` of one-hidden-layer ReLU networks.

    What multi-task training keeps small; for one output it is `f1_norm`. Arguments, answer and errors are
    those of `f1_norm`.

    Example:
        >>> from torch import tensor
        >>> from lit_aux.functional import f12_norm
        >>> f12_norm(tensor([[3.0, 4.0]]), tensor([[2.0]]))
        tensor(10.)
    """
    return l12_norm(unit_products(first, readout))


def unit_products(first: Tensor, readout: Tensor) -> Tensor:
    r"""Compute :math:`v_{oh} \|w_h\|` (..., O, H): what each ReLU unit contributes to each output.

    Arguments and errors are those of `f1_norm`.

    Example:
        >>> from torch import tensor
        >>> from lit_aux.functional import unit_products
        >>> unit_products(tensor([[3.0, 4.0]]), tensor([[2.0]]))
        tensor([[10.]])
    """
    first, readout = _outputs("first", first), _outputs("readout", readout)
    _check_units(first, readout)
    return readout * scaled_norm(first, -1).unsqueeze(-2)


def unit_contributions(first: Tensor, readout: Tensor) -> Tensor:
    r"""Compute :math:`\|w_h\| (\sum_o v_{oh}^2)^{1/2}` (..., H): what a unit contributes to all outputs.

    Their sum is `f12_norm`. Arguments and errors are those of `f1_norm`.

    Example:
        >>> from torch import tensor
        >>> from lit_aux.functional import unit_contributions
        >>> unit_contributions(tensor([[3.0, 4.0]]), tensor([[2.0]]))
        tensor([10.])
    """
    first, readout = _outputs("first", first), _outputs("readout", readout)
    _check_units(first, readout)
    return scaled_norm(readout, -2) * scaled_norm(first, -1)


def top_share(beta: Tensor, k: int) -> Tensor:
    r"""Compute the fraction of :math:`\|\beta\|^2` that lies in the k largest entries.

    1 means a vector with at most k entries other than zero, k / D a perfectly even one.

    Args:
        beta: Coefficients (..., D), floating point; each vector by itself.
        k: From 1 to D.

    Returns:
        A tensor (...) of the same dtype, in [k / D, 1]; NaN for a vector of zeros.

    Raises:
        ConfigurationError: If ``k`` is out of range or ``beta`` not of floating point.

    Example:
        >>> from torch import tensor
        >>> from lit_aux.functional import top_share
        >>> top_share(tensor([3.0, -4.0, 1.0]), k=2)
        tensor(0.9615)
    """
    squares = _scaled_squares(beta)
    if not 1 <= k <= squares.shape[-1]:
        raise ConfigurationError(f"k: {k} of {squares.shape[-1]} entries; give 1 to {squares.shape[-1]}")
    return (squares.topk(k, dim=-1).values.sum(-1) / squares.sum(-1)).to(beta.dtype)


def entry_share(beta: Tensor, entries: Tensor | Sequence[int]) -> Tensor:
    r"""Compute the fraction of :math:`\|\beta\|^2` that lies in given entries: the auxiliary task's, say.

    Args:
        beta: Coefficients (..., D), floating point; each vector by itself.
        entries: Their indices, each once, or a boolean mask (D,) or (..., D) that is broadcast.

    Returns:
        A tensor (...) of the same dtype, in [0, 1]; NaN for a vector of zeros, 0 for no entries.

    Raises:
        ConfigurationError: For an index out of range or given twice, a mask of another shape, or if ``beta``
            is not of floating point.

    Example:
        >>> from torch import tensor
        >>> from lit_aux.functional import entry_share
        >>> entry_share(tensor([3.0, -4.0, 1.0]), [0, 2])
        tensor(0.3846)
    """
    squares = _scaled_squares(beta)
    chosen = torch.as_tensor(entries, device=squares.device)
    size = squares.shape[-1]
    if chosen.dtype == torch.bool:
        if chosen.ndim == 0 or chosen.shape[-1] != size or chosen.ndim > squares.ndim:
            raise ConfigurationError(f"entries: a mask of shape {tuple(chosen.shape)}; give one of {size}")
        return ((squares * chosen).sum(-1) / squares.sum(-1)).to(beta.dtype)
    found = chosen.flatten().tolist()
    if any(not (0 <= i < size and float(i).is_integer()) for i in found) or len(set(found)) < len(found):
        raise ConfigurationError(f"entries: {found[:5]} ...; give different indices from 0 to {size - 1}")
    return (squares[..., chosen.flatten().long()].sum(-1) / squares.sum(-1)).to(beta.dtype)


def _outputs(option: str, tensor: Tensor) -> Tensor:
    """Check a tensor and make it (..., outputs, entries)."""
    if not tensor.is_floating_point() or tensor.ndim == 0:
        raise ConfigurationError(
            f"{option}: {tensor.dtype} of shape {tuple(tensor.shape)}; give floating point with one or more "
            "dimensions"
        )
    return tensor if tensor.ndim > 1 else tensor[None]


def _check_units(first: Tensor, readout: Tensor) -> None:
    """Raise if output weights are not those of the units of the input weights."""
    if first.shape[-2] != readout.shape[-1] or first.shape[:-2] != readout.shape[:-2]:
        raise ConfigurationError(
            f"readout: shape {tuple(readout.shape)} does not fit first {tuple(first.shape)}; "
            "give (..., O, H) for (..., H, d)"
        )


def _sum(values: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Return sums in the values' dtype, half precision added up in float32."""
    wide = values.float() if values.dtype.itemsize < 4 else values
    return wide.sum(dim).to(values.dtype)


def _scaled_squares(beta: Tensor) -> Tensor:
    """Return squares of (..., D) over the largest one of each vector, so that none of a small vector is lost.

    A vector of zeros stays one, and every share of it is 0 / 0. Half precision becomes float32.
    """
    if not beta.is_floating_point() or beta.ndim == 0 or beta.shape[-1] == 0:
        raise ConfigurationError(
            f"beta: {beta.dtype} of shape {tuple(beta.shape)}; give floating-point coefficients (..., D)"
        )
    beta = beta.float() if beta.dtype.itemsize < 4 else beta
    largest = beta.abs().amax(-1, keepdim=True)
    return (beta / torch.where(largest > 0, largest, torch.ones_like(largest))).square()
