"""Draws the layout of a figure, with published curves over it."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_aux.figures.axes import RING, Overlay, draw_panel, set_limits, write_labels
from lit_aux.figures.layout import Layout
from lit_aux.figures.panel import Panel
from lit_aux.figures.style import GREY, INK, new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(layout: Layout, path: Path, published: Layout | None = None) -> Path:
    """Draw a figure and write it.

    Args:
        layout: What it shows.
        path: Of :func:`~lit_aux.figures.style.picture_path`.
        published: The same figure of published rows; those of its curves that the figure has, too, are laid
            over, dashed.

    Returns:
        The path.

    Raises:
        ConfigurationError: If the file cannot be written.
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
    return save(figure, path, palette=True)


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

    handles = [
        Line2D(
            [],
            [],
            color=look.colour,
            marker=look.marker,
            linestyle=look.line,
            linewidth=1.4,
            markersize=4.5,
            markeredgewidth=0.4,
            markeredgecolor="white",
            label=label,
        )
        for label, look in layout.looks.values()
    ]
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
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=ceil(len(handles) / lines),
        frameon=False,
        fontsize=8,
        handlelength=3.2,
        columnspacing=1.2,
        title=bars,
        title_fontsize=7.5,
    )
