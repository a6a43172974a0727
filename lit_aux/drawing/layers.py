"""The dimensionality of a network's layers before and after a fit, and how well its phases ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import isfinite
from typing import TYPE_CHECKING, Any

from lit_aux.drawing.engine import draw
from lit_aux.drawing.layout import Curve, Layout, Panel
from lit_aux.drawing.style import GREY, INK, QUANTITIES, RULE, minus

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lit_aux.callbacks._measurements import LayerDimensionality

_PALE, _STRIPE, _BAR = "#a9c4de", "#f4f6f8", "#8fb3d4"
_LOOKS = {
    "pr_before": QUANTITIES["pr_before"][1]._replace(line="none", hollow=True, size=7.5, colour="#12355b"),
    "pr_after": QUANTITIES["pr_after"][1]._replace(line="none", size=6.5),
    "ensd": QUANTITIES["ensd"][1]._replace(line="none", size=4.5),
}


def draw_layers(layers: Sequence["LayerDimensionality"]) -> "Figure":
    """Draw PR before, PR after and ENSD of each layer, a panel for each phase, with verdicts at the right.

    Args:
        layers: Those of one or more phases, in network order, as
            :class:`~lit_aux.callbacks.RepresentationDimensionality` has them in ``results``.
    """
    phases = list(dict.fromkeys(row.phase for row in layers))
    panels = [
        _panel((place, 0), [row for row in layers if row.phase == phase], layers)
        for place, phase in enumerate(phases)
    ]
    return draw(Layout(tuple(panels), 0, _looks(), caption=""))


def draw_summary(
    scores: Mapping[str, tuple[str, float]], layers: Sequence["LayerDimensionality"]
) -> "Figure":
    """Draw how well each phase does each of its tasks, and beside it the layers of one phase.

    Args:
        scores: What is scored (accuracy, say) and how well, by phase and task.
        layers: Of one phase, in network order; none where none was measured.
    """
    words = {word for word, _ in scores.values()}
    rows = tuple(f"{name} ({word})" if word != "accuracy" else name for name, (word, _) in scores.items())
    label = words.pop() if len(words) == 1 else "score" if words else "accuracy"
    bars = (_Bars([value for _, value in scores.values()]),)
    plain: Any = {"x_scale": "linear", "y_scale": "linear", "x_ends": (0, 1.2), "marks": bars}
    first = Panel(("phases",), (0, 0), (), label, "", "How each phase ended", rows=rows or ("",), **plain)
    if not layers:
        return draw(Layout((first,), 0, {}, caption=""))
    panels = first, _panel((0, 1), layers, layers)
    return draw(Layout(panels, 0, _looks(), caption="", widths=(1, 1.7)))


def _looks() -> dict[str, Any]:
    return {name: (label, _LOOKS[name]) for name, (label, _) in QUANTITIES.items()}


def _panel(
    place: tuple[int, int], table: Sequence["LayerDimensionality"], beside: Sequence["LayerDimensionality"]
) -> Panel:
    """Lay out one phase: a row for each layer, the first above, on the axis of all phases."""
    names = [row.layer for row in table]
    prefix, phase = _common_prefix(names), table[0].phase
    where = prefix.rstrip(".")
    heights = tuple(map(float, range(len(table))))
    curves = [Curve(name, tuple(getattr(row, name) for row in table), heights) for name in QUANTITIES]
    values = [v for row in beside for v in (row.pr_before, row.pr_after, row.ensd) if isfinite(v)] or [0.0]
    low, high = min(values), max(values)
    log = low > 0 and high > 20 * low
    ends = (low / 1.3, 1.3 * high) if log else (min(0.0, low), 1.06 * max(high, 1e-9))
    how: Any = {"x_scale": "log" if log else "linear", "y_scale": "linear", "x_ends": ends}
    shown = tuple(name.removeprefix(prefix) for name in names)
    title = f"{phase} · {where}" if phase and where else phase or where
    marks = (_Verdicts(table),)
    return Panel((phase,), place, tuple(curves), "dimensions", "", title, rows=shown, marks=marks, **how)


@dataclass(frozen=True)
class _Verdicts:
    """Stripes, lines from before to after, and at the right the verdict and its two ratios."""

    table: Sequence["LayerDimensionality"]

    def draw(self, axes: "Axes") -> None:
        words = "verdict\n(borderline)" if any(row.borderline for row in self.table) else "verdict"
        heads = words * any(row.shown_verdict for row in self.table), "PR after\n/ before", "ENSD\n/ PR after"
        self._write(axes, 1.0, heads, transform=axes.transAxes, va="bottom", fontsize=7, color=GREY)
        for i, row in enumerate(self.table):
            if i % 2:
                axes.axhspan(i - 0.5, i + 0.5, color=_STRIPE, zorder=0, linewidth=0)
            axes.plot([row.pr_before, row.pr_after], [i, i], color=_PALE, linewidth=2.2, zorder=1.5)
            ratios = (f"{v:.2f}" if isfinite(v) else "-" for v in (row.pr_ratio, row.ensd_ratio))
            cells = row.shown_verdict, *ratios
            self._write(axes, i, cells, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        axes.grid(axis="x", color=RULE, linewidth=0.7)
        axes.set_axisbelow(True)

    def _write(self, axes: "Axes", y: float, cells: Sequence[str], **style: Any) -> None:
        for (x, side), cell in zip(((1.03, "left"), (1.34, "right"), (1.48, "right")), cells, strict=True):
            weight = "bold" if cell in ("nested", "replaced") else "normal"
            axes.text(x, y, cell, ha=side, fontweight=weight, **{"color": INK} | style)


@dataclass(frozen=True)
class _Bars:
    """A bar for each row, with its value at its end."""

    values: Sequence[float]

    def draw(self, axes: "Axes") -> None:
        axes.barh(range(len(self.values)), [max(v, 0) for v in self.values], color=_BAR, height=0.55)
        axes.set_xticks([0, 0.5, 1.0])
        for place, value in enumerate(self.values):
            axes.text(
                max(value, 0) + 0.02, place, minus(value, ".3f"), va="center", fontsize=8, fontweight="bold"
            )


def _common_prefix(names: list[str]) -> str:
    """Return the leading components, with the last dot, that all names share."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return "".join(f"{level[0]}." for level in takewhile(lambda level: len({*level}) == 1, levels))
