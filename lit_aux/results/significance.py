"""How sure a mean difference is: Student's t, the exact sign-flip test, and how many seeds would decide.

Without scipy, whose import takes longer than all else that ``lit-aux table`` does.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cache
from itertools import product
from math import atan, cos, exp, floor, lgamma, log, log1p, pi, sin, sqrt
from statistics import NormalDist

LEVEL = 0.05
FEWEST = 3
"""Seeds below which no difference is called clear."""
FLIPPED = range(6, 21)
"""Numbers of seeds for which signs are flipped: with fewer, no p is below .05; with more, Student decides."""
NEAR = (0.03, 0.07)
POWER = 0.8
MOST = 1000
"""Numbers of seeds above which it is not said how many would decide."""
_NORMAL = NormalDist()
_MANY = 10_000  # degrees of freedom from which on Student's distribution is the normal one


def within(t: float, df: int) -> float:
    """Return the probability that Student's t is no further from 0 than a value.

    Source: Abramowitz and Stegun, 26.7.3 and 26.7.4.

    Args:
        t: The value.
        df: Degrees of freedom, at least 1.
    """
    if df >= _MANY:
        return 2 * _NORMAL.cdf(abs(t)) - 1
    angle, odd = atan(abs(t) / sqrt(df)), df % 2
    square = cos(angle) ** 2
    total, term = 0.0, cos(angle) if odd else 1.0
    for k in range(2 + odd, df + 1, 2):
        total += term
        term *= square * (k - 1) / k
    return (angle + sin(angle) * total) * 2 / pi if odd else sin(angle) * total


@cache
def quantile(df: int) -> float:
    """Return how far from 0 Student's t is with a probability of .95 at most."""
    log_scale = lgamma((df + 1) / 2) - lgamma(df / 2) - log(df * pi) / 2
    t, step = 0.0, 1.0
    while step > 1e-12:  # by Newton's method: within() is concave, so that the root is never passed
        density = 2 * exp(log_scale - (df + 1) / 2 * log1p(t**2 / df))
        step = (1 - LEVEL - within(t, df)) / density
        t += step
    return t


def sign_flip(gaps: Sequence[float]) -> float:
    """Return the exact two-sided p of a mean of 0: the part of all signs that reach as far.

    Under the hypothesis that neither setup is better, the difference of each seed has either sign with the
    same probability (Fisher's randomization test of pairs).

    Args:
        gaps: The differences, one a seed; all 2^n signs count.
    """
    reach = abs(sum(gaps)) * (1 - 1e-12)  # what is as far but for rounding is as far
    if reach == 0:
        return 1.0
    half = len(gaps) // 2
    one, other = (
        sorted(sum(signed) for signed in product(*((gap, -gap) for gap in part)))
        for part in (gaps[:half], gaps[half:])
    )
    beyond = sum(len(other) - bisect_left(other, reach - part) for part in one)
    below = sum(bisect_right(other, -reach - part) for part in one)
    return (beyond + below) / float(2 ** len(gaps))


def p_of(mean: float, error: float, df: float) -> float:
    """Return the two-sided p of a mean of 0 by Student's t; NaN where the error is not known."""
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return 1 - within(mean / error, max(1, floor(df))) if error == error else error


def seeds_needed(mean: float, deviation: float) -> int | None:
    """Return about how many seeds let Student's paired test find a difference with a probability of .8.

    By the normal approximation of the noncentral t distribution (Abramowitz and Stegun, 26.7.10).

    Args:
        mean: The mean difference, as observed.
        deviation: The standard deviation of the differences.

    Returns:
        At least 3; None where there are more than 1000 or there is no difference.
    """
    if mean == 0:
        return None
    effect = abs(mean) / deviation if deviation else float("inf")
    least = ((_NORMAL.inv_cdf(1 - LEVEL / 2) + _NORMAL.inv_cdf(POWER)) / effect) ** 2
    if least > MOST:
        return None
    return next(n for n in range(max(FEWEST, floor(least)), 2 * MOST) if _power(effect, n) >= POWER)


def _power(effect: float, seeds: int) -> float:
    df = seeds - 1
    t = quantile(df)
    return _NORMAL.cdf((effect * sqrt(seeds) - t * (1 - 1 / (4 * df))) / sqrt(1 + t**2 / (2 * df)))
