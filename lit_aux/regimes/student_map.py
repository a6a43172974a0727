"""The regime map with the features of students on it: as trained, and where a factor would put them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lit_aux.figures import MapPoints, draw_regime_map
from lit_aux.figures.regime_map import BANDS, MARKERS, band_patch, decades, regime_panel, scatter
from lit_aux.figures.style import new_figure, save
from lit_aux.regimes.student_features import StudentFeatures
from lit_aux.regimes.student_summary import GroupSummary, shown, weighted_median
from lit_aux.results.selection import spelled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 9
"""Cells that have a panel; of more, the first."""
_SEEN = 1e-3
"""Features with a smaller share of |beta| are left out: there are hundreds, and they carry nothing."""


def draw_students_map(
    students: Sequence[Sequence[StudentFeatures]], groups: Sequence[GroupSummary], path: Path
) -> Path:
    """Draw the features of each cell's students, twice where a factor is suggested.

    Each cell has a map of its own, for the scale of its readouts, or the median correlation of its features.

    Args:
        students: By cell.
        groups: What was found of each cell, in the same order.
        path: The PNG to write.
    """
    paired = list(zip(students, groups, strict=True))
    cells = [(_points(members, group), _options(members)) for members, group in paired]
    penalty = students[0][0].penalty
    if len(cells) == 1:
        points, options = cells[0]
        return Path(draw_regime_map(path, penalty, points, **options))
    cells = cells[:MOST]
    every = [one for points, _ in cells for one in points]
    limits = decades([one.beta_aux for one in every]), decades([one.beta for one in every])
    columns = 2 if len(cells) in (2, 4) else 3
    rows = -(-len(cells) // columns)
    figure = new_figure(3.3 * columns + 0.4, 3.0 * rows + 0.7)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(cells) :]:
        axes.axis("off")
    axes_of, found = shown(groups), set()
    for number, (points, options) in enumerate(cells):
        axes, group = grid.flat[number], groups[number]
        found |= regime_panel(axes, penalty, limits, points, **options)
        for kind, one in enumerate(points):
            scatter(axes, one, kind, limits, scale=0.7)
        cell = ", ".join(f"{_SHORT.get(name, name)} {spelled(group.cell[name])}" for name in axes_of)
        symbol, value = (r"\gamma", options["gamma"]) if penalty == "q" else (r"\rho", options["correlation"])
        axes.set_title(f"{cell}\n${symbol}$ {value:g}{_tried(group)}", loc="left", fontsize=8.5)
        axes.tick_params(labelbottom=number + columns >= len(cells))
        if number + columns < len(cells):
            axes.set_xlabel("")
        if number % columns:
            axes.set_ylabel("")
    _legend(figure, sorted(found))
    return save(figure, path)


_SHORT = {"correlation": "corr.", "n_main": "n"}


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


def _legend(figure: "Figure", bands: Sequence[int]) -> None:
    from matplotlib.lines import Line2D

    words = ("as trained", "at the suggested factor")
    handles: list[Any] = [
        Line2D([], [], color=colour, marker=marker, linestyle="none", label=label)
        for (marker, colour), label in zip(MARKERS, words, strict=False)
    ]
    for band in bands:
        patch = band_patch(band)
        patch.set_label(BANDS[band][0])
        handles.append(patch)
    figure.legend(handles=handles, loc="outside upper left", ncols=6, frameon=False, fontsize=9)
