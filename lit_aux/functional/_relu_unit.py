"""Where finetuning moves one ReLU unit: the new input norm, and how far the weights have gone."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_aux.functional._hyperbola import nearest_point


class UnitMove(NamedTuple):
    """The cheapest move of units, float64 tensors of one shape with right first derivatives."""

    norm: Tensor
    """Input norm m after the move."""
    norm_before: Tensor
    """Input norm m0 before it."""
    norm_change: Tensor
    """m - m0 rho: how far the input weights went along their new direction."""
    readout: Tensor
    """beta / m; 0 where both are."""
    readout_change: Tensor
    """beta / m - v0."""


def cheapest_move(beta: Tensor, beta_aux: Tensor, correlation: Tensor, readout: Tensor) -> UnitMove:
    """Minimise the squared distance of one unit's weights from where they were.

    Values come from `nearest_point`; derivatives from the equation that it solves, by implicit
    differentiation. Where the new norm is 0 they are 0.
    """
    norm_before = _root(beta_aux)
    along = norm_before * correlation
    norm, norm_change, readout_change = _values(beta.detach(), along.detach(), readout.detach())
    moves = norm > 0
    m = torch.where(moves, norm, 1.0)
    # of m^4 - m0 rho m^3 + v0 beta m - beta^2 = 0 over m, by Newton's rule; beta / m keeps powers in range
    ratio = beta / m
    balance = (m - along) * m.square() + (readout - ratio) * ratio * m
    slope = (4 * m.square() - 3 * along * m + readout * ratio).detach()
    implicit = -balance / torch.where(slope == 0, torch.inf, slope)
    m = _with_gradient_of(m, implicit)
    after = torch.where(moves, beta / m, 0.0)
    return UnitMove(
        norm=torch.where(moves, m, 0.0),
        norm_before=norm_before,
        norm_change=_with_gradient_of(norm_change, torch.where(moves, m, 0.0) - along),
        readout=after,
        readout_change=_with_gradient_of(readout_change, after - readout),
    )


def distance(beta: Tensor, beta_aux: Tensor, correlation: Tensor, readout: Tensor) -> Tensor:
    """Return the squared distance of `cheapest_move`, with right first and second derivatives."""
    move = cheapest_move(beta, beta_aux, correlation, readout)
    lost = (1 - correlation) * (1 + correlation)
    value = (move.norm_change.square() + move.readout_change.square() + beta_aux * lost).detach()
    norm, before = (torch.where(m > 0, m, 1.0) for m in (move.norm, move.norm_before))
    turned = correlation * move.norm_change
    # at beta_aux = 0 the root makes the derivative infinite unless nothing is gained from m0
    gained = torch.where(
        (move.norm_before > 0) | (turned == 0), turned / before, turned.sign().detach() * torch.inf
    )
    by_beta = torch.where(move.norm > 0, 2 * move.readout_change / norm, 0.0)
    slopes = (by_beta, lost - gained, -2 * move.norm * move.norm_before, -2 * move.readout_change)
    result: Tensor = _Envelope.apply(value, *slopes, beta, beta_aux, correlation, readout)
    return result


class _Envelope(torch.autograd.Function):
    """A minimum over m: by the envelope theorem its first derivatives are those at the minimising m.

    They are inputs too, so that second derivatives go through them and see m move.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, *inputs: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:5])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        slopes = ctx.saved_tensors
        needed = ctx.needs_input_grad[5:]
        found = (gradients[0] * s if need else None for s, need in zip(slopes, needed, strict=True))
        return (None, *(None for _ in slopes), *found)


def _values(beta: Tensor, along: Tensor, readout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the norm, its change and the readout's change, in units of the root of |beta|."""
    none = beta == 0
    unit = torch.where(none, 1.0, beta.abs()).sqrt()
    x, change, readout_change = nearest_point(along / unit, readout * beta.sign() / unit)
    kept = along.clamp_min(0)
    return (
        torch.where(none, kept, unit * x),
        torch.where(none, kept - along, unit * change),
        torch.where(none, -readout, unit * readout_change * beta.sign()),
    )


def _root(squares: Tensor) -> Tensor:
    """Return square roots whose derivative at 0 is 0, not infinite."""
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)


def _with_gradient_of(value: Tensor, formula: Tensor) -> Tensor:
    """Return ``value`` with the derivatives of a formula that equals it but for rounding."""
    return value.detach() + (formula - formula.detach())
