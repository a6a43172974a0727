"""Where finetuning moves one ReLU unit: the new input norm, and how far the weights have gone.

A unit moves from input norm P and readout V to x and y with x y = 1 (in units of the root of its strength)
at the cost (x - P)^2 + (y - V)^2: its new weights are the nearest point of a hyperbola, the right root of a
quartic.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

_STEPS = 80
"""Enough for a triple root, where Newton's method gains a third of the distance a step; ten are usual."""


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
    some = (move.norm_before > 0) | (turned == 0)
    gained = torch.where(some, turned / before, turned.sign().detach() * torch.inf)
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


# The point of a hyperbola that is nearest to a given one


@torch.no_grad()
def nearest_point(p: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the point (x, 1/x), x > 0, with the least distance to (p, v), entry by entry.

    By reflection at the diagonal the nearest point lies on the side of (p, v), so that p >= v, x >= 1 after
    a swap; in t = x - 1 the quartic x^4 - p x^3 + v x - 1 then has exactly one change of sign (Descartes),
    hence one root: no other stationary point has to be compared. On the diagonal x >= 1 is taken.

    Args:
        p: First coordinates, float64.
        v: Second coordinates, of the same shape.

    Returns:
        x, x - p and 1/x - v. The differences keep full relative precision where x and p, or 1/x and v,
        agree in all their digits; x does too, except near p = v = 2, where it is a triple root.
    """
    swap = v > p
    p, v = torch.where(swap, v, p), torch.where(swap, p, v)
    x = _larger_coordinate(p, v)
    y = 1 / x
    # On the curve x - p = (y - v) y^2, so each difference follows from the other, and both from 1 - p v.
    # Where neither cancels, the plain ones are best: at the minimum the distance forgives errors of x.
    second = y - v
    second = torch.where(second.abs() < 0.5 * y, (1 - p * v) / (x + v * y * y), second)
    first = x - p
    first = torch.where(first.abs() > 0.1 * x, first, second * y * y)
    return torch.where(swap, y, x), torch.where(swap, second, first), torch.where(swap, first, second)


def _larger_coordinate(p: Tensor, v: Tensor) -> Tensor:
    """Solve x^4 - p x^3 + v x - 1 = 0 for its one root x >= 1, where p >= v.

    The quartic is convex from p/2 on and not positive there, so Newton's method falls monotonically on the
    root from any point above it; the start is above by a small factor at most. Everything is divided by x^3,
    so that nothing overflows.
    """
    down = (-v).clamp_min(0)
    cube_root = down.pow(1 / 3)
    against = torch.sqrt(down / (-p).clamp_min(1e-300))  # where p < 0, x^3 |p| balances |v| x before x^4 does
    x = 1 + p.clamp_min(0) + torch.minimum(cube_root, against)
    lowest = (p / 2).clamp_min(1)
    for _ in range(_STEPS):
        y = 1 / x
        value = (x - p) + (v - y) * y * y
        slope = 4 - 3 * p * y + v * y * y * y
        step = (value / slope).nan_to_num(0.0).clamp_min(0)  # below the root is only rounding
        lower = torch.maximum(x - step, lowest)
        if bool((x - lower <= 1e-16 * x).all()):
            break
        x = lower
    return x
