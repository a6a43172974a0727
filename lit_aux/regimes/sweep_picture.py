"""The picture of a sweep: participation ratios and shared dimensions against the rescale factor."""

from collections.abc import Sequence
from itertools import groupby
from math import isfinite, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_aux.figures.style import save
from lit_aux.regimes.sweep_summary import FactorSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DARK, _PALE, _WARM, _INK = "#1f4e79", "#7ba3c8", "#c8700a", "#2b2f36"
_BANDS = {"nested": "#fdf1cf", "lazy": "#d9e5f1", "replaced": "#dfdfe4", "undefined": "#f4f4f5"}
_STYLES = (
    ("pr_before", "PR before", _PALE, "o", "--"),
    ("pr_after", "PR after", _DARK, "o", "-"),
    ("ensd", "shared (ENSD)", _WARM, "D", ":"),
)
_WORD: Any = {"ha": "center", "va": "bottom", "fontsize": 7.5, "color": "#6b7280", "style": "italic"}
MOST = 8


def draw_sweep(factors: Sequence[FactorSummary], layer: str, path: Path) -> Path:
    """Draw a panel for each layer, and one of validation where there are data.

    Args:
        factors: At least one with layers.
        layer: The one that the sweep is judged by; its title is bold. Of more than eight layers, this one and
            others at equal distances are drawn.
        path: The PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    whole = sorted((one for one in factors if one.layers), key=lambda one: one.factor)
    names = _drawn(list(whole[0].layers), layer)
    validated = [one for one in whole if one.val_accuracy is not None or one.val_loss is not None]
    panels = len(names) + bool(validated)
    columns = min(4, panels)
    rows = -(-panels // columns)
    size = (max(2.5 * columns + 0.4, 5.2), 2.25 * rows + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    axes = list(grid.flat)
    for axis in axes[panels:]:
        axis.set_visible(False)
    for number, (axis, name) in enumerate(zip(axes, names, strict=False)):
        _draw_layer(axis, whole, name, bold=name == layer)
        if number % columns == 0:
            axis.set_ylabel("dimensions", fontsize=9)
    if validated:
        _draw_validation(axes[len(names)], validated)
    for number, axis in enumerate(axes[:panels]):
        _factors_below(axis, [one.factor for one in whole], last=number + columns >= panels)
    lines, labels = axes[0].get_legend_handles_labels()
    met = {one.layers[name].verdict for one in whole for name in names}
    bands = [Patch(color=colour, label=word) for word, colour in _BANDS.items() if word in met]
    handles = [*lines, *bands]
    figure.legend(
        handles,
        [*labels, *(str(band.get_label()) for band in bands)],
        loc="outside upper center",
        ncols=min(len(handles), 3 if columns < 3 else 6),
        frameon=False,
        fontsize=9,
    )
    return save(figure, path)


def _drawn(names: Sequence[str], layer: str) -> list[str]:
    """Return at most eight layers in network order, the wanted one among them."""
    if len(names) <= MOST:
        return list(names)
    steps = {round(i * (len(names) - 1) / (MOST - 1)) for i in range(MOST)}
    place = names.index(layer)
    if place not in steps:
        steps.remove(min(steps - {0}, key=lambda step: abs(step - place)))
    return [names[i] for i in sorted(steps | {place})]


def _draw_layer(axis: "Axes", factors: Sequence[FactorSummary], name: str, bold: bool) -> None:
    """Draw one layer's lines over bands that say its verdicts."""
    x = [one.factor for one in factors]
    for i, one in enumerate(factors):
        left = sqrt(x[i - 1] * x[i]) if i else x[i] / 1.3
        right = sqrt(x[i] * x[i + 1]) if i + 1 < len(x) else x[i] * 1.3
        axis.axvspan(left, right, color=_BANDS[one.layers[name].verdict], linewidth=0, zorder=0)
    if len(x) <= 5:
        for word, members in groupby(factors, key=lambda one: one.layers[name].verdict):
            own = [one.factor for one in members]
            middle = sqrt(own[0] * own[-1])
            axis.text(middle, 0.01, word, transform=axis.get_xaxis_transform(), **_WORD)
    for field, label, colour, marker, dashes in _STYLES:
        values = [getattr(one.layers[name], field) for one in factors]
        axis.plot(x, values, dashes, color=colour, marker=marker, ms=4, lw=1.6, label=label)
    axis.set_title(name, loc="left", fontsize=10, fontweight="bold" if bold else "normal", color=_INK)
    drawn = [value for line in axis.lines for value in np.asarray(line.get_ydata()) if isfinite(value)]
    axis.set_ylim(0, 1.08 * max([*drawn, 1e-9]))


def _draw_validation(axis: "Axes", factors: Sequence[FactorSummary]) -> None:
    accuracy = factors[0].val_accuracy is not None
    values = [one.val_accuracy if accuracy else one.val_loss for one in factors]
    axis.plot([one.factor for one in factors], values, color=_INK, marker="s", ms=4, lw=1.6)  # type: ignore[arg-type]
    title = "validation accuracy" if accuracy else "validation loss"
    axis.set_title(title, loc="left", fontsize=10, color=_INK)


def _factors_below(axis: "Axes", factors: Sequence[float], last: bool) -> None:
    """Put the factors themselves under a logarithmic axis."""
    from matplotlib.ticker import NullLocator

    axis.set_xscale("log", base=2)
    few = factors if len(factors) <= 6 else factors[:: -(-len(factors) // 6)]
    axis.set_xticks(list(few), [f"{factor:.3g}" for factor in few])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlim(min(factors) / 1.3, max(factors) * 1.3)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    if last:
        axis.set_xlabel("rescale factor", fontsize=9)
