"""The picture of a sweep over mixing weights."""

from collections.abc import Sequence
from pathlib import Path

from lit_aux.callbacks.mixing_measurement import MixingMeasurement
from lit_aux.files import atomic_path

_COLORS = ("#1f4e79", "#f0a030", "#3a7d44", "#8c3b5a", "#6b7280")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def plot(results: Sequence[MixingMeasurement], best: float | None, path: Path) -> None:
    """Draw each task's test (and validation) metric against the mixing weight, and write a PNG.

    Args:
        results: Rows of one fit.
        best: The mixing weight best on validation data, marked by a line; None for none.
        path: Where to write; the file appears whole or not at all.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metric = _metric(results)
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    tasks = list(dict.fromkeys(row.task for row in results))
    for number, task in enumerate(tasks):
        color, marker = _COLORS[number % len(_COLORS)], _MARKERS[number % len(_MARKERS)]
        for split, line in (("test", "-"), ("val", ":")):
            rows = [r for r in results if (r.task, r.measure) == (task, f"{split}_{metric}")]
            if rows:
                label = f"{task}, {'test' if split == 'test' else 'validation'}"
                face = color if split == "test" else "white"
                axis.plot(
                    [r.mixing for r in rows],
                    [r.value for r in rows],
                    line,
                    label=label,
                    markersize=5,
                    markerfacecolor=face,
                    color=color,
                    marker=marker,
                )
    if best is not None:
        axis.axvline(best, color="#b0b7c0", linewidth=1, zorder=0, label="best on validation")
    axis.set_xlabel("mixing weight (0: before the fit, 1: after)")
    axis.set_ylabel(metric.replace("_", " "))
    axis.grid(color="#d9dee4", linewidth=0.7)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    if tasks:
        axis.legend(frameon=False, fontsize=9, loc="best" if len(tasks) < 5 else "outside right upper")
    with atomic_path(path) as part:
        figure.savefig(part, dpi=160, format="png", facecolor="white")


def _metric(results: Sequence[MixingMeasurement]) -> str:
    """Return the first metric that is no loss, else the loss."""
    names = [row.measure.partition("_")[2] for row in results]
    return next((name for name in names if name != "loss"), "loss")
