"""Figures of equal panels with a key below, laid out in inches; and one panel for each task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lit_aux.figures.style import INK, SETUPS, Look, new_figure, ordered_looks, save, tidy
from lit_aux.trajectories.reading import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SINGLE = "single-task"

_LEFT, _RIGHT, _TOP, _LABEL = 0.75, 0.1, 0.55, 0.55  # inches; the last is below the panels
_LINE = 0.16  # inches of a line of the key
_ENTRY = 1.35  # inches of an entry of the key
_MARKS = 5  # on a curve, so that curves are told apart without colour


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
    from matplotlib.lines import Line2D

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
    hidden: dict[str, Any] = {} if lines else {"linestyle": "none"}
    handles = [Line2D([], [], label=name, **look.options() | hidden) for name, look in looks]
    place: Any = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.0), "borderaxespad": 0.0, "ncols": across}
    font: Any = {"fontsize": 8, "labelcolor": INK, "title_fontproperties": {"size": 7.5}, "frameon": False}
    length = 3.2 if lines else 1.0
    legend = figure.legend(handles=handles, title="\n".join(text), handlelength=length, **place, **font)
    legend.get_title().set_multialignment("center")
    legend.get_title().set_color(INK)
    return Canvas(figure, axes[:panels], columns)


@dataclass(frozen=True)
class Line:
    """A curve over several runs.

    Attributes:
        name: Of the kind of run.
        x: Places, in the order in which they were passed.
        mean: The mean over runs.
        low: Two standard deviations below it; NaN of one run.
        high: Two standard deviations above it; NaN of one run.
        clear: Where it differs significantly from the single-task runs; nothing for these.
    """

    name: str
    x: Floats
    mean: Floats
    low: Floats
    high: Floats
    clear: tuple[Floats, ...] = ()


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """Return how single-task runs and those of each method are drawn, the same in every picture."""
    single, multi = SETUPS["STL"], SETUPS["MTL"]
    others = iter(ordered_looks(1 + len(methods)))  # the last, which is the lightest, is left
    found = {SINGLE: single._replace(marker="s")}
    for method in methods:
        found[method] = multi if method == "MTL" or len(methods) == 1 else next(others)
    return found


def draw_grid(
    path: Path,
    panels: Mapping[str, Sequence[Line]],
    how: Mapping[str, Look],
    *,
    labels: tuple[str, str],
    title: str,
    note: str,
    log_x: bool = False,
    log_y: bool = False,
) -> Path:
    """Draw a panel for each task.

    Args:
        path: The file.
        panels: Curves by task.
        how: The look of each kind of run.
        labels: Of the x and y axes.
        title: Above all panels.
        note: Below them, beside the legend.
        log_x: Whether x is a loss, on a logarithmic axis that falls to the right.
        log_y: Whether y is on a logarithmic axis.
    """
    columns = min(len(panels), 3 if len(panels) <= 6 else max(4, ceil(sqrt(len(panels)))))
    names = [name for name in how if any(name == line.name for lines in panels.values() for line in lines)]
    size, used = (2.6, 1.9) if columns <= 3 else (1.9, 1.35), [(name, how[name]) for name in names]
    made = canvas(len(panels), columns, size, (0.2, 0.5), title, used, [note], lines=True)
    for axes, (task, lines) in zip(made.axes, panels.items(), strict=True):
        _panel(axes, task, lines, how)
        if log_y:
            _log_axis(axes)
        if log_x:
            _loss_axis(axes)
    _share(made.axes, columns, labels[0])
    middle = (made.axes[0].get_position().y1 + made.axes[-1].get_position().y0) / 2
    made.figure.supylabel(labels[1], x=0.1 / made.figure.get_figwidth(), y=middle, fontsize=9, color=INK)
    return save(made.figure, path, palette=True)


def _share(used: Sequence["Axes"], columns: int, label: str) -> None:
    """Give all panels the same y axis, named at the left, and label x where no panel is below."""
    ends = [axes.get_ylim() for axes in used]
    for number, axes in enumerate(used):
        axes.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
        axes.tick_params(labelleft=number % columns == 0)
        if number + columns >= len(used):
            axes.set_xlabel(label, fontsize=8)


def _panel(axes: "Axes", task: str, lines: Sequence[Line], how: Mapping[str, Look]) -> None:
    for number, line in enumerate(lines):
        look = how[line.name]
        if not np.isnan(line.low).any():
            axes.fill_between(line.x, line.low, line.high, color=look.colour, alpha=0.18, linewidth=0)
        every = max(1, len(line.x) // _MARKS)
        style = look.options(3.2) | {"linewidth": 1.3, "markevery": (every // 2, every)}
        axes.plot(line.x, line.mean, label=line.name, **style)
        bar: dict[str, Any] = {"color": look.colour, "linewidth": 2.2, "solid_capstyle": "butt"}
        bar |= {"transform": axes.get_xaxis_transform(), "label": f"clear {line.name}"}
        for part in line.clear:  # along the lower edge, one line above the other
            axes.plot(part, np.full(len(part), 0.02 + 0.025 * (number - 1)), **bar)
    tidy(axes, task, 8.5)


def _loss_axis(axes: "Axes") -> None:
    """Make x a loss that falls to the right, with as many ticks as fit."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, high), min(low, high))
    decades = abs(np.log10(high / low))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2 else (1.0, 3.0), numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _log_axis(axes: "Axes") -> None:
    """Make y logarithmic, with a named tick at each decade, or more where there are few decades."""
    from matplotlib.ticker import NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
