"""Which rescale factor brings the features that pretraining made into the nested regime."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10, sqrt

import torch
from torch import Tensor

from lit_aux.functional import REGIMES, regime
from lit_aux.regimes.student_features import StudentFeatures

LOWEST, HIGHEST, PER_DECADE = 1e-4, 1e2, 100
USED = 0.1
"""Share of |beta| on pretrained features below which there is nothing for rescaling to act on."""
_KEPT = 0.999  # of |beta|: what the smallest features have does not move a median


@dataclass(frozen=True)
class Suggestion:
    """Factors at which more than half of ``|beta|`` on pretrained features is nested.

    Attributes:
        factor: The geometric middle of ``low`` and ``high``, rounded to two digits; None where there is none.
        low: The smallest such factor.
        high: The largest one connected with it.
        share: Share of ``|beta|`` on pretrained features that is nested at ``factor``, or the largest
            one met.
        reason: Why there is none, in words; empty where there is one.
    """

    factor: float | None
    low: float | None
    high: float | None
    share: float
    reason: str = ""


def suggest(students: Sequence[StudentFeatures]) -> Suggestion:
    """Find the rescale factors that put students of one kind into the nested regime.

    Every factor of a fine grid from 1e-4 to 100 is tried with each feature's own formula, ``|beta|`` as it
    was learned: a first-order suggestion, since another factor would learn another beta.

    Args:
        students: Replicas of one cell of a grid; each counts the same.
    """
    used = sum(float(student.weight[student.made].sum()) for student in students) / len(students)
    if used < USED:
        return Suggestion(None, None, None, 0.0, f"{used:.0%} of |beta| on pretrained features")
    steps = round(PER_DECADE * log10(HIGHEST / LOWEST)) + 1
    factors = torch.logspace(log10(LOWEST), log10(HIGHEST), steps, dtype=torch.float64)
    shares = nested_shares(students, factors)
    best = int(shares.argmax())
    if shares[best] <= 0.5:
        reason = f"at most {float(shares[best]):.0%} nested, at {float(factors[best]):.2g}"
        return Suggestion(None, None, None, float(shares[best]), reason)
    outside = (shares <= 0.5).nonzero()[:, 0]
    below, above = outside[outside < best], outside[outside > best]
    first = int(below.max()) + 1 if len(below) else 0
    last = int(above.min()) - 1 if len(above) else len(factors) - 1
    low, high = float(factors[first]), float(factors[last])
    middle = _between(sqrt(low * high), low, high)
    share = float(nested_shares(students, torch.tensor([middle], dtype=torch.float64))[0])
    return Suggestion(middle, low, high, share)


def nested_shares(students: Sequence[StudentFeatures], factors: Tensor) -> Tensor:
    """Return the share (G,) of |beta| on pretrained features that is nested at each factor, a mean.

    Args:
        students: Those over which the mean is taken; one that uses no pretrained feature does not count.
        factors: Factors (G,).
    """
    shares = []
    for student in students:
        weight = student.weight * student.made
        if weight.sum() > 0:
            kept = _largest(weight)
            dependence = student.place(factors, kept).dependence.nan_to_num(0.0)
            nested = regime(dependence) == REGIMES.index("nested")
            shares.append((nested * weight[kept]).sum(-1) / weight[kept].sum())
    return torch.stack(shares).mean(0) if shares else torch.zeros(len(factors), dtype=torch.float64)


def _largest(weight: Tensor) -> Tensor:
    """Return the indices of the fewest features that hold nearly all of a weight (D,)."""
    order = weight.argsort(descending=True)
    enough = int((weight[order].cumsum(0) < _KEPT * weight.sum()).sum()) + 1
    return order[:enough]


def _between(value: float, low: float, high: float) -> float:
    """Round to two digits, or as many more as keep the value between the two."""
    for digits in range(2, 7):
        rounded = round(value, digits - 1 - floor(log10(value)))
        if low <= rounded <= high:
            return rounded
    return value
