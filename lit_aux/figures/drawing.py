"""Draws the layout of a figure, with published curves over it."""

from collections.abc import Sequence
from itertools import chain
from math import ceil, isfinite
from typing import TYPE_CHECKING, Any, TypeAlias

from lit_aux.figures.curves import Curve
from lit_aux.figures.layout import Layout, Panel
from lit_aux.figures.style import GREY, INK, PUBLISHED, Look, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Overlay: TypeAlias = dict[tuple[Any, ...], Panel]
"""Published panels by the key of ours."""
_HOLLOW = {"markersize": 6.0, "markerfacecolor": "none", "markeredgewidth": 0.7}
RING: dict[str, Any] = {"linestyle": PUBLISHED, "linewidth": 0.9} | _HOLLOW
"""Of published curves: markers around ours, so that both are seen where they agree."""


def draw(layout: Layout, published: Layout | None = None) -> "Figure":
    """Draw a figure.

    Args:
        layout: What it shows.
        published: The same figure of published rows; those of its curves that the figure has, too, are laid
            over, dashed.
    """
    over = overlay(layout, published)
    rows = 1 + max(panel.place[0] for panel in layout.panels)
    columns = 1 + max(panel.place[1] for panel in layout.panels)
    width, height = _panel_size(columns)
    figure = new_figure(width * columns + 0.7, height * rows + 0.9)
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.04, wspace=0.02, hspace=0.02)
    grid = figure.subplots(rows, columns, squeeze=False)
    at = {panel.place: panel for panel in layout.panels}
    for place in ((r, c) for r in range(rows) for c in range(columns)):
        axes = grid[place]
        if place not in at:
            axes.axis("off")
            continue
        draw_panel(axes, at[place], layout, over.get(at[place].key), width)
        write_labels(axes, at, place)
    for alike in dict.fromkeys((panel.y_label, panel.group) for panel in layout.panels):
        set_limits(grid, [panel for panel in layout.panels if (panel.y_label, panel.group) == alike], over)
    _shared_label(figure, grid, layout.panels)
    _legend(figure, layout, bool(over))
    return figure


def overlay(layout: Layout, published: Layout | None) -> Overlay:
    """Return, by the key of our panels, the published panel with the curves that ours has, too.

    Of those, what lies within the panel's own x axis.
    """
    found: Overlay = {}
    theirs = {panel.key: panel for panel in (published.panels if published else ())}
    for panel in layout.panels:
        own = {c.key for c in panel.curves}
        other = theirs.get(panel.key)
        places = [x for c in panel.curves for x in c.x]
        ends = min(places), max(places)
        kept = tuple(c.within(*ends) for c in other.curves if c.key in own) if other else ()
        kept = tuple(c for c in kept if c.x)
        if other is not None and kept and len(other.ticks) == len(panel.ticks):
            found[panel.key] = Panel(panel.key, panel.place, kept, panel.x_label, panel.y_label)
    return found


def _panel_size(columns: int) -> tuple[float, float]:
    """Return the size of a panel in inches, so that the figure fits a page of two columns."""
    return {1: (3.6, 2.7), 2: (3.0, 2.3), 3: (2.5, 2.0)}.get(columns, (max(1.45, 7.6 / columns), 1.65))


def _shared_label(figure: "Figure", grid: Any, panels: Sequence[Panel]) -> None:
    """Write the y label once where all panels have the same and there are several rows of them."""
    if len({panel.y_label for panel in panels}) == 1 and len({panel.place[0] for panel in panels}) > 1:
        for panel in panels:
            grid[panel.place].set_ylabel("")
        middle = 0.5 + 0.3 / figure.get_figheight()  # the legend is below the panels
        figure.supylabel(panels[0].y_label, y=middle, fontsize=9, color=INK)


def _legend(figure: "Figure", layout: Layout, published: bool) -> None:
    """Put one legend below the panels, which also says what the bars are."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=label, **look.options()) for label, look in layout.looks.values()]
    if any(panel.teacher for panel in layout.panels):
        handles.append(Line2D([], [], color=INK, linewidth=0.9, label="teacher"))
    if layout.level_label and any(panel.level is not None for panel in layout.panels):
        handles.append(Line2D([], [], color=GREY, linewidth=0.8, label=layout.level_label))
    if published:
        handles.append(Line2D([], [], color=GREY, marker="o", label="published", **RING))
    few, many = layout.seeds
    count = f"{many}" if few == many else f"{few} to {many}"
    bars = f"Means over {count} seeds; error bars: 2 standard errors" if many > 1 else "One seed"
    lines = ceil(len(handles) / max(2, int(figure.get_figwidth() / 1.25)))
    look: Any = {"frameon": False, "fontsize": 8, "handlelength": 3.2, "columnspacing": 1.2}
    place: Any = {"loc": "outside lower center", "ncols": ceil(len(handles) / lines)}
    figure.legend(handles=handles, title=bars, title_fontsize=7.5, **place, **look)


# One panel: curves, ticks, labels and limits


def draw_panel(axes: "Axes", panel: Panel, layout: Layout, published: Panel | None, width: float) -> None:
    """Draw a panel's curves.

    Args:
        axes: Where.
        panel: What it shows.
        layout: Of the figure, for the looks of the curves.
        published: The published curves to lay over.
        width: The panel's width in inches, which decides how many ticks are named.
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
        ring = {"color": look.colour, "marker": look.marker, "label": f"published {own.key}"} | RING
        axes.plot(own.x, own.mean, zorder=4, **ring)
    tidy(axes, panel.title, 8.5)
    _ticks(axes, panel, width)


def _curve(axes: "Axes", own: Curve, look: Look, zorder: float) -> None:
    below = [m - low for m, low in zip(own.mean, own.low, strict=True)]
    above = [high - m for m, high in zip(own.mean, own.high, strict=True)]
    style = {"elinewidth": 0.8, "capsize": 1.5, "zorder": zorder} | look.options(3.6)
    axes.errorbar(own.x, own.mean, yerr=[below, above], label=own.key, **style)


def _ticks(axes: "Axes", panel: Panel, width: float) -> None:
    """Put ticks at the values that there are, as many as fit."""
    from matplotlib.ticker import NullLocator

    if panel.ticks:
        turned = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
        how: dict[str, Any] = turned if max(map(len, panel.ticks)) > 3 else {}
        axes.set_xticks(range(len(panel.ticks)), panel.ticks, **how)
        return
    values = sorted({x for c in panel.curves for x in c.x})
    if panel.x_scale == "log":
        axes.set_xticks(values, _thinned([f"{value:g}" for value in values], width))
        axes.xaxis.set_minor_locator(NullLocator())
        edge = (values[-1] / values[0]) ** 0.06 if len(values) > 1 else 2
        axes.set_xlim(values[0] / edge, values[-1] * edge)


def _thinned(names: Sequence[str], width: float) -> list[str]:
    """Leave out names where there are too many for so many inches, the last one kept."""
    step = max(1, ceil(sum(0.06 * len(name) + 0.1 for name in names) / width))
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
        how: Any = {"xycoords": "axes fraction", "rotation": 270, "ha": "left", "va": "center"}
        axes.annotate(panel.row_title, (1.04, 0.5), fontsize=8, color=INK, **how)


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
        margin = max((high / low) ** 0.05, 1.1)
        limits = low / margin, high * margin
    else:
        low, high = min(chain(means, ends)), max(chain(means, ends))
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
        limits = low - margin, high + margin
    for panel in panels:
        grid[panel.place].set_ylim(*limits)
