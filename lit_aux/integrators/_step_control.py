"""How long the next step of each replica is."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Control = dict[str, NDArray[Any]]


POWER = 0
"""Stage of a replica whose curvature is being estimated."""


def fresh(losses: Floats, norms: Floats, power_iterations: int) -> Control:
    """Return what steers replicas that are about to begin: each with an estimate of its curvature."""
    n = len(losses)
    whole = ("stages", "age", "landings")
    numbers = ("h", "curvature", "h_before", "rate", "nudge")
    return {
        "stage": np.full(n, POWER),
        "left": np.full(n, power_iterations),
        "loss": losses,
        "norm": norms,
        "error": np.ones(n),
        "direction": np.ones(n),
        **{name: np.zeros(n, dtype=np.int64) for name in whole},
        **{name: np.zeros(n) for name in numbers},
    }


def shorten(
    control: dict[str, NDArray[Any]],
    rows: NDArray[np.int64],
    error: NDArray[np.float64],
    overshot: Mask,
    loss: NDArray[np.float64],
    goal: NDArray[np.float64],
) -> None:
    """Choose the next attempt of steps that were too inaccurate, or went too far below the threshold."""
    h = control["h"][rows]
    with np.errstate(all="ignore"):
        shorter = h * np.clip(0.8 * error ** (-1 / 3), 0.1, 0.8)
        before = np.log(np.maximum(control["loss"][rows] / (0.975 * goal), 1.0))
        whole = np.log(np.maximum(control["loss"][rows] / np.maximum(loss, 1e-300), 1 + 1e-12))
        landing = h * np.clip(before / whole, 0.02, 0.98)
    h = np.where(error > 1, np.where(np.isfinite(error), shorter, 0.1 * h), h)
    control["h"][rows] = np.where(overshot, landing, h)
    control["landings"][rows] += overshot


def adapt(
    control: dict[str, NDArray[Any]],
    rows: NDArray[np.int64],
    error: NDArray[np.float64],
    loss: NDArray[np.float64],
    norm: NDArray[np.float64],
) -> None:
    """Choose the next step from this error and the one before."""
    h, before = control["h"][rows], control["h_before"][rows]
    plain = 0.8 * error ** (-1 / 3)
    trend = (control["error"][rows] / error) ** (1 / 3) * h / np.where(before > 0, before, h)
    factor = np.where(before > 0, np.minimum(plain * trend, 10.0), plain)
    factor = np.minimum(factor, _most_growth(control, rows, loss))
    control["h"][rows] = h * np.clip(factor, 0.1, 10.0)
    control["h_before"][rows], control["error"][rows] = h, error
    control["loss"][rows], control["norm"][rows] = loss, norm
    control["age"][rows] += 1


def _most_growth(control: Control, rows: NDArray[np.int64], loss: Floats) -> Floats:
    """Return by how much a step may grow while the loss falls fast.

    Near the end the error allows steps of any length. But a step damps what is stiff only by so much however
    long it is, and costs as many gradients as it has stages: its length climbs towards where the loss falls
    most per gradient. On a plateau, where long steps alone help, nothing holds it back.
    """
    with np.errstate(all="ignore"):
        fallen = np.log(control["loss"][rows] / np.maximum(loss, 1e-300))
    rate = fallen / control["stages"][rows]
    better = rate >= control["rate"][rows]
    direction = np.where(better, control["direction"][rows], -control["direction"][rows])
    fast = fallen > 0.5
    control["rate"][rows] = rate
    control["direction"][rows] = np.where(fast, direction, 1)
    return np.where(fast, np.where(direction > 0, 1.5, 1 / 1.5), np.inf)
