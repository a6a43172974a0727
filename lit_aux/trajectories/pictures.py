"""The pictures of ``lit-aux trajectories``."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lit_aux.figures.style import GREY, INK, SETUPS, Look, new_figure, ordered_looks, save, tidy
from lit_aux.trajectories.analysis import Analysis, TaskAnalysis
from lit_aux.trajectories.factors import Factor
from lit_aux.trajectories.gap import Band, band, overlap
from lit_aux.trajectories.reading import Floats, Series
from lit_aux.trajectories.transfer import loss_paths

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SINGLE = "single-task"

_LEFT, _RIGHT, _TOP, _LABEL = 0.75, 0.1, 0.55, 0.55  # inches; the last is below the panels
_LINE = 0.16  # inches of a line of the key
_ENTRY = 1.35  # inches of an entry of the key
_MARKS = 5  # on a curve, so that curves are told apart without colour
MINUS = "\N{MINUS SIGN}"
NO_BREAK = "\N{NO-BREAK SPACE}"
_SPAN = 20  # from which ratio of values on an axis is logarithmic
_WITH_BARS = 10  # most points of a panel at which bars can be told apart
_GROUND = "#eceff3"
_SIZE = (2.5, 2.0)  # of a panel in inches
_NUMBER = (9.0, 7.5)  # of a number of two digits, in points
_PLACES = tuple(
    (side * (7.0 + 11.0 * step), rise)
    for step in range(5)
    for rise in (3.0, -3.0, 9.0, -9.0, 16.0, -16.0)
    for side in (1, -1)
)
"""From the nearest to the farthest: offsets of a number's middle from its point, in points."""


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


def draw(found: Analysis, folder: Path, kind: str = "png") -> Iterator[Path]:
    """Draw every picture, yielding each when it is written.

    Args:
        found: What is drawn.
        folder: Where.
        kind: The format: ``png``, ``svg`` or ``pdf``.
    """
    how = looks(list(found.study.multi))
    yield _draw_gap(found, folder / f"gap.{kind}", how)
    for factor in found.factors:
        yield _draw_factor(found, factor, folder / f"{factor.measure}.{kind}", how)
    if found.factors:
        yield draw_changes(found, folder / f"change.{kind}", how)


def _draw_gap(found: Analysis, path: Path, how: dict[str, Look]) -> Path:
    panels = {task: list(_loss_lines(found, task)) for task in found.study.tasks}
    bars = any(line.clear for lines in panels.values() for line in lines)
    clear = "; bars at the foot: losses at which intervals do not overlap" if bars else ""
    title, note = f"Test {found.metric} at the same training loss", f"{_over(found)}{clear}"
    labels = "training loss", f"test {found.metric}"
    return draw_grid(path, panels, how, labels=labels, title=title, note=note, log_x=True)


def _loss_lines(found: Analysis, task: str) -> Iterator[Line]:
    """Yield a task's curves over the losses that all runs of a kind passed through."""
    kinds = [(SINGLE, found.study.single[task]), *found.study.multi.items()]
    gaps = {result.method: result.gap for result in found.results if result.task == task}
    for name, runs in kinds:
        paths = loss_paths(runs, task, found.metric)
        losses = overlap(paths)
        if losses is None:
            continue
        drawn = band(paths, losses)
        gap = gaps.get(name)
        clear = () if gap is None else tuple(_stretches(gap.single.loss, gap.significant))
        mean, two_sd = drawn.mean, drawn.two_sd
        yield Line(name, drawn.loss, mean, mean - two_sd, mean + two_sd, clear)


def _stretches(x: Floats, which: NDArray[np.bool_]) -> Iterator[Floats]:
    """Yield the ends of every stretch of places where something holds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], which.astype(np.int8), [0]])))
    for first, end in edges.reshape(-1, 2):
        yield x[[first, end - 1]]


def _draw_factor(found: Analysis, factor: Factor, path: Path, how: dict[str, Look]) -> Path:
    kinds = [
        (task, name, [run.series[key] for run in runs if (key := (task, factor.measure)) in run.series])
        for task in found.study.tasks
        for name, runs in ((SINGLE, found.study.single[task]), *found.study.multi.items())
    ]
    values = np.concatenate([own.value for *_, series in kinds for own in series])
    log = bool(values.min() > 0 and values.max() > _SPAN * values.min())
    panels: dict[str, list[Line]] = {task: [] for task in found.study.tasks}
    for task, name, series in kinds:
        line = _over_epochs(name, series, log)
        panels[task] += [] if line is None else [line]
    title = f"{factor.title[0].upper()}{factor.title[1:]} over training"
    note = f"{_over(found)}{', of the logarithm' if log and _counts(found)[1] > 1 else ''}"
    return draw_grid(path, panels, how, labels=("epoch", factor.title), title=title, note=note, log_y=log)


def _over_epochs(name: str, series: Sequence[Series], log: bool) -> Line | None:
    """Return the mean of a measure at the epochs at which every run measured it.

    Args:
        name: Of the kind of run.
        series: Of each run.
        log: Whether the mean is geometric, and its interval that of the logarithm.
    """
    by_epoch = [dict(zip(own.epoch.tolist(), own.value.tolist(), strict=True)) for own in series]
    epochs = sorted(set.intersection(*map(set, by_epoch))) if by_epoch else []
    if not epochs:
        return None
    values = np.array([[own[epoch] for epoch in epochs] for own in by_epoch])
    drawn = Band(np.array(epochs, float), np.log(values) if log else values)
    ends = [drawn.mean, drawn.mean - drawn.two_sd, drawn.mean + drawn.two_sd]
    return Line(name, drawn.loss, *(np.exp(ends) if log else ends))


def _counts(found: Analysis) -> tuple[int, int]:
    """Return the fewest and the most runs of a kind."""
    kinds = (*found.study.single.values(), *found.study.multi.values())
    return min(map(len, kinds)), max(map(len, kinds))


def _over(found: Analysis) -> str:
    """Say what the bands are."""
    few, many = _counts(found)
    seeds = f"{many}" if few == many else f"{few} to {many}"
    return f"Means over {seeds} runs; bands: 2 standard deviations" if many > 1 else "One run of each"


# The change of each factor against the transfer, a point for each task


def draw_changes(found: Analysis, path: Path, how: Mapping[str, Look]) -> Path:
    """Draw a panel for each factor.

    A point is filled where change and transfer are both significant. Where the change has the sign that
    would explain the transfer the background is grey. For few points there are bars, as long as the
    difference by which the two intervals would just touch: one that does not reach its thin line is of a
    significant difference.

    Args:
        found: What is drawn.
        path: The file.
        how: The look of each method.
    """
    factors = found.factors
    bars = len(found.results) <= _WITH_BARS
    several = len(found.study.multi) > 1
    title = "Change of each factor against the transfer, a point for each task"
    key = [(method, how[method]) for method in found.study.multi if several]
    size = len(factors), min(3, len(factors)), _SIZE, (0.65, 0.75)
    made = canvas(*size, title, key, _explained(found, bars), lines=False)
    for number, (axes, factor) in enumerate(zip(made.axes, factors, strict=True)):
        _change_panel(axes, factor, found, how, bars)
        if number % made.columns == 0:
            axes.set_ylabel(f"transfer: {found.metric}, multi {MINUS} single", fontsize=8)
    return save(made.figure, path, palette=True)


def _change_panel(axes: "Axes", factor: Factor, found: Analysis, how: Mapping[str, Look], bars: bool) -> None:
    results = [result for result in found.results if factor.measure in result.factors]
    for result in results:
        _point(axes, result, factor, how[result.method], bars)
    _limits(axes)
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    if factor.sign:
        _shade(axes, factor.sign if found.higher else -factor.sign)
    points = [(r.factors[factor.measure].change, r.transfer.change) for r in results]
    numbers = [str(found.study.tasks.index(r.task) + 1) for r in results]
    write_numbers(axes, points, numbers, (72 * _SIZE[0], 72 * _SIZE[1]))
    tidy(axes, factor.title, 9)
    axes.set_xlabel(f"change, multi {MINUS} single", fontsize=8)
    axes.locator_params(axis="x", nbins=6)
    axes.ticklabel_format(axis="x", scilimits=(-2, 3))
    axes.xaxis.get_offset_text().set_fontsize(7)


def _point(axes: "Axes", result: TaskAnalysis, factor: Factor, look: Look, bars: bool) -> None:
    change, moved = result.factors[factor.measure], result.transfer
    both = change.significant and moved.significant
    reach = {"xerr": change, "yerr": moved}
    errors: Any = {name: [one.reach] for name, one in reach.items() if bars and one.known}
    style: Any = {"color": look.colour, "markerfacecolor": look.colour if both else "white"}
    style |= {"markersize": 4.5, "markeredgewidth": 0.9, "elinewidth": 0.6, "zorder": 3}
    label = f"{result.method} {result.task}"
    axes.errorbar([change.change], [moved.change], fmt=look.marker, label=label, **errors, **style)


def _limits(axes: "Axes") -> None:
    """Let both axes reach beyond 0, so that all four quarters are seen."""
    for ends, set_ends in ((axes.get_xlim(), axes.set_xlim), (axes.get_ylim(), axes.set_ylim)):
        low, high = min(*ends, 0), max(*ends, 0)
        margin = 0.12 * (high - low)
        set_ends(low - margin, high + margin)


def _shade(axes: "Axes", sign: int) -> None:
    """Give the two quarters in which the change would explain the transfer a grey ground."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    better, worse = ((0, right), (left, 0)) if sign > 0 else ((left, 0), (0, right))
    axes.fill_between(better, 0, high, color=_GROUND, linewidth=0, zorder=0)
    axes.fill_between(worse, low, 0, color=_GROUND, linewidth=0, zorder=0)
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)


def _explained(found: Analysis, bars: bool) -> list[str]:
    """Say what is drawn, and which task has which number."""
    text = "Grey ground: the sign would explain the transfer. Filled: change and transfer are significant"
    text += ", neither bar reaches its line." if bars else "."
    tasks = (task.replace(" ", NO_BREAK) for task in found.study.tasks)
    return [text, "   ".join(f"{number}{NO_BREAK}{task}" for number, task in enumerate(tasks, 1))]


def write_numbers(
    axes: "Axes", points: Sequence[tuple[float, float]], numbers: Sequence[str], size: tuple[float, float]
) -> None:
    """Write a number at each point, each at the nearest place that no other number or point has.

    Args:
        axes: Where; its limits are set.
        points: In the units of the axes.
        numbers: What to write.
        size: Width and height of the panel in points.
    """
    from matplotlib.patheffects import withStroke

    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    on_page = [((x - left) / (right - left) * size[0], (y - low) / (high - low) * size[1]) for x, y in points]
    written: list[tuple[float, float]] = []
    for index, (number, point, (x, y)) in enumerate(zip(numbers, points, on_page, strict=True)):
        taken = [*on_page[:index], *on_page[index + 1 :], *written]
        free = [
            (dx, dy)
            for dx, dy in _PLACES
            if 4 < x + dx < size[0] - 4
            and not any(abs(x + dx - a) < _NUMBER[0] and abs(y + dy - b) < _NUMBER[1] for a, b in taken)
        ]
        dx, dy = free[0] if free else _PLACES[0]
        written.append((x + dx, y + dy))
        place: Any = {"xytext": (dx, dy), "textcoords": "offset points", "ha": "center", "va": "center"}
        line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.4} if abs(dx) > 8 else None
        text = axes.annotate(number, point, fontsize=6.5, color=INK, zorder=4, arrowprops=line, **place)
        text.set_path_effects([withStroke(linewidth=1.5, foreground="white")])


# Figures of equal panels with a key below, laid out in inches


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
