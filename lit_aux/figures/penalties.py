"""Penalties against the coefficient, and their orders against the pretrained one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_aux.drawing.engine import draw
from lit_aux.drawing.layout import Curve, Layout, Panel, looks_of
from lit_aux.drawing.style import GREY, INK, ordered_looks
from lit_aux.functional import NESTED, l_order, mtl_marginal_penalty, q_penalty, relu_finetuning_penalty

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BETA_AUX = (10.0, 1.0, 0.1, 0.01)
"""The pretrained coefficients of `draw_penalties`."""


@dataclass(frozen=True)
class _Kind:
    """A penalty as it is drawn."""

    name: str
    label: str
    formula: Callable[..., Tensor]
    options: dict[str, float] = field(default_factory=dict)


def _relu(correlation: float) -> _Kind:
    label = rf"finetuning, ReLU, $\rho = {correlation:g}$"
    return _Kind("relu", label, relu_finetuning_penalty, {"correlation": correlation})


KINDS = (
    _Kind("q", "finetuning, diagonal", q_penalty),
    _Kind("mtl", "multi-task, diagonal", mtl_marginal_penalty),
    *map(_relu, (1.0, 0.9, 0.5, 0.0)),
)


def draw_penalties() -> "Figure":
    r"""Draw each penalty against :math:`\beta` for pretrained coefficients .01, .1, 1 and 10.

    Both axes are logarithmic and shared: the slope of a line is its l-order, the way from line to line the
    feature dependence. Panels: finetuning and multi-task training of diagonal networks, finetuning of ReLU
    networks at correlations 1, .9, .5 and 0.
    """
    beta = torch.logspace(-2, 2, 201, dtype=torch.float64)
    panels = []
    for number, kind in enumerate(KINDS):
        curves = [_curve(f"{b:g}", beta, kind.formula(beta, b, **kind.options)) for b in BETA_AUX]
        marks = tuple(_Slope(power, place) for power, place in _SLOPES) if kind.name == "mtl" else ()
        labels = r"main coefficient $|\beta|$", r"penalty $R(\beta)$", kind.label[0].upper() + kind.label[1:]
        ends: Any = {"x_ends": (1e-2, 1e2), "y_ends": (1e-5, 3e3)}
        panels.append(Panel((number,), divmod(number, 3), tuple(curves), *labels, marks=marks, **ends))
    looks = looks_of([f"{b:g}" for b in BETA_AUX], ordered_looks(len(BETA_AUX)))
    return draw(Layout(tuple(panels), 0, looks, caption=r"$|\beta_\mathrm{aux}|$", scale=1.15))


def draw_l_order() -> "Figure":
    r"""Draw the l-order of each penalty against :math:`\beta_{aux}` at :math:`\beta = 1`.

    The axis at the right is the feature dependence, which is 1 - l-order for these (gamma = readout = 0). The
    band is the nested regime.
    """
    beta_aux = torch.logspace(-5, 4, 361, dtype=torch.float64)
    curves = [
        _curve(kind.label, beta_aux, l_order(kind.name, 1.0, beta_aux, **kind.options)) for kind in KINDS
    ]
    x_label = r"pretrained coefficient $|\beta_\mathrm{aux}|$, at $\beta = 1$"
    y_label = r"$\ell$-order  $\partial\,\log R\,/\,\partial\,\log|\beta|$"
    title = "How penalties react to a coefficient, and to the pretrained one"
    how: Any = {
        "y_scale": "linear",
        "x_ends": (1e-5, 1e4),
        "y_ends": (-0.03, 2.03),
        "marks": (_Dependence(),),
    }
    panel = Panel(("l-order",), (0, 0), tuple(curves), x_label, y_label, title, **how)
    looks = looks_of([kind.label for kind in KINDS], ordered_looks(len(KINDS)))
    return draw(Layout((panel,), 0, looks, caption="", scale=1.5))


def _curve(key: str, x: Tensor, y: Tensor) -> Curve:
    return Curve(key, tuple(x.tolist()), tuple(y.tolist()))


_SLOPES = ((1, (1.5, 6e-3)), (2, (1.5, 1e-4)))


@dataclass(frozen=True)
class _Slope:
    """A short line of a known l-order."""

    power: int
    place: tuple[float, float]

    def draw(self, axes: "Axes") -> None:
        (x, y), end = self.place, 20 * self.place[0]
        high = y * 20**self.power
        axes.plot((x, end), (y, high), color=GREY, linewidth=1, label="_slope")
        axes.text(end * 1.15, high, rf"$\ell = {self.power}$", color=GREY, fontsize=8, va="center")


class _Dependence:
    """The nested regime as a band, and an axis of the feature dependence at the right."""

    def draw(self, axes: "Axes") -> None:
        low, high = NESTED
        axes.axhspan(1 - high, 1 - low, color="#f6e3b4", zorder=0, linewidth=0)
        axes.text(1.4e-5, 1 - (low + high) / 2, "nested", va="center", color=INK, fontsize=8)
        right = axes.secondary_yaxis("right", functions=(_complement, _complement))
        slope = r"$\partial\,\log R\,/\,\partial\,\log|\beta_\mathrm{aux}|$"
        right.set_ylabel(f"feature dependence  {slope}", fontsize=8)
        right.tick_params(labelsize=7, colors=INK)


def _complement(order: Any) -> Any:
    return 1 - order
