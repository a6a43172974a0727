"""Small numbers beside points, moved apart where points are close."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lit_aux.figures.style import GREY, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE = (9.0, 7.5)  # of a number of two digits, in points
_PLACES = tuple(
    (side * (7.0 + 11.0 * step), rise)
    for step in range(5)
    for rise in (3.0, -3.0, 9.0, -9.0, 16.0, -16.0)
    for side in (1, -1)
)
"""From the nearest to the farthest: offsets of a number's middle from its point, in points."""


def write_numbers(
    axes: "Axes", points: Sequence[tuple[float, float]], numbers: Sequence[str], room: tuple[float, float]
) -> None:
    """Write a number at each point, each at the nearest place that no other number or point has.

    Args:
        axes: Where; its limits are set.
        points: In the units of the axes.
        numbers: What to write.
        room: Width and height of the panel in points.
    """
    from matplotlib.patheffects import withStroke

    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    on_page = [((x - left) / (right - left) * room[0], (y - low) / (high - low) * room[1]) for x, y in points]
    written: list[tuple[float, float]] = []
    for place, (number, point, (x, y)) in enumerate(zip(numbers, points, on_page, strict=True)):
        taken = [*on_page[:place], *on_page[place + 1 :], *written]
        free = [
            (dx, dy)
            for dx, dy in _PLACES
            if 4 < x + dx < room[0] - 4
            and not any(abs(x + dx - a) < _SIZE[0] and abs(y + dy - b) < _SIZE[1] for a, b in taken)
        ]
        dx, dy = free[0] if free else _PLACES[0]
        written.append((x + dx, y + dy))
        axes.annotate(
            number,
            point,
            xytext=(dx, dy),
            textcoords="offset points",
            fontsize=6.5,
            color=INK,
            ha="center",
            va="center",
            zorder=4,
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.4} if abs(dx) > 8 else None,
        )
