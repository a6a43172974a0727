"""Where students stand, cell by cell of their grid: shares of |beta| by regime, and the factor to try."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import floor, log10, nan, sqrt
from typing import Any

import torch
from torch import Tensor

from lit_aux.functional import REGIMES, regime
from lit_aux.regimes.student_features import StudentFeatures
from lit_aux.results.means import stat_of
from lit_aux.results.selection import spelled
from lit_aux.results.sheet import Sheet
from lit_aux.results.statistics import order
from lit_aux.runs.table import COLUMNS
from lit_aux.spreadsheets import Bold

LOWEST, HIGHEST, PER_DECADE = 1e-4, 1e2, 100
USED = 0.1
"""Share of |beta| on pretrained features below which there is nothing for rescaling to act on."""
_KEPT = 0.999  # of |beta|: what the smallest features have does not move a median
AXES = ("overlap", "correlation", "k_main", "magnitude", "n_main", "rescale")


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
    places = weight.argsort(descending=True)
    enough = int((weight[places].cumsum(0) < _KEPT * weight.sum()).sum()) + 1
    return places[:enough]


def _between(value: float, low: float, high: float) -> float:
    """Round to two digits, or as many more as keep the value between the two."""
    for digits in range(2, 7):
        rounded = round(value, digits - 1 - floor(log10(value)))
        if low <= rounded <= high:
            return rounded
    return value


@dataclass(frozen=True)
class GroupSummary:
    """Students that differ in nothing but their seed; every number is a mean over them.

    Attributes:
        cell: What they have in common: n_main, rescale, ...
        seeds: Their seeds.
        shares: Share of ``|beta|`` in each regime, by name; they sum to 1.
        l_order: Median of the l-order over features, weighted by ``|beta|``.
        dependence: The same of the feature dependence.
        pretrained_share: Share of ``|beta|`` on features that pretraining made.
        suggestion: Which rescale factor brings those into the nested regime.
    """

    cell: Mapping[str, Any]
    seeds: tuple[int, ...]
    shares: Mapping[str, float]
    l_order: float
    dependence: float
    pretrained_share: float
    suggestion: Suggestion

    def asdict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


def groups_of(students: Sequence[StudentFeatures]) -> list[list[StudentFeatures]]:
    """Return the students by cell, those of a cell together, in the order of the axes."""
    found: dict[tuple[Any, ...], list[StudentFeatures]] = {}
    for student in students:
        key = tuple(order(name, student.cell.get(name)) for name in axes_of(student.cell))
        found.setdefault(key, []).append(student)
    return [found[key] for key in sorted(found)]


def axes_of(cell: Mapping[str, Any]) -> list[str]:
    """Return the names of a cell's axes but for the seed, those of a teacher of one's own first."""
    return [*(name for name in cell if name not in COLUMNS), *AXES]


def summarize(students: Sequence[StudentFeatures]) -> GroupSummary:
    """Say where the students of one cell stand.

    Only features that carry the solution count: each weighs as much as its share of the sum of ``|beta|``.

    Args:
        students: Of one cell, one a seed. One that learned nothing (beta = 0) counts as no share at all.
    """
    single = [_of_one(student) for student in students]
    cell = {name: students[0].cell[name] for name in axes_of(students[0].cell) if name in students[0].cell}
    return GroupSummary(
        cell=cell,
        seeds=tuple(int(student.cell["seed"]) for student in students),
        shares={name: _mean(single, name) for name in REGIMES},
        l_order=_mean(single, "l_order"),
        dependence=_mean(single, "dependence"),
        pretrained_share=_mean(single, "pretrained_share"),
        suggestion=suggest(students),
    )


def _mean(students: Sequence[Mapping[str, float]], name: str) -> float:
    stat = stat_of(student[name] for student in students)
    return nan if stat is None else stat.mean


def _of_one(student: StudentFeatures) -> dict[str, float]:
    used = student.weight.nonzero()[:, 0]
    weight = student.weight[used]
    place = student.place(features=used)
    l_order, dependence = place.l_order[0].nan_to_num(1.0), place.dependence[0].nan_to_num(0.0)
    where = regime(dependence)
    found = {name: float(weight[where == i].sum()) for i, name in enumerate(REGIMES)}
    found["pretrained_share"] = float(weight[student.made[used]].sum())
    return found | {
        "l_order": weighted_median(l_order, weight),
        "dependence": weighted_median(dependence, weight),
    }


def weighted_median(values: Tensor, weight: Tensor) -> float:
    """Return the value below which half of the weight lies; NaN where there is no weight.

    Args:
        values: (D,).
        weight: (D,), not negative.
    """
    if not len(values) or not weight.sum() > 0:
        return float("nan")
    places = values.argsort()
    reached = weight[places].cumsum(0) >= 0.5 * weight.sum()
    return float(values[places[int(reached.to(torch.int8).argmax())]])


def regime_table(groups: Sequence[GroupSummary], penalty: str) -> Sheet:
    """Return a table with a row for each cell, the largest share of each in bold.

    Args:
        groups: At least one.
        penalty: ``"q"`` or ``"relu"``.
    """
    what = "inputs" if penalty == "q" else "units"
    title = f"Where finetuning put its weight: shares of |beta| over {what}, means over seeds"
    axes = shown(groups)
    heads = ("pretrained", *REGIMES, "l-order", "dependence", "nested if rescale", "try")
    sheet = Sheet(title, [*axes, *heads], labels=len(axes))
    for group in groups:
        found, largest = group.suggestion, max(group.shares.values())
        shares = [(share, f"{share:.0%}") for share in map(group.shares.__getitem__, REGIMES)]
        sheet.rows.append(
            [
                *(spelled(group.cell[name]) for name in axes),
                f"{group.pretrained_share:.0%}",
                *(Bold(text) if share == largest else text for share, text in shares),
                f"{group.l_order:.2f}",
                f"{group.dependence:.2f}",
                "-" if found.low is None else f"{found.low:.2g} to {found.high:.2g}",
                "-" if found.factor is None else f"{found.factor:g}",
            ]
        )
    return sheet


def shown(groups: Sequence[GroupSummary]) -> list[str]:
    """Return the axes that vary, n_main and rescale."""
    axes = axes_of(groups[0].cell)
    values = {name: {str(group.cell.get(name)) for group in groups} for name in axes}
    always = ("n_main", "rescale")
    return [n for n in axes if n in groups[0].cell and (len(values[n]) > 1 or n in always)]


def remarks(groups: Sequence[GroupSummary], penalty: str) -> list[str]:
    """Return how the table is to be read, and why some cells have no factor.

    Args:
        groups: At least one.
        penalty: ``"q"`` or ``"relu"``.
    """
    scale = (
        "beta_aux is the effective strength 2 sqrt(AB) - gamma^2 of the weights themselves: about half of "
        "|beta_aux| where pretraining left the two pathways unbalanced, as published runs do"
        if penalty == "q"
        else "beta_aux is ||w||^2 at the start of finetuning; each unit is placed by its own correlation "
        "before and after, while the map is drawn for their median"
    )
    lines = [
        "pretrained: share of |beta| on features that pretraining made (1 % of the strongest, or more)",
        "l-order and dependence (of the penalty on beta_aux): medians over features, weighted by |beta|",
        scale,
    ]
    if any(group.suggestion.factor is not None for group in groups):
        lines.append(
            "rescale: more than half of |beta| on pretrained features is nested there, if finetuning learned "
            "the same beta again: a first-order suggestion. Whether nested is better, validation has to say"
        )
    axes = shown(groups)
    for group in groups:
        if group.suggestion.reason:
            cell = ", ".join(f"{name} {spelled(group.cell[name])}" for name in axes)
            lines.append(f"no factor for {cell}: {group.suggestion.reason}")
    return lines
