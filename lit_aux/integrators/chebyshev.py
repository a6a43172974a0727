"""Stages of second-order Runge-Kutta-Chebyshev steps."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lit_aux.integrators.state import Floats

Rows = NDArray[np.int64]

DAMPING = 2 / 13


@lru_cache(maxsize=4096)
def coefficients(stages: int) -> Floats:
    """Return what turns stages j and j - 1 into stage j + 1.

    Sommeijer, Shampine & Verwer, "RKC: an explicit solver for parabolic PDEs", J. Comp. Appl.
    Math. 88 (1998).

    Args:
        stages: Number of stages s >= 2.

    Returns:
        Array (s, 5); row j >= 1 holds the factors of y, Y_j, Y_{j-1}, h F_j and h F_0 in Y_{j+1}, and row 0,
        column 3 that of h F_0 in Y_1.
    """
    w0 = 1 + DAMPING / stages**2
    t, first, second = _chebyshev(stages, w0)
    w1 = first[stages] / second[stages]
    b = np.empty(stages + 1)
    b[2:] = second[2:] / first[2:] ** 2
    b[:2] = b[2]
    a = 1 - b * t
    table = np.zeros((stages, 5))
    table[0, 3] = b[1] * w1
    mu = 2 * b[2:] * w0 / b[1:-1]
    nu = -b[2:] / b[:-2]
    forward = 2 * b[2:] * w1 / b[1:-1]
    table[1:] = np.stack([1 - mu - nu, mu, nu, forward, -forward * a[1:-1]], axis=1)
    return table


def stages_for(step: Floats, curvature: Floats) -> Rows:
    """Return the fewest stages with which a step is stable for curvatures up to ``curvature``."""
    needed: Rows = 1 + np.floor(np.sqrt(1 + 1.54 * step * curvature)).astype(np.int64)
    return np.maximum(2, needed)


def longest_step(stages: int, curvature: Floats) -> Floats:
    """Return the longest step for which that many stages are enough."""
    return np.asarray((stages**2 - 1) * (1 - 1e-9) / (1.54 * np.maximum(curvature, 1e-300)))


def _chebyshev(degree: int, x: float) -> tuple[Floats, Floats, Floats]:
    """Return T_j, T_j' and T_j'' at ``x`` for j = 0, ..., degree, by the three-term recurrence."""
    t, first, second = (np.zeros(degree + 1) for _ in range(3))
    t[:2], first[1] = (1.0, x), 1.0
    for j in range(2, degree + 1):
        t[j] = 2 * x * t[j - 1] - t[j - 2]
        first[j] = 2 * t[j - 1] + 2 * x * first[j - 1] - first[j - 2]
        second[j] = 4 * first[j - 1] + 2 * x * second[j - 1] - second[j - 2]
    return t, first, second
