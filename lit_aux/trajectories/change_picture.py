"""The change of each factor against the transfer, a point for each task."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lit_aux.figures.style import GREY, INK, Look, save, tidy
from lit_aux.trajectories.analysis import Analysis, TaskAnalysis
from lit_aux.trajectories.canvas import canvas
from lit_aux.trajectories.factors import Factor
from lit_aux.trajectories.numbers import write_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MINUS = "\N{MINUS SIGN}"
NO_BREAK = "\N{NO-BREAK SPACE}"
_WITH_BARS = 10  # most points of a panel at which bars can be told apart
_GROUND = "#eceff3"
_SIZE = (2.5, 2.0)  # of a panel in inches


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
    made = canvas(
        len(factors),
        min(3, len(factors)),
        _SIZE,
        (0.65, 0.75),
        "Change of each factor against the transfer, a point for each task",
        [(method, how[method]) for method in found.study.multi if several],
        _explained(found, bars),
        lines=False,
    )
    for number, (axes, factor) in enumerate(zip(made.axes, factors, strict=True)):
        _panel(axes, factor, found, how, bars)
        if number % made.columns == 0:
            axes.set_ylabel(f"transfer: {found.metric}, multi {MINUS} single", fontsize=8)
    return save(made.figure, path, palette=True)


def _panel(axes: "Axes", factor: Factor, found: Analysis, how: Mapping[str, Look], bars: bool) -> None:
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
    tidy(axes, "")
    axes.set_title(factor.title, loc="left", fontsize=9, color=INK)
    axes.set_xlabel(f"change, multi {MINUS} single", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.locator_params(axis="x", nbins=6)
    axes.ticklabel_format(axis="x", scilimits=(-2, 3))
    axes.xaxis.get_offset_text().set_fontsize(7)


def _point(axes: "Axes", result: TaskAnalysis, factor: Factor, look: Look, bars: bool) -> None:
    change, moved = result.factors[factor.measure], result.transfer
    both = change.significant and moved.significant
    axes.errorbar(
        [change.change],
        [moved.change],
        xerr=[change.reach] if bars and change.known else None,
        yerr=[moved.reach] if bars and moved.known else None,
        fmt=look.marker,
        markersize=4.5,
        color=look.colour,
        markerfacecolor=look.colour if both else "white",
        markeredgewidth=0.9,
        elinewidth=0.6,
        label=f"{result.method} {result.task}",
        zorder=3,
    )


def _limits(axes: "Axes") -> None:
    """Let both axes reach beyond 0, so that all four quarters are seen."""
    for ends, set_ends in ((axes.get_xlim(), axes.set_xlim), (axes.get_ylim(), axes.set_ylim)):
        low, high = min(*ends, 0), max(*ends, 0)
        room = 0.12 * (high - low)
        set_ends(low - room, high + room)


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
