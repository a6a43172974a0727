"""The point of a hyperbola that is nearest to a given one: a quartic whose right root is known beforehand.

A ReLU unit moves from input norm P and readout V to x and y with x y = 1 (in units of the root of its
strength) at the cost (x - P)^2 + (y - V)^2, so that the new weights are the nearest point of the hyperbola.
"""

import torch
from torch import Tensor

_STEPS = 80
"""Enough for a triple root, where Newton's method gains a third of the distance a step; ten are usual."""


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
