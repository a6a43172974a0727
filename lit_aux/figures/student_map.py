"""The regime map with the features of students on it: as trained, and where a factor would put them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from lit_aux.drawing.layout import side_by_side
from lit_aux.figures.regime_map import MapPoints, RegimeMap, decades, draw_maps, draw_regime_map, regime_panel
from lit_aux.regimes.student_features import StudentFeatures
from lit_aux.regimes.student_summary import GroupSummary, shown, weighted_median
from lit_aux.results.selection import spelled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 9
"""Cells that have a panel; of more, the first."""
_SEEN = 1e-3
"""Features with a smaller share of |beta| are left out: there are hundreds, and they carry nothing."""
_SHORT = {"correlation": "corr.", "n_main": "n"}
_KINDS = ("as trained", "at the suggested factor")


def draw_students_map(
    students: Sequence[Sequence[StudentFeatures]], groups: Sequence[GroupSummary]
) -> "Figure":
    """Draw the features of each cell's students, twice where a factor is suggested.

    Each cell has a map of its own, for the scale of its readouts, or the median correlation of its features.

    Args:
        students: By cell.
        groups: What was found of each cell, in the same order.
    """
    paired = list(zip(students, groups, strict=True))[:MOST]
    cells = [(_points(members, group), _options(members)) for members, group in paired]
    penalty = students[0][0].penalty
    if len(cells) == 1:
        points, options = cells[0]
        return draw_regime_map(penalty, points, **options)
    every = [one for points, _ in cells for one in points]
    limits = decades([one.beta_aux for one in every]), decades([one.beta for one in every])
    panels = []
    for place, group, (points, options) in zip(side_by_side(len(cells)), groups, cells, strict=False):
        cell = ", ".join(f"{_SHORT.get(name, name)} {spelled(group.cell[name])}" for name in shown(groups))
        symbol, value = (r"\gamma", options["gamma"]) if penalty == "q" else (r"\rho", options["correlation"])
        title = f"{cell}\n${symbol}$ {value:g}{_tried(group)}"
        panels.append(regime_panel(place, RegimeMap.of(penalty, limits, points, **options), title))
    return draw_maps(panels, _KINDS, 1.2)


def _tried(group: GroupSummary) -> str:
    factor = group.suggestion.factor
    return "; no factor suggested" if factor is None else f"; suggested: {factor:g}"


def _points(students: Sequence[StudentFeatures], group: GroupSummary) -> list[MapPoints]:
    """Return the features that carry the solutions as trained, and at the suggested factor."""
    factors = {f"as trained, rescale {students[0].factor:g}": students[0].factor}
    if group.suggestion.factor is not None:
        factors[f"suggested, rescale {group.suggestion.factor:g}"] = group.suggestion.factor
    found = []
    for label, factor in factors.items():
        parts = []
        for student in students:
            seen = (student.weight > _SEEN).nonzero()[:, 0]
            beta_aux = student.place(factor, seen).beta_aux[0]
            parts.append(torch.stack([student.beta[seen].abs(), beta_aux, student.weight[seen]]))
        found.append(MapPoints(label, *torch.cat(parts, dim=1)))
    return found


def _options(students: Sequence[StudentFeatures]) -> dict[str, Any]:
    """Return what the map of some students depends on."""
    if students[0].penalty == "q":
        return {"gamma": students[0].gamma}
    known = [one.correlation for one in students if one.correlation is not None]
    median = weighted_median(torch.cat(known), torch.cat([one.weight for one in students]))
    return {"correlation": round(median, 3)}
