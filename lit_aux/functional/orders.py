"""How a penalty reacts to a coefficient and to the pretrained one, and the regimes that follow from it."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError, check_known
from lit_aux.functional._elementwise import Values, elementwise
from lit_aux.functional._relu_unit import cheapest_move
from lit_aux.functional.penalties import q_argument, relu_arguments, safe_hypot

REGIMES = ("lazy", "nested", "rich")
"""From ridge-like to indifferent to pretraining; the answers of `regime` are indices into it."""
NESTED = (-0.5, -0.1)
"""The feature dependence of nested feature selection: pretrained features are cheaper, yet few are chosen."""


def l_order(penalty: str, beta: Values, beta_aux: Values, **kwargs: Values) -> Tensor:
    r"""Compute the l-order of a penalty, :math:`\partial \log R / \partial \log |\beta|`.

    1 is sparse as l1 is, 2 ridge-like (Lippl & Lindsey, arXiv 2310.02396). Closed forms:

    * ``"q"``: :math:`a / (a - \tanh(a/2))`, :math:`a = \mathrm{asinh}(|\beta|/\alpha)`,
      :math:`\alpha = |\beta_{aux}| + \gamma^2` (that is :math:`z\,\mathrm{asinh}(z/2)/q(z)`, without
      cancellation);
    * ``"mtl"``: :math:`1 + |\beta_{aux}|/\sqrt{\beta^2 + \beta_{aux}^2}`;
    * ``"relu"``: :math:`2\beta(\beta/m - v_0)/(m R)` at the best m.

    Args:
        penalty: ``"q"`` for `q_penalty`, ``"mtl"`` for `mtl_marginal_penalty`, ``"relu"`` for
            `relu_finetuning_penalty`.
        beta: Coefficients of the main task; tensor or number, any shape.
        beta_aux: Those of the auxiliary task; broadcast.
        kwargs: ``gamma`` of ``"q"``; ``correlation`` and ``readout`` of ``"relu"``.

    Returns:
        A tensor of the common shape, in the dtype of the tensors given (float64 for plain numbers). Where
        ``beta`` = 0 or ``beta_aux`` = 0 the limit; NaN where both are 0 (and gamma too) or where R = 0 has a
        limit for no other reason.

    Raises:
        ConfigurationError: For an unknown penalty, an option that it does not have, or values that it
            refuses.

    Example:
        >>> from lit_aux.functional import l_order
        >>> round(l_order("q", 1e6, beta_aux=1e-6).item(), 1)  # as an l1 norm
        1.0
        >>> round(l_order("q", 1e-3, beta_aux=1.0).item(), 1)  # as an l2 norm
        2.0
    """
    return _orders(penalty, beta, beta_aux, kwargs)[0]


def feature_dependence(penalty: str, beta: Values, beta_aux: Values, **kwargs: Values) -> Tensor:
    r"""Compute the feature dependence of a penalty, :math:`\partial \log R / \partial \log |\beta_{aux}|`.

    0: pretraining is ignored; -1: the penalty is inversely proportional to the pretrained coefficient; above
    0: pretrained features are avoided. With ``gamma`` = ``readout`` = 0 it is 1 - l-order. Closed forms:

    * ``"q"``: :math:`(|\beta_{aux}|/\alpha)(1 - l)`;
    * ``"mtl"``: :math:`-|\beta_{aux}|/\sqrt{\beta^2 + \beta_{aux}^2}`;
    * ``"relu"``: :math:`m_0(m_0 - m\rho)/R` at the best m.

    Arguments, answer and errors are those of `l_order`.

    Example:
        >>> from lit_aux.functional import feature_dependence
        >>> round(feature_dependence("q", 1e-3, beta_aux=1.0).item(), 1)  # lazy
        -1.0
    """
    return _orders(penalty, beta, beta_aux, kwargs)[1]


def regime(dependence: Tensor) -> Tensor:
    """Name the regime of each feature dependence.

    Args:
        dependence: Of `feature_dependence`; any shape.

    Returns:
        int64 indices into `REGIMES`, of the same shape: 0 (lazy) below -0.5, where the l-order is above 1.5
        and the penalty ridge-like; 1 (nested) from -0.5 to -0.1; 2 (rich) above -0.1, where pretraining is
        ignored or, above 0, avoided.

    Raises:
        ConfigurationError: For NaN: a feature without weight in either task has no regime.

    Example:
        >>> from torch import tensor
        >>> from lit_aux.functional import REGIMES, regime
        >>> [REGIMES[i] for i in regime(tensor([0.0, -0.5, -1.0]))]
        ['rich', 'nested', 'lazy']
    """
    values = torch.as_tensor(dependence)
    if bool(values.isnan().any()):
        raise ConfigurationError(
            "dependence: NaN, which a feature without weight in either task has; leave such features out"
        )
    low, high = NESTED
    return (values >= low).to(torch.int64) + (values > high).to(torch.int64)


def nested_ratios(penalty: str, **kwargs: float) -> tuple[float, float]:
    r"""Find the ratios :math:`\beta/\beta_{aux}` for which a penalty is nested, up to the rich regime.

    Without ``gamma`` and ``readout`` the orders depend on the ratio alone. The upper end is the largest ratio
    with feature dependence -0.1; the lower end the next one below it at which the dependence leaves `NESTED`:
    to the lazy regime for ``"q"``, ``"mtl"`` and correlations above .98, back to the rich one for smaller
    correlations, where units whose pretrained strength is far above the new one are avoided. (Correlations
    from .98 to 1 have a second, short stretch at smaller ratios still, below the lazy one.)

    Args:
        penalty: As in `l_order`.
        kwargs: ``correlation`` of ``"relu"``.

    Returns:
        The lower and the upper end.

    Raises:
        ConfigurationError: If the dependence is nowhere nested (correlations below .722), for an unknown
            penalty, or for an option other than ``correlation``.

    Example:
        >>> from lit_aux.functional import nested_ratios
        >>> [round(ratio, 2) for ratio in nested_ratios("q")]  # of |beta| to |beta_aux|
        [6.53, 29926.07]
    """
    from scipy.optimize import brentq  # type: ignore[import-untyped]

    for name in ("gamma", "readout"):
        if name in kwargs and kwargs[name] != 0:
            raise ConfigurationError(f"{name}: {kwargs[name]} gives no ratio of its own; only 0 does")

    def dependence(ratio: Tensor) -> Tensor:
        return feature_dependence(penalty, ratio.exp(), 1.0, **kwargs)

    def crossing(level: float, left: Tensor, right: Tensor) -> float:
        def difference(ratio: float) -> float:
            return dependence(torch.tensor(ratio, dtype=torch.float64)).item() - level

        return math.exp(brentq(difference, left.item(), right.item(), xtol=1e-14))

    low, high = NESTED
    ratios = torch.linspace(-30.0, 30.0, 6001, dtype=torch.float64)
    values = dependence(ratios)
    below = (values < high).nonzero().flatten()
    if not len(below):
        raise ConfigurationError(
            f"penalty: {penalty!r} with {kwargs} is nowhere nested: its dependence never falls to {high}"
        )
    last = int(below[-1])
    outside = ((values < low) | (values > high))[:last].nonzero().flatten()
    first = int(outside[-1])
    level = low if values[first] < low else high
    upper = crossing(high, ratios[last], ratios[last + 1])
    return crossing(level, ratios[first], ratios[first + 1]), upper


Pair = tuple[Tensor, Tensor]


def _orders(penalty: str, beta: Values, beta_aux: Values, kwargs: dict[str, Any]) -> Pair:
    """Compute both orders of a penalty."""
    check_known("penalty", penalty, _PENALTIES)
    formula, options = _PENALTIES[penalty]
    for name in kwargs:
        if name not in options:
            known = " and ".join(options) or "none"
            raise ConfigurationError(f"{name}: {penalty!r} has no such option; it has {known}")
    return formula(beta, beta_aux, **kwargs)


def _q_orders(beta: Values, beta_aux: Values, gamma: Values = 0.0) -> Pair:
    (beta, beta_aux, gamma), dtype = elementwise(beta=beta, beta_aux=beta_aux, gamma=gamma)
    size = beta.abs()
    a, _, share, known = q_argument(size, beta_aux, gamma)
    half = torch.tanh(a / 2)
    some = a > 0
    excess = torch.where(some, half / torch.where(some, a - half, 1.0), 1.0)  # l - 1
    nothing = torch.where(size > 0, 0.0, torch.nan)  # alpha = 0: the limit, for a coefficient
    order = 1 + torch.where(known, excess, nothing)
    return order.to(dtype), torch.where(known, -excess * share, nothing).to(dtype)


def _mtl_orders(beta: Values, beta_aux: Values) -> Pair:
    (beta, beta_aux), dtype = elementwise(beta=beta, beta_aux=beta_aux)
    down, length = safe_hypot(beta, beta_aux)
    share = beta_aux.abs() * down / length
    return (1 + share).to(dtype), (-share).to(dtype)


def _relu_orders(beta: Values, beta_aux: Values, correlation: Values = 1.0, readout: Values = 0.0) -> Pair:
    inputs, _, dtype = relu_arguments(beta, beta_aux, correlation, readout)
    beta, beta_aux, correlation, readout = inputs
    move = cheapest_move(beta, beta_aux, correlation, readout)
    lost = beta_aux * ((1 - correlation) * (1 + correlation))
    cost = move.norm_change.square() + move.readout_change.square() + lost
    known = cost > 0
    cost = torch.where(known, cost, 1.0)
    order = 2 * move.readout * move.readout_change / cost
    dependence = (lost - move.norm_before * correlation * move.norm_change) / cost
    # R = 0: beta^2 / beta_aux on the way to beta = 0, if the unit keeps its direction; else no limit
    ridge = (beta == 0) & (beta_aux > 0) & (readout == 0)
    nothing = torch.where(ridge, 1.0, torch.nan)
    return (
        torch.where(known, order, 2 * nothing).to(dtype),
        torch.where(known, dependence, -nothing).to(dtype),
    )


_PENALTIES: dict[str, tuple[Callable[..., Pair], tuple[str, ...]]] = {
    "q": (_q_orders, ("gamma",)),
    "mtl": (_mtl_orders, ()),
    "relu": (_relu_orders, ("correlation", "readout")),
}
