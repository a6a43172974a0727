"""A figure of equal panels with a key below, laid out in inches: exact, and fast for many panels."""

from collections.abc import Sequence
from math import ceil
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

from lit_aux.figures.style import INK, Look, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEFT, _RIGHT, _TOP, _LABEL = 0.75, 0.1, 0.55, 0.55  # inches; the last is below the panels
_LINE = 0.16  # inches of a line of the key
_ENTRY = 1.35  # inches of an entry of the key


class Canvas(NamedTuple):
    """A figure and the axes of its panels, row by row; axes without a panel are empty.

    Attributes:
        figure: The figure.
        axes: One for each panel.
        columns: Panels side by side.
    """

    figure: "Figure"
    axes: Sequence["Axes"]
    columns: int


def canvas(
    panels: int,
    columns: int,
    size: tuple[float, float],
    gaps: tuple[float, float],
    title: str,
    looks: Sequence[tuple[str, Look]],
    notes: Sequence[str],
    *,
    lines: bool,
) -> Canvas:
    """Return a figure with its title and key, and empty panels.

    Args:
        panels: How many.
        columns: How many side by side.
        size: Width and height of a panel in inches.
        gaps: Between columns, and between rows.
        title: Above all panels.
        looks: Names and looks of the key.
        notes: Lines of text above the key; long ones are broken.
        lines: Whether the key shows lines with their markers, or markers alone.
    """
    rows = ceil(panels / columns)
    width = max(4.6, _LEFT + columns * size[0] + (columns - 1) * gaps[0] + _RIGHT)
    text = [line for note in notes for line in wrap(note, int(15.5 * width))]
    across = max(1, min(len(looks), int(width / _ENTRY)))
    key = _LINE * (len(text) + ceil(len(looks) / across)) + 0.1
    bottom = _LABEL + key
    height = _TOP + rows * size[1] + (rows - 1) * gaps[1] + bottom
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    places = {
        "left": _LEFT / width,
        "right": (_LEFT + columns * size[0] + (columns - 1) * gaps[0]) / width,
        "top": 1 - _TOP / height,
        "bottom": bottom / height,
        "wspace": gaps[0] / size[0],
        "hspace": gaps[1] / size[1],
    }
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw=places)
    axes: list[Any] = list(grid.flat)
    for unused in axes[panels:]:
        unused.axis("off")
    figure.suptitle(title, x=0.1 / width, y=1 - 0.08 / height, ha="left", va="top", fontsize=10, color=INK)
    legend = figure.legend(
        handles=[_handle(name, look, lines) for name, look in looks],
        loc="lower center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=across,
        frameon=False,
        fontsize=8,
        handlelength=3.2 if lines else 1.0,
        labelcolor=INK,
        borderaxespad=0.0,
        title="\n".join(text),
        title_fontproperties={"size": 7.5},
    )
    legend.get_title().set_multialignment("center")
    legend.get_title().set_color(INK)
    return Canvas(figure, axes[:panels], columns)


def _handle(name: str, look: Look, line: bool) -> Any:
    from matplotlib.lines import Line2D

    return Line2D(
        [],
        [],
        color=look.colour,
        marker=look.marker,
        linestyle=look.line if line else "none",
        linewidth=1.4,
        markersize=4.5,
        markeredgewidth=0.4,
        markeredgecolor="white",
        label=name,
    )
