"""The picture of a dimensionality table."""

import math
import os
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_aux.callbacks._measurements import LayerDimensionality
from lit_aux.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Told apart by shape and by lightness as well as by hue: readable in grey and with any colour vision.
_INK, _GREY, _DARK, _PALE, _WARM = "#2b2f36", "#6b7280", "#1f4e79", "#a9c4de", "#f0a030"
_ROW = 0.42


def plot(results: Sequence[LayerDimensionality], path: str | os.PathLike[str]) -> Path:
    """Draw PR before, PR after and ENSD per layer, a panel per phase, and write a PNG.

    Args:
        results: Rows of one or more phases, in network order.
        path: Where to write; folders are made, and the file appears complete or not at all.

    Returns:
        The path.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    phases = list(dict.fromkeys(row.phase for row in results))
    tables = [[row for row in results if row.phase == phase] for phase in phases]
    heights = [_ROW * len(table) + 0.75 for table in tables]
    figure = Figure(figsize=(7.2, sum(heights) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(tables), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axis, phase, table in zip(axes, phases, tables, strict=True):
        draw_layers(axis, phase, table)
    _scale(axes[-1], results)
    axes[-1].set_xlabel("dimensions")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=10)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part:
        figure.savefig(part, dpi=160, format="png", facecolor="white", bbox_inches="tight", pad_inches=0.15)
    return path


def draw_layers(axis: "Axes", phase: str, table: Sequence[LayerDimensionality]) -> None:
    """Draw one phase: a row per layer, first layer on top, the verdict at the right.

    Args:
        axis: Where to draw; the verdicts need room at its right.
        phase: The title.
        table: The layers, in network order.
    """
    y = list(range(len(table)))
    for i, row in enumerate(table):
        if i % 2:
            axis.axhspan(i - 0.5, i + 0.5, color="#f4f6f8", zorder=0, linewidth=0)
        axis.plot([row.pr_before, row.pr_after], [i, i], color=_PALE, linewidth=2.4, zorder=1)
    # Face, edge, shape, size. The diamond lies on top: small, so that what it hides stays visible around it.
    styles = {
        "PR before": ([r.pr_before for r in table], "white", _DARK, "o", 70),
        "PR after": ([r.pr_after for r in table], _DARK, _DARK, "o", 70),
        "shared (ENSD)": ([r.ensd for r in table], _WARM, "white", "D", 26),
    }
    for z, (label, (values, face, edge, marker, size)) in enumerate(styles.items(), start=2):
        width = 0.8 if edge == "white" else 1.6
        look: dict[str, Any] = {"c": face, "edgecolors": edge, "marker": marker, "linewidths": width}
        axis.scatter(values, y, s=size, label=label, zorder=z, **look)
    _label(axis, phase, table)
    axis.grid(axis="x", color="#d9dee4", linewidth=0.7)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(axis="y", length=0)
    _scale(axis, table)


def _label(axis: "Axes", phase: str, table: Sequence[LayerDimensionality]) -> None:
    """Write layer names at the left, the verdict and its two ratios at the right."""
    names = [row.layer for row in table]
    prefix = _common_prefix(names)
    axis.set_yticks(range(len(table)), [name.removeprefix(prefix) for name in names])
    axis.set_ylim(len(table) - 0.5, -0.5)
    where = prefix.rstrip(".")
    axis.set_title(f"{phase} · {where}" if phase and where else phase or where, loc="left", fontsize=10)
    columns = ((1.03, "left"), (1.34, "right"), (1.48, "right"))
    for i, row in enumerate(table):
        cells = (row.shown_verdict, _short(row.pr_ratio), _short(row.ensd_ratio))
        for (x, side), cell in zip(columns, cells, strict=True):
            weight = "bold" if cell in ("nested", "replaced") else "normal"
            at: dict[str, Any] = {"transform": axis.get_yaxis_transform(), "ha": side, "va": "center"}
            axis.text(x, i, cell, fontsize=9.5, color=_INK, fontweight=weight, **at)
    word = "verdict\n(borderline)" if any(row.borderline for row in table) else "verdict"
    word = word if any(row.shown_verdict for row in table) else ""
    for (x, side), head in zip(columns, (word, "PR after\n/ before", "ENSD\n/ PR after"), strict=True):
        below: dict[str, Any] = {"transform": axis.transAxes, "ha": side, "va": "bottom"}
        axis.text(x, 1.0, head, fontsize=8, color=_GREY, linespacing=1.1, **below)


def _scale(axis: "Axes", table: Sequence[LayerDimensionality]) -> None:
    """Choose the axis: from zero, or logarithmic where layers differ by more than an order of magnitude."""
    from matplotlib.ticker import LogLocator, NullLocator

    values = [v for r in table for v in (r.pr_before, r.pr_after, r.ensd) if math.isfinite(v)]
    positive = [v for v in values if v > 0]
    if positive and len(positive) == len(values) and max(positive) > 20 * min(positive):
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_locator(NullLocator())
    elif values:
        axis.set_xlim(min(0.0, *values), 1.06 * max(*values, 1e-9))
    else:
        axis.set_xlim(0, 1)


def _common_prefix(names: list[str]) -> str:
    """Return the leading components, with the last dot, that all names share."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    shared = takewhile(lambda level: len({*level}) == 1, levels)
    return "".join(f"{level[0]}." for level in shared)


def _short(value: float) -> str:
    """Format a ratio."""
    return f"{value:.2f}" if math.isfinite(value) else "-"
