"""What training keeps small, feature by feature: the penalties of finetuning and of multi-task training."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.functional._elementwise import Values, correlations, elementwise, not_negative
from lit_aux.functional._relu_unit import cheapest_move, distance
from lit_aux.functional._scale import safe_scale


def q_penalty(beta: Values, beta_aux: Values, gamma: Values = 0.0) -> Tensor:
    r"""Compute the penalty of finetuning a diagonal linear network, :math:`\alpha\, q(2\beta/\alpha)`.

    Here :math:`\alpha = |\beta_{aux}| + \gamma^2` and
    :math:`q(z) = 2 - \sqrt{4 + z^2} + z\,\mathrm{asinh}(z/2)`. Among all coefficients that fit the main task,
    gradient flow from the pretrained network ends at those with the least sum of it (Lippl & Lindsey, arXiv
    2310.02396, after Woodworth et al., 2020, and Azulay et al., 2021). Where :math:`|\beta| \ll \alpha` it is
    :math:`\beta^2/\alpha`; where :math:`|\beta| \gg \alpha`, :math:`2|\beta|(\log(2|\beta|/\alpha) - 1)`.
    A factor s on the first layer makes :math:`\alpha = s^2|\beta_{aux}| + \gamma^2`: give
    ``s**2 * beta_aux``.

    Computed in float64 without cancellation; derivatives of any order are autograd's.

    Args:
        beta: Coefficients of the main task; tensor or number, any shape.
        beta_aux: Those of the auxiliary task, of either sign; broadcast against ``beta``.
        gamma: Size of the readout after its re-initialisation, at least 0; broadcast too.

    Returns:
        A tensor of the common shape, in the dtype of the tensors given (float64 for plain numbers), relative
        error below 1e-14. For alpha = 0 the limit: infinite, or 0 where ``beta`` is; derivatives are 0 there.

    Raises:
        ConfigurationError: For a negative ``gamma``, values that are not finite, or shapes that do not fit.

    Example:
        >>> from lit_aux.functional import q_penalty
        >>> q_penalty(1.0, beta_aux=1.0) < q_penalty(1.0, beta_aux=0.01)  # cheap where pretraining used it
        tensor(True)
    """
    (beta, beta_aux, gamma), dtype = elementwise(beta=beta, beta_aux=beta_aux, gamma=gamma)
    # alpha q = 2 beta (a - tanh(a/2)), a = asinh(beta / alpha): the same without a difference of large terms
    found = q_argument(beta, beta_aux, gamma)
    a = found.a
    value = torch.where(a.detach().abs() < 1e-100, found.ridge, 2 * beta * (a - torch.tanh(a / 2)))
    limit = torch.where(beta == 0, 0.0, torch.inf).to(beta)
    return torch.where(found.known, value, limit).to(dtype)


class QArgument(NamedTuple):
    """What the penalty of a diagonal network depends on; float64 tensors of one shape."""

    a: Tensor
    """asinh(beta / alpha)."""
    ridge: Tensor
    """beta^2 / alpha, the penalty's limit for small beta; 0 where beta is not small."""
    share: Tensor
    """|beta_aux| / alpha."""
    known: Tensor
    """Where alpha is above 0."""


def q_argument(beta: Tensor, beta_aux: Tensor, gamma: Tensor) -> QArgument:
    """Return it for float64 tensors; alpha itself, and even the ratio, may be beyond what float64 holds.

    Raises:
        ConfigurationError: For a negative ``gamma``.
    """
    not_negative("gamma", gamma)
    size = torch.maximum(beta_aux.detach().abs().sqrt(), gamma.detach())
    known = size > 0
    size = torch.where(known, size, 1.0)  # alpha / size^2 is between 1 and 2
    aux = beta_aux.abs() / size / size
    alpha = torch.where(known, aux + (gamma / size).square(), 1.0)
    ratio = beta / size / size / alpha
    huge = ratio.detach().abs() > 1e150
    some = torch.where(huge, beta.abs(), 1.0)
    logarithm = some.log() - 2 * size.log() - alpha.log() + math.log(2)
    a = torch.where(huge, beta.sign() * logarithm, torch.asinh(torch.where(huge, 0.0, ratio)))
    ridge = torch.where(ratio.detach().abs() < 1e-100, beta / size, 0.0).square() / alpha
    return QArgument(a, ridge, torch.where(known, aux / alpha, 0.0), known)


def safe_hypot(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return a factor d, and hypot(a d, b d), which does not overflow: d is 1 for all but the largest."""
    down = torch.where(torch.maximum(a.detach().abs(), b.detach().abs()) > 1e300, 0.25, 1.0)
    return down, torch.hypot(a * down, b * down)


def group_penalty(beta: Tensor) -> Tensor:
    r"""Compute the penalty of multi-task training, :math:`2 (\sum_o \beta_{o}^2)^{1/2}`, of each feature.

    The least squared norm of the weights of a diagonal network with these coefficients, feature by feature;
    for ReLU units give :math:`v_{oh}\|w_h\|` (Dai, Karzand & Srebro, 2021; Lippl & Lindsey). Its sum is twice
    `l12_norm`.

    Args:
        beta: Coefficients (tasks, ...), floating point.

    Returns:
        A tensor (...) of the same dtype; nothing overflows on the way. Its derivative at 0 is 0, one of the
        subgradients.

    Raises:
        ConfigurationError: If there is no dimension of tasks, or a value is not finite.

    Example:
        >>> from torch import tensor
        >>> from lit_aux.functional import group_penalty
        >>> group_penalty(tensor([[3.0, 0.0], [4.0, 1.0]]))  # two tasks, two features
        tensor([10.,  2.])
    """
    (values,), dtype = elementwise(beta=beta)
    if values.ndim == 0 or len(values) == 0:
        raise ConfigurationError(f"beta: shape {tuple(values.shape)}; give coefficients (tasks, ...)")
    largest = values.detach().abs().amax(0)
    some = largest > 0
    scale = torch.where(some, largest, 1.0)
    squares = (values / scale).square().sum(0)
    return torch.where(some, 2 * scale * torch.where(some, squares, 1.0).sqrt(), 0.0).to(dtype)


def mtl_marginal_penalty(beta: Values, beta_aux: Values) -> Tensor:
    r"""Compute what a main coefficient adds, :math:`\sqrt{\beta^2 + \beta_{aux}^2} - |\beta_{aux}|`.

    Half of what `group_penalty` grows by when a feature of the auxiliary task is used for the main one too
    (Lippl & Lindsey). About :math:`\beta^2 / 2|\beta_{aux}|` for small :math:`\beta`, :math:`|\beta|` for
    large.

    Args:
        beta: Coefficients of the main task; tensor or number, any shape.
        beta_aux: Those of the auxiliary task, of either sign; broadcast against ``beta``.

    Returns:
        A tensor of the common shape, in the dtype of the tensors given (float64 for plain numbers), relative
        error below 1e-14. Where both are 0 its derivatives are 0.

    Raises:
        ConfigurationError: For values that are not finite, or shapes that do not fit.

    Example:
        >>> from lit_aux.functional import mtl_marginal_penalty
        >>> mtl_marginal_penalty(1.0, beta_aux=0.0).item()
        1.0
        >>> round(mtl_marginal_penalty(1.0, beta_aux=1.0).item(), 3)  # cheaper where the other task uses it
        0.414
    """
    (beta, beta_aux), dtype = elementwise(beta=beta, beta_aux=beta_aux)
    size = beta_aux.abs()
    none = (beta == 0) & (size == 0)
    first = torch.where(none, 1.0, beta)
    down, length = safe_hypot(first, size)
    ratio = first * down / (length + size * down)
    return torch.where(none, 0.0, beta * ratio).to(dtype)


def relu_finetuning_penalty(
    beta: Values, beta_aux: Values, correlation: Values = 1.0, readout: Values = 0.0
) -> Tensor:
    r"""Compute how far finetuning must move the weights of a ReLU unit, as a squared distance.

    The unit has input norm :math:`m_0 = \sqrt{\beta_{aux}}` after pretraining and readout :math:`v_0` after
    its re-initialisation. It takes strength :math:`\beta` in a direction of correlation :math:`\rho` with its
    former one, at the least cost (Lippl & Lindsey):

    .. math:: R = \min_{m > 0} (\beta/m - v_0)^2 + m^2 + m_0^2 - 2 m m_0 \rho

    Of the up to three stationary points the least one is found, see `relu_input_norm`. Limits:
    :math:`2|\beta|` for :math:`m_0 \to 0`; for large :math:`m_0` and :math:`\rho = 1`,
    :math:`\beta^2/\beta_{aux}`.

    At ``beta`` = 0 the readout goes to 0: :math:`R = v_0^2 + \beta_{aux}(1 - \max(0, \rho)^2)`. With
    :math:`v_0 \neq 0`, R may jump there: a small :math:`\beta` of the sign of :math:`v_0` may be had by a
    small m, at the cost :math:`\beta_{aux}`. At ``beta_aux`` = 0 its derivative by ``beta_aux`` is infinite.

    Args:
        beta: Strengths :math:`v \|w\|` for the main task; tensor or number, any shape.
        beta_aux: Squared input norms after pretraining, at least 0; broadcast.
        correlation: :math:`\rho`, from -1 to 1 (1e-6 beyond is taken for rounding); broadcast.
        readout: :math:`v_0`, of either sign; broadcast.

    Returns:
        A tensor of the common shape, in the dtype of the tensors given (float64 for plain numbers), relative
        error below 1e-14 (1e-13 where R is a small difference of its arguments: :math:`v_0 m_0\rho` near
        :math:`\beta`). First and second derivatives by
        autograd are right wherever R has them.

    Raises:
        ConfigurationError: For a negative ``beta_aux``, a correlation beyond 1, values that are not finite,
            or shapes that do not fit.

    Example:
        >>> from lit_aux.functional import relu_finetuning_penalty
        >>> same = relu_finetuning_penalty(1.0, beta_aux=1.0, correlation=1.0)
        >>> other = relu_finetuning_penalty(1.0, beta_aux=1.0, correlation=0.0)
        >>> same < other  # a pretrained direction is cheaper than one at a right angle
        tensor(True)
    """
    inputs, unit, dtype = relu_arguments(beta, beta_aux, correlation, readout)
    return (distance(*inputs) * unit * unit).to(dtype)


def relu_input_norm(
    beta: Values, beta_aux: Values, correlation: Values = 1.0, readout: Values = 0.0
) -> Tensor:
    r"""Compute the input norm m at which `relu_finetuning_penalty` has its minimum.

    The root of :math:`m^4 - m_0\rho m^3 + v_0\beta m - \beta^2 = 0` with the least R. In units of
    :math:`\sqrt{|\beta|}`, norm and readout are the point of a hyperbola that is nearest to their values
    before, and it lies on their side of the diagonal: the largest root where
    :math:`m_0\rho \geq v_0\,\mathrm{sign}\beta`, else the smallest. For ``beta`` = 0 it is
    :math:`\max(0, m_0\rho)`.

    Arguments and errors are those of `relu_finetuning_penalty`.

    Returns:
        A tensor of the common shape, at least 0, in the dtype of the tensors given, relative error below
        1e-14 but where roots meet; first derivatives by autograd are right.

    Example:
        >>> from lit_aux.functional import relu_input_norm
        >>> round(relu_input_norm(1.0, beta_aux=0.0).item(), 3)
        1.0
    """
    inputs, unit, dtype = relu_arguments(beta, beta_aux, correlation, readout)
    return (cheapest_move(*inputs).norm * unit).to(dtype)


def relu_arguments(
    beta: Values, beta_aux: Values, correlation: Values, readout: Values
) -> tuple[list[Tensor], Tensor, torch.dtype]:
    """Check what describes a ReLU unit.

    Returns:
        float64 tensors of one shape, in units of a length; that length, 1 unless sizes are extreme; and the
        dtype of the answer. Norms are to be multiplied by the length, strengths and distances by its square.
    """
    (beta, beta_aux, correlation, readout), dtype = elementwise(
        beta=beta, beta_aux=beta_aux, correlation=correlation, readout=readout
    )
    not_negative("beta_aux", beta_aux)
    sizes = (beta.detach().abs().sqrt(), beta_aux.detach().sqrt(), readout.detach().abs())
    unit = safe_scale(torch.stack(sizes).amax(0))
    unit = torch.exp2(torch.log2(unit).round())  # a power of two: no digit is lost where terms cancel
    inputs = [beta / unit / unit, beta_aux / unit / unit, correlations("correlation", correlation)]
    return [*inputs, readout / unit], unit, dtype
