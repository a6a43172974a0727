"""Pictures of a comparison of trajectories: of an analysis, each a figure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lit_aux.drawing.engine import draw
from lit_aux.drawing.layout import Curve, Layout, Panel, side_by_side
from lit_aux.drawing.style import GREY, INK, MINUS, SETUPS, Look, ordered_looks
from lit_aux.figures.results import Drawn
from lit_aux.trajectories.analysis import Analysis, TaskAnalysis
from lit_aux.trajectories.factors import Factor
from lit_aux.trajectories.gap import Band, band, overlap
from lit_aux.trajectories.reading import Floats, Series
from lit_aux.trajectories.transfer import loss_paths

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lit_aux.drawing.picture import Picture

SINGLE = "single-task"
_NO_BREAK = "\N{NO-BREAK SPACE}"
_SPAN = 20  # from which ratio of values on an axis is logarithmic
_WITH_BARS = 10  # most points of a panel at which bars can be told apart
_GROUND = "#e6eaf0"


def figures_of_study(found: Analysis) -> Iterator[Drawn]:
    """Yield every figure of an analysis: the gap, each factor over training, and their changes."""
    yield Drawn("gap", f"Test {found.metric} at the same training loss", draw_gap(found), ())
    for factor in found.factors:
        yield Drawn(factor.measure, _title(factor), draw_measure(found, factor), ())
    if found.factors:
        yield Drawn("change", _CHANGE, draw_change(found), ())


def draw_gap(found: Analysis) -> "Picture":
    """Draw the test metric against the training loss, which falls to the right, a panel for each task.

    Bands are two standard deviations over runs; bars at the foot are losses at which those of single-task
    and multi-task runs do not overlap.

    Args:
        found: What :func:`~lit_aux.trajectories.analysis.analyse` returned.
    """
    looks = _looks(found)
    panels, clear = [], False
    for task, place in zip(found.study.tasks, side_by_side(len(found.study.tasks)), strict=True):
        curves = list(_by_loss(found, task))
        gaps = {r.method: r.gap for r in found.results if r.task == task and r.gap is not None}
        feet = {
            method: parts
            for method, gap in gaps.items()
            if (parts := list(_stretches(gap.single.loss, gap.significant)))
        }
        clear |= bool(feet)
        losses = [x for curve in curves for x in curve.x] or [1.0, 0.1]
        margin = (max(losses) / min(losses)) ** 0.04
        ends: Any = {"x_ends": (max(losses) * margin, min(losses) / margin), "y_scale": "linear"}
        marks = (_Feet(feet, {method: looks[method] for method in feet}),)
        labels = "training loss", f"test {found.metric}", task
        panels.append(Panel((task,), place, tuple(curves), *labels, bands=True, marks=marks, **ends))
    note = "; bars at the foot: losses at which intervals do not overlap" if clear else ""
    title = f"Test {found.metric} at the same training loss"
    return _drawn(panels, looks, title, _over(found) + note)


def draw_measure(found: Analysis, factor: Factor) -> "Picture":
    """Draw a factor against the epoch, a panel for each task.

    Args:
        found: What :func:`~lit_aux.trajectories.analysis.analyse` returned.
        factor: One of its factors.
    """
    values = np.concatenate(
        [s.value for task in found.study.tasks for _, own in _kinds(found, task, factor) for s in own]
    )
    log = bool(values.min() > 0 and values.max() > _SPAN * values.min())
    panels = []
    for task, place in zip(found.study.tasks, side_by_side(len(found.study.tasks)), strict=True):
        curves = [_over_epochs(name, own, log) for name, own in _kinds(found, task, factor)]
        how: Any = {"x_scale": "linear", "y_scale": "log" if log else "linear", "bands": True}
        shown = tuple(curve for curve in curves if curve is not None)
        panels.append(Panel((task,), place, shown, "epoch", factor.title, task, **how))
    note = ", of the logarithm" if log and _counts(found)[1] > 1 else ""
    return _drawn(panels, _looks(found), _title(factor), _over(found) + note)


def _drawn(panels: Sequence[Panel], looks: Mapping[str, Look], title: str, caption: str) -> "Picture":
    names = {curve.key for panel in panels for curve in panel.curves}
    used = {name: (name, look) for name, look in looks.items() if name in names}
    return draw(Layout(tuple(panels), 0, used, title=title, caption=caption))


def _title(factor: Factor) -> str:
    return f"{factor.title[0].upper()}{factor.title[1:]} over training"


def _kinds(found: Analysis, task: str, factor: Factor) -> list[tuple[str, list[Series]]]:
    """Return a factor's values in the runs of each kind that measured it."""
    key = task, factor.measure
    kinds = (SINGLE, found.study.single[task]), *found.study.multi.items()
    return [(name, [run.series[key] for run in runs if key in run.series]) for name, runs in kinds]


def _by_loss(found: Analysis, task: str) -> Iterator[Curve]:
    """Yield a task's curves over the losses that all runs of a kind passed through."""
    for name, runs in ((SINGLE, found.study.single[task]), *found.study.multi.items()):
        paths = loss_paths(runs, task, found.metric)
        losses = overlap(paths)
        if losses is not None:
            yield _curve(name, band(paths, losses))


def _over_epochs(name: str, series: Sequence[Series], log: bool) -> Curve | None:
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
    return _curve(name, Band(np.array(epochs, float), np.log(values) if log else values), log)


def _curve(name: str, drawn: Band, log: bool = False) -> Curve:
    ends = [drawn.mean, drawn.mean - drawn.two_sd, drawn.mean + drawn.two_sd]
    columns = (drawn.loss, *(np.exp(ends) if log else ends))
    return Curve(name, *(tuple(column.tolist()) for column in columns))


def _stretches(x: Floats, which: NDArray[np.bool_]) -> Iterator[Floats]:
    """Yield the ends of every stretch of places where something holds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], which.astype(np.int8), [0]])))
    for first, end in edges.reshape(-1, 2):
        yield x[[first, end - 1]]


def _looks(found: Analysis) -> dict[str, Look]:
    """Return how single-task runs and those of each method are drawn, the same in every picture."""
    methods = list(found.study.multi)
    others = iter(ordered_looks(1 + len(methods)))  # the last, which is the lightest, is left
    looks = {SINGLE: SETUPS["STL"]}
    for method in methods:
        looks[method] = SETUPS["MTL"] if method == "MTL" or len(methods) == 1 else next(others)
    return looks


def _counts(found: Analysis) -> tuple[int, int]:
    """Return the fewest and the most runs of a kind."""
    kinds = (*found.study.single.values(), *found.study.multi.values())
    return min(map(len, kinds)), max(map(len, kinds))


def _over(found: Analysis) -> str:
    """Say what the bands are."""
    few, many = _counts(found)
    seeds = f"{many}" if few == many else f"{few} to {many}"
    return f"Means over {seeds} runs; bands: 2 standard deviations" if many > 1 else "One run of each"


@dataclass(frozen=True)
class _Feet:
    """Bars along the lower edge, those of one method above another's."""

    parts: Mapping[str, Sequence[Floats]]
    looks: Mapping[str, Look]

    def draw(self, axes: "Axes") -> None:
        for number, (name, parts) in enumerate(self.parts.items()):
            style: Any = {"linewidth": 2.2, "solid_capstyle": "butt", "color": self.looks[name].colour}
            for part in parts:
                height = np.full(len(part), 0.02 + 0.025 * number)
                axes.plot(part, height, transform=axes.get_xaxis_transform(), label=f"clear {name}", **style)


# The change of each factor against the transfer, a point for each task


_CHANGE = "Change of each factor against the transfer, a point for each task"


def draw_change(found: Analysis) -> "Picture":
    """Draw the change of each factor against the transfer, a panel for each factor, a point for each task.

    A point is filled where change and transfer are both significant. Where the change has the sign that
    would explain the transfer the background is grey. For few points there are bars, as long as the
    difference by which the two intervals would just touch: one that does not reach its thin line is of a
    significant difference.

    Args:
        found: What :func:`~lit_aux.trajectories.analysis.analyse` returned.
    """
    looks, bars = _looks(found), len(found.results) <= _WITH_BARS
    labels = f"change, multi {MINUS} single", f"transfer: {found.metric}, multi {MINUS} single"
    moved = [(r.transfer.change, r.transfer.reach) for r in found.results]
    panels = []
    for factor, place in zip(found.factors, side_by_side(len(found.factors)), strict=True):
        results = [result for result in found.results if factor.measure in result.factors]
        changes = [(c.change, c.reach) for c in (r.factors[factor.measure] for r in results)]
        marks = (_Changes(found, factor, results, looks, bars),)
        ends: Any = {"x_ends": _ends(changes, bars), "y_ends": _ends(moved, bars), "marks": marks}
        how: Any = {"x_scale": "linear", "y_scale": "linear"} | ends
        panels.append(Panel((factor.measure,), place, (), *labels, factor.title, **how))
    text = "Grey ground: the sign would explain the transfer. Filled: change and transfer are significant"
    text += ", neither bar reaches its line." if bars else "."
    tasks = (task.replace(" ", _NO_BREAK) for task in found.study.tasks)
    named = "   ".join(f"{number}{_NO_BREAK}{task}" for number, task in enumerate(tasks, 1))
    several = len(found.study.multi) > 1
    key = {method: (method, looks[method]._replace(line="none")) for method in found.study.multi if several}
    return draw(Layout(tuple(panels), 0, key, title=_CHANGE, caption=f"{text}\n{named}"))


def _ends(values: Sequence[tuple[float, float]], bars: bool) -> tuple[float, float]:
    """Return limits beyond 0 to both sides, so that all four quarters are seen."""
    reaches = [(value, reach if bars and isfinite(reach) else 0.0) for value, reach in values]
    low = min(0.0, *(value - reach for value, reach in reaches))
    high = max(0.0, *(value + reach for value, reach in reaches))
    margin = 0.15 * (high - low) or 1.0
    return low - margin, high + margin


@dataclass(frozen=True)
class _Changes:
    """Points with the numbers of their tasks, over quarters of which two are grey."""

    found: Analysis
    factor: Factor
    results: Sequence[TaskAnalysis]
    looks: Mapping[str, Look]
    bars: bool

    def draw(self, axes: "Axes") -> None:
        axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
        axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
        sign = self.factor.sign if self.found.higher else -self.factor.sign
        if sign:  # the quarters in which the change would explain the transfer
            (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
            better, worse = ((0, right), (left, 0)) if sign > 0 else ((left, 0), (0, right))
            axes.fill_between(better, 0, high, color=_GROUND, linewidth=0, zorder=0)
            axes.fill_between(worse, low, 0, color=_GROUND, linewidth=0, zorder=0)
        for result in self.results:
            self._point(axes, result)
        self._numbers(axes)
        axes.locator_params(axis="x", nbins=5)
        axes.ticklabel_format(axis="x", scilimits=(-2, 3))
        axes.xaxis.get_offset_text().set_fontsize(7)

    def _point(self, axes: "Axes", result: TaskAnalysis) -> None:
        change, moved = result.factors[self.factor.measure], result.transfer
        reach = {"xerr": change, "yerr": moved}
        errors: Any = {name: [one.reach] for name, one in reach.items() if self.bars and one.known}
        look = self.looks[result.method]._replace(hollow=not (change.significant and moved.significant))
        style = look.options(4.5) | {
            "linestyle": "none",
            "elinewidth": 0.6,
            "zorder": 3.5 - 0.5 * look.hollow,
        }
        axes.errorbar(change.change, moved.change, label=f"{result.method} {result.task}", **errors, **style)

    def _numbers(self, axes: "Axes") -> None:
        """Write a task's number at its points, each where no other number or point is, if there is place."""
        from matplotlib.patheffects import withStroke

        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        inches = axes.get_position().size * axes.figure.get_size_inches()  # type: ignore[union-attr]
        size = 72 * inches / (right - left, high - low)  # points for each unit
        places = [(r.factors[self.factor.measure].change, r.transfer.change) for r in self.results]
        taken = [np.array(place) * size for place in places]
        for result, place in zip(self.results, places, strict=True):
            spots = [np.array(place) * size + offset for offset in _OFFSETS]
            free = (i for i, s in enumerate(spots) if all((abs(s - t) > (8.0, 7.0)).any() for t in taken))
            offset = _OFFSETS[next(free, 0)]
            taken.append(np.array(place) * size + offset)
            text = axes.annotate(
                str(self.found.study.tasks.index(result.task) + 1),
                place,
                offset,
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=6.5,
                color=INK,
                zorder=4,
                arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.4}
                if abs(offset[0]) > 9
                else None,
            )
            text.set_path_effects([withStroke(linewidth=1.5, foreground="white")])


_OFFSETS = [(s * (9 + 9 * step), y) for step in range(5) for y in (3, -3, 9, -9, 16, -16) for s in (1, -1)]
"""Of a number from its point, in points, from the nearest to the farthest."""
