"""The map of regimes: which coefficients are lazy, nested or rich, and where a network's features lie."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lit_aux.errors import ConfigurationError
from lit_aux.figures.labels import label_lines, label_regions
from lit_aux.figures.map_points import MapPoints, decades
from lit_aux.figures.style import GREY, INK, PathLike, minus, new_figure, picture_path, save, tidy
from lit_aux.functional import NESTED, feature_dependence

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

Limits = tuple[tuple[float, float], tuple[float, float]]
AVOIDED = 0.1
"""The feature dependence above which the rich regime is shaded darker: pretrained features cost more."""
BANDS = (
    ("lazy", "#b4cbe3", f"lazy: below {minus(NESTED[0])}"),
    ("nested", "#fbe7b2", f"nested: {minus(NESTED[0])} to {minus(NESTED[1])}"),
    ("rich", "#f1f1f3", f"rich: {minus(NESTED[1])} to {AVOIDED:g}"),
    ("rich, avoiding", "#cfcfd6", f"rich, avoiding: above {AVOIDED:g}"),
)
"""Name, colour and meaning of what is shaded."""
LEVELS = (-0.9, NESTED[0], -0.25, NESTED[1], AVOIDED, 0.5, 0.9)
"""The feature dependences whose lines are drawn."""
MARKERS = (("o", "#12355b"), ("^", "#b5402a"), ("s", "#3d7a4e"), ("D", "#5b4b8a"))
_RESOLUTION = 241


def draw_regime_map(
    path: PathLike, penalty: str = "q", points: Sequence[MapPoints] = (), **kwargs: float
) -> Path:
    r"""Draw the regimes of a penalty over :math:`|\beta_{aux}|` and :math:`|\beta|`, and features on top.

    Args:
        path: The file; its ending (png, svg, pdf) is the format.
        penalty: ``"q"``, ``"mtl"`` or ``"relu"``.
        points: Features to show; the axes make room for them. Those at 0, or more than ten decades below the
            largest, lie on the edge.
        kwargs: Numbers: ``gamma`` of ``"q"``; ``correlation`` and ``readout`` of ``"relu"``.

    Returns:
        The path.

    Raises:
        ConfigurationError: For an unknown penalty or option, another ending, or a file that cannot be
            written.
    """
    from matplotlib.lines import Line2D

    path = picture_path(path)
    limits = decades([p.beta_aux for p in points]), decades([p.beta for p in points])
    figure = new_figure(7.8, 4.9)
    axes = figure.subplots()
    found = regime_panel(axes, penalty, limits, points, **kwargs)
    handles = [band_patch(band) for band in sorted(found)]
    if points:
        handles.append(Line2D([], [], linestyle="none", label=" "))
        handles += [scatter(axes, p, number, limits) for number, p in enumerate(points)]
    figure.legend(handles=handles, loc="outside right center", title="feature dependence", **_LEGEND)
    return save(figure, path)


def draw_regimes(path: PathLike) -> Path:
    """Draw the maps of all penalties side by side.

    Finetuning of diagonal networks with readouts re-initialised at 0 and at .1, of ReLU networks at
    correlations 1 and .9, and multi-task training.

    Args:
        path: The file; its ending (png, svg, pdf) is the format.

    Returns:
        The path.

    Raises:
        ConfigurationError: For another ending, or a file that cannot be written.
    """
    path = picture_path(path)
    kinds: list[tuple[str, dict[str, float]]] = [
        ("q", {}),
        ("q", {"gamma": 0.1}),
        ("mtl", {}),
        ("relu", {}),
        ("relu", {"correlation": 0.9}),
    ]
    figure = new_figure(9.0, 6.0)
    panels = figure.subplots(2, 3)
    for axes, (penalty, options) in zip(panels.flat, kinds, strict=False):
        regime_panel(axes, penalty, ((-4, 4), (-4, 4)), (), **options)
        axes.set_aspect("equal")
    panels[1, 2].axis("off")
    handles = [band_patch(band) for band in range(len(BANDS))]
    panels[1, 2].legend(handles=handles, loc="center left", title="feature dependence", **_LEGEND)
    return save(figure, path)


def regime_panel(
    axes: "Axes", penalty: str, limits: Limits, points: Sequence[MapPoints] = (), **kwargs: float
) -> set[int]:
    """Shade the regimes of a penalty and draw lines of equal feature dependence.

    Args:
        axes: Where to draw.
        penalty: As in `draw_regime_map`.
        limits: Powers of ten between which the pretrained and the main coefficient are shown.
        points: What is to be drawn on top, which no name shall cover.
        kwargs: As in `draw_regime_map`.

    Returns:
        Which of `BANDS` there are.
    """
    for name, value in kwargs.items():
        if not isinstance(value, int | float):
            raise ConfigurationError(f"{name}: {value!r} for a map; give one number")
    x, y = (torch.logspace(*bounds, _RESOLUTION, dtype=torch.float64) for bounds in limits)
    # With a readout the dependence may be beyond -1 and 1, without limit where R is 0.
    dependence = feature_dependence(penalty, y[:, None], x, **kwargs).nan_to_num(0).clamp(-1.5, 1.5)
    edges = (*NESTED, AVOIDED)
    grid = x.numpy(), y.numpy(), dependence.numpy()
    shades = axes.contourf(*grid, levels=[-2, *edges, 2], colors=[colour for _, colour, _ in BANDS], zorder=0)
    shades.set_rasterized(True)
    axes.set(xscale="log", yscale="log", xlim=_powers(limits[0]), ylim=_powers(limits[1]))
    shown = [level for level in LEVELS if dependence.min() < level < dependence.max()]
    ends = [level in NESTED for level in shown]
    lines = axes.contour(
        *grid,
        levels=shown,
        colors=[INK if end else GREY for end in ends],
        linewidths=[1.3 if end else 0.5 for end in ends],
        zorder=1,
    )
    tidy(axes, _title(penalty, kwargs))
    axes.set_xlabel(r"pretrained coefficient $|\beta_\mathrm{aux}|$", fontsize=9)
    axes.set_ylabel(r"main coefficient $|\beta|$", fontsize=9)
    bands = torch.bucketize(dependence, torch.tensor(edges, dtype=torch.float64))
    spots = [spot for p in points for spot in zip(*_places(p, limits), strict=True)]
    taken = label_lines(axes, lines, limits, spots) + spots
    label_regions(axes, bands, {name: colour for name, colour, _ in BANDS}, limits, taken)
    return set(bands.flatten().tolist())


_LEGEND = {"frameon": False, "fontsize": 8.5, "title_fontsize": 8.5, "alignment": "left"}


def _title(penalty: str, options: dict[str, float]) -> str:
    """Say which network, and what is known of it."""
    names = {
        "q": "Finetuning, diagonal",
        "mtl": "Multi-task, diagonal",
        "relu": "Finetuning, ReLU",
    }
    symbols = {"gamma": r"\gamma", "correlation": r"\rho", "readout": "v_0"}
    shown = {"q": {"gamma": 0.0}, "relu": {"correlation": 1.0}}.get(penalty, {}) | options
    return ", ".join(
        [names[penalty], *(rf"${symbols[name]} = {value:.4g}$" for name, value in shown.items())]
    )


def _powers(bounds: tuple[float, float]) -> tuple[float, float]:
    return 10 ** bounds[0], 10 ** bounds[1]


def band_patch(band: int) -> "Artist":
    """Return the entry of one of `BANDS` in a legend."""
    from matplotlib.patches import Patch

    _, colour, meaning = BANDS[band]
    return Patch(facecolor=colour, edgecolor=INK, linewidth=0.6, label=meaning)


def _places(points: MapPoints, limits: Limits) -> tuple[list[float], list[float]]:
    """Return where points are drawn; what lies outside the axes goes to their edge."""
    pair = zip((points.beta_aux, points.beta), limits, strict=True)
    x, y = (values.clamp(*_powers(bounds)).tolist() for values, bounds in pair)
    return x, y


def scatter(axes: "Axes", points: MapPoints, number: int, limits: Limits, scale: float = 1.0) -> "Artist":
    """Put features on a map, those outside to its edge, and return their entry in a legend.

    Args:
        axes: With a map.
        points: The features.
        number: Of the kind of features, which decides colour and marker.
        limits: Powers of ten between which the map shows pretrained and main coefficients.
        scale: On the markers' areas.
    """
    from matplotlib.lines import Line2D

    marker, colour = MARKERS[number % len(MARKERS)]
    axes.scatter(
        *_places(points, limits),
        s=(scale * points.areas()).tolist(),
        marker=marker,
        color=colour,
        alpha=0.7,
        edgecolor="white",
        linewidth=0.5,
        clip_on=False,
        zorder=3 + number,
    )
    return Line2D([], [], color=colour, marker=marker, linestyle="none", label=points.label)
