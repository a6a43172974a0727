"""What each rescale factor did to the layers of a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import isfinite, log, sqrt
from typing import TYPE_CHECKING, Any

from lit_aux.drawing.engine import draw
from lit_aux.drawing.layout import Curve, Layout, Panel, side_by_side
from lit_aux.drawing.style import GREY, INK, QUANTITIES, Look
from lit_aux.regimes.sweep_report import FactorSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROUNDS = {"nested": "#fdf1cf", "lazy": "#d9e5f1", "replaced": "#dfdfe4", "undefined": "#f4f4f5"}
MOST = 8


def draw_factors(factors: Sequence[FactorSummary], layer: str) -> "Figure":
    """Draw a panel for each layer, and one of validation where there are data.

    Args:
        factors: At least one with layers, means over the seeds of each.
        layer: The one that the sweep is judged by; its title is bold. Of more than eight layers, this one and
            others at equal distances are drawn.
    """
    whole = sorted((one for one in factors if one.layers), key=lambda one: one.factor)
    names = drawn_layers(list(whole[0].layers), layer)
    validated = [one for one in whole if one.val_accuracy is not None or one.val_loss is not None]
    places = side_by_side(len(names) + bool(validated))
    x = tuple(one.factor for one in whole)
    edges = [x[0] / 1.3, *(sqrt(a * b) for a, b in pairwise(x)), x[-1] * 1.3]
    how: Any = {"y_scale": "linear", "x_ends": (edges[0], edges[-1])}
    panels = []
    for place, name in zip(places, names, strict=False):
        rows = [one.layers[name] for one in whole]
        curves = [Curve(q, x, tuple(getattr(row, q) for row in rows)) for q in QUANTITIES]
        highest = max((v for c in curves for v in c.mean if isfinite(v)), default=0.0)
        grounds = _Grounds(tuple(edges), tuple(row.verdict for row in rows))
        own: Any = {
            "group": name,
            "marks": (grounds,),
            "y_ends": (-0.13 * max(highest, 1e-9), 1.08 * max(highest, 1e-9)),
        } | how
        where = (place, tuple(curves), "rescale factor", "dimensions", name)
        panels.append(Panel((name,), *where, bold=name == layer, **own))
    looks = dict(QUANTITIES)
    if validated:
        accuracy = validated[0].val_accuracy is not None
        word = "validation accuracy" if accuracy else "validation loss"
        values = [one.val_accuracy if accuracy else one.val_loss for one in validated]
        found = [(one.factor, v) for one, v in zip(validated, values, strict=True) if v is not None]
        curve = Curve("validation", *zip(*found, strict=True))
        panels.append(Panel(("validation",), places[-1], (curve,), "rescale factor", "", word, **how))
        looks["validation"] = word, Look(INK, "s", "-")
    met = {one.layers[name].verdict for one in whole for name in names}
    patches = tuple((word, colour) for word, colour in GROUNDS.items() if word in met)
    return draw(Layout(tuple(panels), 0, looks, caption="", patches=patches))


def drawn_layers(names: Sequence[str], layer: str) -> list[str]:
    """Return at most eight layers in network order, the wanted one among them."""
    if len(names) <= MOST:
        return list(names)
    steps = {round(i * (len(names) - 1) / (MOST - 1)) for i in range(MOST)}
    place = names.index(layer)
    if place not in steps:
        steps.remove(min(steps - {0}, key=lambda step: abs(step - place)))
    return [names[i] for i in sorted(steps | {place})]


@dataclass(frozen=True)
class _Grounds:
    """A ground for each verdict, and the word where there is space."""

    edges: Sequence[float]
    """Of the factors' parts of the axis; one more than there are factors."""
    verdicts: Sequence[str]

    def draw(self, axes: "Axes") -> None:
        inches = axes.get_position().width * axes.figure.get_figwidth()  # type: ignore[union-attr]
        parts = zip(self.verdicts, self.edges, self.edges[1:], strict=False)
        for word, members in groupby(parts, key=lambda part: part[0]):
            spans = list(members)
            left, right = spans[0][1], spans[-1][2]
            axes.axvspan(left, right, color=GROUNDS[word], linewidth=0, zorder=0)
            share = log(right / left) / log(self.edges[-1] / self.edges[0])
            if 0.065 * len(word) < share * inches:
                how: Any = {"ha": "center", "va": "bottom", "fontsize": 7, "color": GREY, "style": "italic"}
                axes.text(sqrt(left * right), 0.01, word, transform=axes.get_xaxis_transform(), **how)
