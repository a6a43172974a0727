"""Penalties against the coefficient, and their orders against the pretrained one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_aux.figures.style import GREY, INK, SERIES, PathLike, new_figure, picture_path, save, tidy
from lit_aux.functional import NESTED, l_order, mtl_marginal_penalty, q_penalty, relu_finetuning_penalty

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BETA_AUX = (0.01, 0.1, 1.0, 10.0)
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


_Q = _Kind("q", "finetuning, diagonal", q_penalty)
_MTL = _Kind("mtl", "multi-task, diagonal", mtl_marginal_penalty)


def draw_penalties(path: PathLike) -> Path:
    r"""Draw each penalty against :math:`\beta` for pretrained coefficients .01, .1, 1 and 10.

    Both axes are logarithmic and shared: the slope of a line is its l-order, the way from line to line the
    feature dependence. Panels: finetuning and multi-task training of diagonal networks, finetuning of ReLU
    networks at correlations 1, .9, .5 and 0.

    Args:
        path: The file; its ending (png, svg, pdf) is the format.

    Returns:
        The path.

    Raises:
        ConfigurationError: For another ending, or a file that cannot be written.
    """
    path = picture_path(path)
    figure = new_figure(9.6, 6.0)
    figure.set_layout_engine("constrained", wspace=0.06)
    panels = figure.subplots(2, 3, sharex=True, sharey=True)
    beta = torch.logspace(-2, 2, 201, dtype=torch.float64)
    for axes, kind in zip(panels.flat, (_Q, _MTL, *map(_relu, (1.0, 0.9, 0.5, 0.0))), strict=True):
        for beta_aux, (colour, line) in zip(BETA_AUX, SERIES, strict=True):
            penalty = kind.formula(beta, beta_aux, **kind.options).numpy()
            axes.plot(beta.numpy(), penalty, line, color=colour, label=f"{beta_aux:g}")
        axes.set(xscale="log", yscale="log", xlim=(1e-2, 1e2), ylim=(1e-5, 3e3))
        tidy(axes, kind.label[0].upper() + kind.label[1:])
    for power, place in ((1, (1.5, 6e-3)), (2, (1.5, 1e-4))):
        _slope(panels.flat[1], power, place)
    for axes in panels[-1]:
        axes.set_xlabel(r"main coefficient $|\beta|$")
    for axes in panels[:, 0]:
        axes.set_ylabel(r"penalty $R(\beta)$")
    handles, labels = panels.flat[0].get_legend_handles_labels()
    title = r"$|\beta_\mathrm{aux}|$"
    look: Any = {"frameon": False, "fontsize": 9, "handlelength": 2.6}
    figure.legend(handles, labels, title=title, loc="outside right center", **look)
    return save(figure, path)


def draw_l_order(path: PathLike) -> Path:
    r"""Draw the l-order of each penalty against :math:`\beta_{aux}` at :math:`\beta = 1`.

    The axis at the right is the feature dependence, which is 1 - l-order for these (gamma = readout = 0). The
    band is the nested regime.

    Args:
        path: The file; its ending (png, svg, pdf) is the format.

    Returns:
        The path.

    Raises:
        ConfigurationError: For another ending, or a file that cannot be written.
    """
    path = picture_path(path)
    figure = new_figure(7.4, 4.3)
    axes = figure.subplots()
    beta_aux = torch.logspace(-5, 4, 361, dtype=torch.float64)
    lines: list[tuple[_Kind, dict[str, Any]]] = [
        (_Q, {"color": "#12355b", "linewidth": 2.2}),
        (_MTL, {"color": "#5b4b8a", "linestyle": "--", "linewidth": 2.2}),
    ]
    styles = (("#7a2e1f", "-"), ("#c8553d", "--"), ("#d98036", "-."), ("#e3a857", ":"))
    for correlation, (colour, line) in zip((1.0, 0.9, 0.5, 0.0), styles, strict=True):
        lines.append((_relu(correlation), {"color": colour, "linestyle": line, "linewidth": 1.5}))
    for kind, style in lines:
        order = l_order(kind.name, 1.0, beta_aux, **kind.options)
        axes.plot(beta_aux.numpy(), order.numpy(), label=kind.label, **style)
    low, high = NESTED
    axes.axhspan(1 - high, 1 - low, color="#f6e3b4", zorder=0, linewidth=0)
    axes.text(1.4e-5, 1 - (low + high) / 2, "nested", va="center", color=INK, fontsize=9)
    axes.set(xscale="log", xlim=(1e-5, 1e4), ylim=(-0.03, 2.03))
    axes.set_xlabel(r"pretrained coefficient $|\beta_\mathrm{aux}|$, at $\beta = 1$")
    axes.set_ylabel(r"$\ell$-order  $\partial\,\log R\,/\,\partial\,\log|\beta|$")
    tidy(axes, "How penalties react to a coefficient, and to the pretrained one")
    right = axes.secondary_yaxis("right", functions=(_complement, _complement))
    slope = r"$\partial\,\log R\,/\,\partial\,\log|\beta_\mathrm{aux}|$"
    right.set_ylabel(f"feature dependence  {slope}", fontsize=9)
    right.tick_params(labelsize=8, colors=INK)
    axes.legend(loc="lower left", frameon=False, fontsize=8.5, handlelength=2.8)
    return save(figure, path)


def _complement(order: Any) -> Any:
    return 1 - order


def _slope(axes: "Axes", power: int, place: tuple[float, float]) -> None:
    """Draw a short line of a known l-order."""
    x = place[0], 20 * place[0]
    axes.plot(x, (place[1], place[1] * 20**power), color=GREY, linewidth=1, label="_slope")
    axes.text(x[1] * 1.15, place[1] * 20**power, rf"$\ell = {power}$", color=GREY, fontsize=8, va="center")
