"""Draws the layout of a figure, with published curves over it."""

from collections.abc import Sequence
from itertools import chain
from math import ceil, isfinite, log10
from textwrap import wrap
from typing import TYPE_CHECKING, Any, TypeAlias

from lit_aux.drawing.layout import Curve, Layout, Panel
from lit_aux.drawing.style import GREY, INK, PUBLISHED, Look, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lit_aux.drawing.picture import Picture

Overlay: TypeAlias = dict[tuple[Any, ...], Panel]
"""Published panels by the key of ours."""
_HOLLOW = {"markersize": 6.0, "markerfacecolor": "none", "markeredgewidth": 0.7}
RING: dict[str, Any] = {"linestyle": PUBLISHED, "linewidth": 0.9} | _HOLLOW
"""Of published curves: markers around ours, so that both are seen where they agree."""
_MANY = 25
"""From how many places on a curve has few markers, and its axis no tick at each."""


def draw(layout: Layout, published: Layout | None = None) -> "Picture":
    """Draw a figure.

    Args:
        layout: What it shows.
        published: The same figure of published rows; those of its curves that the figure has, too, are laid
            over, dashed.
    """
    over = overlay(layout, published)
    at = {panel.place: panel for panel in layout.panels}
    rows, columns = (1 + max(place[axis] for place in at) for axis in (0, 1))
    width, plain = (layout.scale * length for length in _panel_size(columns))
    heights = [max(_height(p, plain) for p in layout.panels if p.place[0] == row) for row in range(rows)]
    across = width * columns + 0.7
    if any(panel.rows for panel in layout.panels):
        across = 3.6 * columns + 3.2  # names at one side, columns of text at the other
        width = 4.0
    key = _Key(layout, bool(over), across)
    figure = new_figure(across, sum(heights) + key.height)
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.04, wspace=0.02, hspace=0.02)
    grid = figure.subplots(rows, columns, squeeze=False, height_ratios=heights, width_ratios=layout.widths)
    for place, axes in ((p, grid[p]) for p in ((r, c) for r in range(rows) for c in range(columns))):
        if place not in at:
            axes.axis("off")
            continue
        draw_panel(axes, at[place], layout, over.get(at[place].key), width)
        write_labels(axes, at, place)
    for alike in dict.fromkeys((panel.y_label, panel.group) for panel in layout.panels):
        set_limits(grid, [panel for panel in layout.panels if (panel.y_label, panel.group) == alike], over)
    for panel in layout.panels:
        for mark in panel.marks:
            mark.draw(grid[panel.place])
    _shared_label(figure, grid, layout.panels, key.height)
    if layout.title:
        figure.suptitle(layout.title, x=0.01, ha="left", fontsize=10, color=INK)
    key.draw(figure)
    return figure


def overlay(layout: Layout, published: Layout | None) -> Overlay:
    """Return, by the key of our panels, the published panel with the curves that ours has, too.

    Of those, what lies within the panel's own x axis.
    """
    found: Overlay = {}
    theirs = {panel.key: panel for panel in (published.panels if published else ())}
    for panel in layout.panels:
        other = theirs.get(panel.key)
        if other is None or len(other.ticks) != len(panel.ticks):
            continue
        own = {c.key for c in panel.curves}
        places = [x for c in panel.curves for x in c.x]
        kept = tuple(c.within(min(places), max(places)) for c in other.curves if c.key in own)
        if kept := tuple(c for c in kept if c.x):
            found[panel.key] = Panel(panel.key, panel.place, kept, panel.x_label, panel.y_label)
    return found


def _panel_size(columns: int) -> tuple[float, float]:
    """Return the size of a panel in inches, so that the figure fits a page of two columns."""
    return {1: (3.6, 2.7), 2: (3.0, 2.3), 3: (2.5, 2.0)}.get(columns, (max(1.45, 7.6 / columns), 1.65))


def _height(panel: Panel, plain: float) -> float:
    """Return the height of a panel: a line for each of its rows, if it has such."""
    return 0.27 * len(panel.rows) + 0.5 if panel.rows else plain


def _shared_label(figure: "Picture", grid: Any, panels: Sequence[Panel], below: float) -> None:
    """Write the y label once where all panels have the same and there are several rows of them."""
    if len({panel.y_label for panel in panels}) == 1 and len({panel.place[0] for panel in panels}) > 1:
        for panel in panels:
            grid[panel.place].set_ylabel("")
        middle = 0.5 + below / 3 / figure.get_figheight()  # the legend is below the panels
        figure.supylabel(panels[0].y_label, y=middle, fontsize=8.5, color=INK)


class _Key:
    """One legend below the panels, with a caption that says what bars are."""

    def __init__(self, layout: Layout, published: bool, width: float) -> None:
        self.handles = _handles(layout, published)
        few, many = layout.seeds
        count = f"{many}" if few == many else f"{few} to {many}"
        bars = f"Means over {count} seeds; error bars: 2 standard errors" if many > 1 else "One seed"
        text = ("" if not many else bars) if layout.caption is None else layout.caption
        self.lines = [part for line in text.split("\n") for part in wrap(line, int(16 * width))]
        longest = max((len(str(handle.get_label())) for handle in self.handles), default=0)
        across = max(1, int(width / (0.65 + 0.06 * longest)))
        self.rows = ceil(len(self.handles) / across)
        self.height = 0.55 + 0.18 * self.rows + 0.14 * len(self.lines) + 0.25 * bool(layout.title)

    def draw(self, figure: "Picture") -> None:
        """Draw it."""
        if not self.handles and not self.lines:
            return
        ncols = ceil(len(self.handles) / self.rows) if self.handles else 1
        look: Any = {"frameon": False, "fontsize": 8, "handlelength": 3.2, "columnspacing": 1.2}
        look |= {"title": "\n".join(self.lines), "title_fontsize": 7.5, "labelcolor": INK}
        legend = figure.legend(handles=self.handles, loc="outside lower center", ncols=ncols, **look)
        legend.get_title().set(multialignment="center", color=INK)


def _handles(layout: Layout, published: bool) -> list[Any]:
    """Return the entries of the legend."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    found: list[Any] = [
        Line2D([], [], label=name, **look.options(4.5)) for name, look in layout.looks.values()
    ]
    if any(panel.teacher for panel in layout.panels):
        found.append(Line2D([], [], color=INK, linewidth=0.9, label="teacher"))
    if layout.level_label:
        found.append(Line2D([], [], color=GREY, linewidth=0.8, label=layout.level_label))
    if published:
        found.append(Line2D([], [], color=GREY, marker="o", label="published", **RING))
    return found + [Patch(fc=colour, ec=GREY, lw=0.5, label=name) for name, colour in layout.patches]


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
    curves = {c.key: c for c in panel.curves}
    for depth, key in enumerate(reversed([key for key in layout.looks if key in curves])):
        _curve(axes, curves[key], layout.looks[key][1], panel.bands, 2 + 0.01 * depth)
    for own in published.curves if published else ():
        look = layout.looks[own.key][1]
        ring = {"color": look.colour, "marker": look.marker, "label": f"published {own.key}"} | RING
        axes.plot(own.x, own.mean, zorder=4, **ring)
    tidy(axes, panel.title, bold=panel.bold)
    _ticks(axes, panel, width)


def _curve(axes: "Axes", own: Curve, look: Look, bands: bool, zorder: float) -> None:
    """Draw a curve; solid lines lie below dashed ones, and larger markers below smaller ones."""
    depth = zorder + (4 - look.size) / 10 - 0.4 * (look.line == "-")
    style = look.options() | {"label": own.key, "zorder": depth}
    if own.low and not bands:
        below = [m - low for m, low in zip(own.mean, own.low, strict=True)]
        above = [high - m for m, high in zip(own.mean, own.high, strict=True)]
        axes.errorbar(own.x, own.mean, yerr=[below, above], elinewidth=0.8, capsize=1.5, **style)
        return
    if any(map(isfinite, own.low)):
        axes.fill_between(own.x, own.low, own.high, color=look.colour, alpha=0.18, linewidth=0)
    every = max(1, len(own.x) // 5) if len(own.x) > _MANY else 1
    axes.plot(own.x, own.mean, markevery=(every // 2, every), **style)


def _ticks(axes: "Axes", panel: Panel, width: float) -> None:
    """Put ticks at the values that there are, as many as fit."""
    from matplotlib.ticker import LogLocator, NullLocator

    if panel.rows:
        axes.set_yticks(range(len(panel.rows)), panel.rows)
        axes.set_ylim(len(panel.rows) - 0.5, -0.5)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0, labelsize=8)
    if panel.x_ends is not None:
        axes.set_xlim(*panel.x_ends)
    if panel.ticks:
        turned = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
        how: dict[str, Any] = turned if max(map(len, panel.ticks)) > 3 else {}
        axes.set_xticks(range(len(panel.ticks)), panel.ticks, **how)
        return
    values = sorted({x for c in panel.curves for x in c.x})
    if panel.x_scale != "log" or not values:
        return
    axes.xaxis.set_minor_locator(NullLocator())
    if len(values) > _MANY or panel.rows:
        low, high = sorted(axes.get_xlim())
        close = log10(high / low) < width
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if close else (1,), numticks=9))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        return
    axes.set_xticks(values, _thinned([f"{value:.4g}" for value in values], width))
    if panel.x_ends is None:
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
    elif left.group == panel.group and not panel.rows:
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
    means = [m for c in shown for m in c.mean if isfinite(m)]
    if not means or panels[0].rows or panels[0].y_ends:
        for panel in panels:
            if panel.y_ends:
                grid[panel.place].set_ylim(*panel.y_ends)
        return
    ends = [e for e in chain.from_iterable((*c.low, *c.high) for c in shown) if isfinite(e)]
    ends += [panel.level for panel in panels if panel.level is not None]
    if panels[0].y_scale == "log":
        means = [m for m in means if m > 0] or [1.0]
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
