"""One panel of a figure on matplotlib's axes: curves, ticks, labels and limits."""

from collections.abc import Sequence
from itertools import chain
from math import ceil, isfinite
from typing import TYPE_CHECKING, Any, TypeAlias

from lit_aux.figures.curves import Curve
from lit_aux.figures.layout import Layout
from lit_aux.figures.panel import Panel
from lit_aux.figures.style import GREY, INK, PUBLISHED, Look, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Overlay: TypeAlias = dict[tuple[Any, ...], Panel]
"""Published panels by the key of ours."""
RING: dict[str, Any] = {
    "linestyle": PUBLISHED,
    "linewidth": 0.9,
    "markersize": 6.0,
    "markerfacecolor": "none",
    "markeredgewidth": 0.7,
}
"""Of published curves: markers around ours, so that both are seen where they agree."""


def draw_panel(axes: "Axes", panel: Panel, layout: Layout, published: Panel | None, room: float) -> None:
    """Draw a panel's curves.

    Args:
        axes: Where.
        panel: What it shows.
        layout: Of the figure, for the looks of the curves.
        published: The published curves to lay over.
        room: The panel's width in inches, which decides how many ticks are named.
    """
    axes.set_xscale(panel.x_scale)
    # bars that reach below 0 go on to the edge
    axes.set_yscale(panel.y_scale, **({"nonpositive": "clip"} if panel.y_scale == "log" else {}))
    if panel.level is not None:
        axes.axhline(panel.level, color=GREY, linewidth=0.8, zorder=1, label="level")
    if panel.teacher is not None:
        axes.plot(panel.teacher.x, panel.teacher.mean, color=INK, linewidth=0.9, zorder=1.5, label="teacher")
    order = [key for key in layout.looks if key in {c.key for c in panel.curves}]
    curves = {c.key: c for c in panel.curves}
    for depth, key in enumerate(reversed(order)):
        _curve(axes, curves[key], layout.looks[key][1], 2 + 0.1 * depth)
    for own in published.curves if published else ():
        look = layout.looks[own.key][1]
        axes.plot(
            own.x,
            own.mean,
            color=look.colour,
            marker=look.marker,
            zorder=4,
            label=f"published {own.key}",
            **RING,
        )
    tidy(axes, "")
    axes.set_title(panel.title, loc="left", fontsize=8.5, color=INK)
    axes.tick_params(labelsize=7)
    _ticks(axes, panel, room)


def _curve(axes: "Axes", own: Curve, look: Look, zorder: float) -> None:
    below = [m - low for m, low in zip(own.mean, own.low, strict=True)]
    above = [high - m for m, high in zip(own.mean, own.high, strict=True)]
    axes.errorbar(
        own.x,
        own.mean,
        yerr=[below, above],
        label=own.key,
        color=look.colour,
        marker=look.marker,
        markersize=3.6,
        markeredgewidth=0.4,
        markeredgecolor="white",
        linestyle=look.line,
        linewidth=1.4,
        elinewidth=0.8,
        capsize=1.5,
        zorder=zorder,
    )


def _ticks(axes: "Axes", panel: Panel, room: float) -> None:
    """Put ticks at the values that there are, as many as have room."""
    from matplotlib.ticker import NullLocator

    if panel.ticks:
        turned = max(map(len, panel.ticks)) > 3
        axes.set_xticks(
            range(len(panel.ticks)),
            panel.ticks,
            rotation=60 if turned else 0,
            ha="right" if turned else "center",
        )
        if turned:
            for tick in axes.get_xticklabels():
                tick.set_rotation_mode("anchor")
        return
    values = sorted({x for c in panel.curves for x in c.x})
    if panel.x_scale == "log":
        axes.set_xticks(values, _thinned([f"{value:g}" for value in values], room))
        axes.xaxis.set_minor_locator(NullLocator())
        if len(values) > 1:
            edge = (values[-1] / values[0]) ** 0.06
            axes.set_xlim(values[0] / edge, values[-1] * edge)
        else:
            axes.set_xlim(values[0] / 2, values[0] * 2)


def _thinned(names: Sequence[str], room: float) -> list[str]:
    """Leave out names where there are too many for so many inches, the last one kept."""
    step = max(1, ceil(sum(0.06 * len(name) + 0.1 for name in names) / room))
    return [name if (len(names) - 1 - i) % step == 0 else "" for i, name in enumerate(names)]


def write_labels(axes: "Axes", at: dict[tuple[int, int], Panel], place: tuple[int, int]) -> None:
    """Write the axes' labels where the neighbours' do not say the same."""
    row, column = place
    panel = at[place]
    left = at.get((row, column - 1))
    if left is None or left.y_label != panel.y_label:
        axes.set_ylabel(panel.y_label, fontsize=8)
    else:
        axes.tick_params(labelleft=False)
    below = at.get((row + 1, column))
    if below is None or below.x_label != panel.x_label or below.ticks != panel.ticks:
        axes.set_xlabel(panel.x_label, fontsize=8)
    elif panel.ticks:
        axes.tick_params(labelbottom=False)
    if panel.row_title and (row, column + 1) not in at:
        axes.annotate(
            panel.row_title,
            (1.04, 0.5),
            xycoords="axes fraction",
            rotation=270,
            ha="left",
            va="center",
            fontsize=8,
            color=INK,
        )


def set_limits(grid: Any, panels: Sequence[Panel], over: Overlay) -> None:
    """Give panels of the same quantity the same limits: all means lie within, and bars where they fit."""
    shown = [c for panel in panels for c in (*panel.curves, *([panel.teacher] if panel.teacher else []))]
    shown += [c for panel in panels if panel.key in over for c in over[panel.key].curves]
    means = [m for c in shown for m in c.mean]
    ends = [e for e in chain.from_iterable((*c.low, *c.high) for c in shown) if isfinite(e)]
    ends += [panel.level for panel in panels if panel.level is not None]
    if panels[0].y_scale == "log":
        means = [m for m in means if m > 0]
        low = min(chain(means, (e for e in ends if e > 0.5 * min(means))))
        high = max(chain(means, ends))
        room = max((high / low) ** 0.05, 1.1)
        limits = low / room, high * room
    else:
        low, high = min(chain(means, ends)), max(chain(means, ends))
        room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
        limits = low - room, high + room
    for panel in panels:
        grid[panel.place].set_ylim(*limits)
