"""Where the names of lines and regions have room on a map."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lit_aux.figures.style import INK, minus
from lit_aux.functional import NESTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.contour import ContourSet

Limits = tuple[tuple[float, float], tuple[float, float]]
Place = tuple[float, float]
_MARGIN = 0.05
_APART = 0.1
_ROWS = (-0.35, 0.0, 0.35)
"""How far from the falling diagonal labels are, so that those of neighbouring lines do not meet."""


def label_lines(
    axes: "Axes", lines: "ContourSet", limits: Limits, points: Sequence[Place] = ()
) -> list[Place]:
    """Write the level of each contour line on it, in three rows across the middle of the map.

    Lines without room, near the edge or beside a label that is there already, get none.

    Args:
        axes: The map, with logarithmic axes.
        lines: Its contour lines.
        limits: The axes' ends, as powers of ten.
        points: What must not be covered, in data coordinates.

    Returns:
        Where labels are now, in data coordinates.
    """
    taken: list[Place] = []
    covered = torch.tensor([_share(spot, limits) for spot in points]).reshape(-1, 2)
    levels = np.asarray(lines.levels).tolist()
    # the ends of the nested regime first, whose lines are the thick ones
    for index in sorted(range(len(levels)), key=lambda i: levels[i] not in NESTED):
        best: tuple[float, float, float, float] | None = None
        for line in lines.allsegs[index]:
            spots = [_share(spot, limits) for spot in line]
            for (u, v), after in pairwise(spots):
                if not (_MARGIN < u < 1 - _MARGIN and _MARGIN < v < 1 - _MARGIN):
                    continue
                if any(math.hypot(u - a, v - b) < _APART for a, b in taken):
                    continue
                off = abs(u + v - 1 - _ROWS[index % len(_ROWS)])
                if best is not None and off >= best[0]:
                    continue
                if not bool(((covered - torch.tensor((u, v))).norm(dim=1) < _APART / 2).any()):
                    best = off, u, v, math.degrees(math.atan2(after[1] - v, after[0] - u))
        if best is None or best[0] > 0.6:
            continue
        _, u, v, angle = best
        taken.append((u, v))
        axes.text(
            u,
            v,
            minus(levels[index]),
            transform=axes.transAxes,
            rotation=(angle + 90) % 180 - 90,
            ha="center",
            va="center",
            fontsize=7,
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.9},
            zorder=2,
        )
    return [_place(spot, limits) for spot in taken]


def label_regions(
    axes: "Axes", found: Tensor, names: Mapping[str, str], limits: Limits, taken: Sequence[Place]
) -> None:
    """Write the name of each region where it is widest, if there is room.

    Args:
        axes: The map, with logarithmic axes.
        found: Index of the region of each place of an even grid of powers of ten, (rows, columns).
        names: Of the regions, and the colour of each.
        limits: The axes' ends, as powers of ten.
        taken: What must not be covered, in data coordinates.
    """
    from matplotlib.patheffects import withStroke
    from scipy.ndimage import distance_transform_edt  # type: ignore[import-untyped]

    rows, columns = found.shape
    free = torch.ones(found.shape, dtype=torch.bool)
    for spot in taken:
        u, v = _share(spot, limits)
        free[round(min(max(v, 0), 1) * (rows - 1)), round(min(max(u, 0), 1) * (columns - 1))] = False
    across = torch.linspace(-1, 1, columns).square() + torch.linspace(-1, 1, rows)[:, None].square()
    for index, (name, colour) in enumerate(names.items()):
        inside = torch.nn.functional.pad((found == index) & free, (1, 1, 1, 1)).numpy()
        half = 0.012 * len(name) + 0.02  # of its width, as a share of the map's
        away = torch.from_numpy(
            distance_transform_edt(inside, sampling=(1 / (0.03 * rows), 1 / (half * columns)))
        )
        room = away[1:-1, 1:-1]
        if room.max() < 1:
            continue
        # of places with room to spare, one nearer to the middle
        row, column = divmod(int((room.clamp_max(3.0) - 0.2 * across).argmax()), columns)
        share = column / (columns - 1), row / (rows - 1)
        x, y = _place(share, limits)
        text = axes.text(x, y, name, ha="center", va="center", fontsize=10, color=INK, zorder=2)
        text.set(fontweight="bold", path_effects=[withStroke(linewidth=3, foreground=colour)])


def _share(place: Sequence[float], limits: Limits) -> Place:
    """Return where a place is on the map, as shares of its width and height."""
    u, v = (
        (math.log10(value) - low) / (high - low) for value, (low, high) in zip(place, limits, strict=True)
    )
    return u, v


def _place(share: Place, limits: Limits) -> Place:
    """Return the data coordinates of a place of the map."""
    x, y = (10 ** (low + part * (high - low)) for part, (low, high) in zip(share, limits, strict=True))
    return x, y
