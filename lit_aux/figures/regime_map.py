"""The map of regimes: which coefficients are lazy, nested or rich, and where a network's features lie."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.figures.style import GREY, INK, PathLike, minus, new_figure, picture_path, save, tidy
from lit_aux.functional import NESTED, feature_dependence

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.contour import ContourSet

Limits = tuple[tuple[float, float], tuple[float, float]]
Place = tuple[float, float]
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
_LEGEND = {"frameon": False, "fontsize": 8.5, "title_fontsize": 8.5, "alignment": "left"}
_MARGIN = 0.05
_APART = 0.1
_ROWS = (-0.35, 0.0, 0.35)
"""How far from the falling diagonal labels are, so that those of neighbouring lines do not meet."""


@dataclass(frozen=True)
class MapPoints:
    """Features to be drawn on the regime map, all alike.

    Raises:
        ConfigurationError: For values that are not finite, or lengths that differ.
    """

    label: str
    """What they are, for the legend."""
    beta: Tensor
    """Coefficients of the main task, (n,); the map shows their size."""
    beta_aux: Tensor
    """Those of the auxiliary task, (n,)."""
    weight: Tensor | None = None
    """How much each counts, (n,), at least 0: sets the marker's area. None: all the same."""

    def __post_init__(self) -> None:
        for name in ("beta", "beta_aux", "weight"):
            value: Any = getattr(self, name)
            if value is None and name == "weight":
                continue
            values = torch.as_tensor(value).detach().to("cpu", torch.float64)
            if values.ndim != 1 or len(values) != len(self.beta) or not bool(values.isfinite().all()):
                raise ConfigurationError(
                    f"{name}: shape {tuple(values.shape)} for {len(self.beta)} points of {self.label!r}; "
                    "give one finite value a point"
                )
            object.__setattr__(self, name, values if name == "weight" else values.abs())

    def areas(self) -> Tensor:
        """Return marker areas in square points, float64 (n,)."""
        if self.weight is None or not len(self.weight) or not bool(self.weight.max() > 0):
            return torch.full_like(self.beta, 22.0)
        return 6 + 84 * self.weight.clamp_min(0) / self.weight.max()


def decades(values: Sequence[Tensor], default: tuple[float, float] = (-3.0, 3.0)) -> tuple[float, float]:
    """Return limits of an axis, as powers of ten, that show sizes with a margin around them.

    Args:
        values: Sizes, at least 0. What is more than ten decades below the largest is left out.
        default: The limits where there are none above 0.
    """
    found = torch.cat([v[v > 0] for v in values]).log10() if values else torch.zeros(0)
    if not len(found):
        return default
    high = found.max().item()
    low = max(found.min().item(), high - 10)
    margin = max(0.5, (3 - (high - low)) / 2)
    return low - margin, high + margin


def draw_regime_map(
    path: PathLike, penalty: str = "q", points: Sequence[MapPoints] = (), **kwargs: float
) -> Path:
    r"""Draw the regimes of a penalty over :math:`|\beta_{aux}|` and :math:`|\beta|`, and features on top.

    Args:
        path: The file; its ending (png, svg, pdf) is the format.
        penalty: ``"q"``, ``"mtl"`` or ``"relu"``.
        points: Features to show; the axes reach as far. Those at 0, or more than ten decades below the
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
    diagonal: list[tuple[str, dict[str, float]]] = [("q", {}), ("q", {"gamma": 0.1}), ("mtl", {})]
    kinds = [*diagonal, ("relu", {}), ("relu", {"correlation": 0.9})]
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
    colours, widths = [INK if end else GREY for end in ends], [1.3 if end else 0.5 for end in ends]
    lines = axes.contour(*grid, levels=shown, colors=colours, linewidths=widths, zorder=1)
    tidy(axes, _title(penalty, kwargs))
    axes.set_xlabel(r"pretrained coefficient $|\beta_\mathrm{aux}|$", fontsize=9)
    axes.set_ylabel(r"main coefficient $|\beta|$", fontsize=9)
    bands = torch.bucketize(dependence, torch.tensor(edges, dtype=torch.float64))
    spots = [spot for p in points for spot in zip(*_places(p, limits), strict=True)]
    taken = label_lines(axes, lines, limits, spots) + spots
    label_regions(axes, bands, {name: colour for name, colour, _ in BANDS}, limits, taken)
    return set(bands.flatten().tolist())


def _title(penalty: str, options: dict[str, float]) -> str:
    """Say which network, and what is known of it."""
    names = {"q": "Finetuning, diagonal", "mtl": "Multi-task, diagonal", "relu": "Finetuning, ReLU"}
    symbols = {"gamma": r"\gamma", "correlation": r"\rho", "readout": "v_0"}
    shown = {"q": {"gamma": 0.0}, "relu": {"correlation": 1.0}}.get(penalty, {}) | options
    return ", ".join([names[penalty], *(rf"${symbols[n]} = {value:.4g}$" for n, value in shown.items())])


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
    style: Any = {"marker": marker, "color": colour, "alpha": 0.7, "edgecolor": "white", "linewidth": 0.5}
    areas = (scale * points.areas()).tolist()
    axes.scatter(*_places(points, limits), s=areas, clip_on=False, zorder=3 + number, **style)
    return Line2D([], [], color=colour, marker=marker, linestyle="none", label=points.label)


# Where the names of lines and regions have space


def label_lines(
    axes: "Axes", lines: "ContourSet", limits: Limits, points: Sequence[Place] = ()
) -> list[Place]:
    """Write the level of each contour line on it, in three rows across the middle of the map.

    Lines without space, near the edge or beside a label that is there already, get none.

    Args:
        axes: The map, with logarithmic axes.
        lines: Its contour lines.
        limits: The axes' ends, as powers of ten.
        points: What must not be covered, in data coordinates.

    Returns:
        Where labels are now, in data coordinates.
    """
    taken: list[Place] = []
    covered = torch.tensor([_share(spot, limits) for spot in points]).reshape(-1, 2)
    levels = np.asarray(lines.levels).tolist()
    # the ends of the nested regime first, whose lines are the thick ones
    for index in sorted(range(len(levels)), key=lambda i: levels[i] not in NESTED):
        best: tuple[float, float, float, float] | None = None
        for line in lines.allsegs[index]:
            spots = [_share(spot, limits) for spot in line]
            for (u, v), after in pairwise(spots):
                if not (_MARGIN < u < 1 - _MARGIN and _MARGIN < v < 1 - _MARGIN):
                    continue
                if any(math.hypot(u - a, v - b) < _APART for a, b in taken):
                    continue
                off = abs(u + v - 1 - _ROWS[index % len(_ROWS)])
                if best is not None and off >= best[0]:
                    continue
                if not bool(((covered - torch.tensor((u, v))).norm(dim=1) < _APART / 2).any()):
                    best = off, u, v, math.degrees(math.atan2(after[1] - v, after[0] - u))
        if best is None or best[0] > 0.6:
            continue
        _, u, v, angle = best
        taken.append((u, v))
        text = axes.text(u, v, minus(levels[index]), transform=axes.transAxes, ha="center", va="center")
        text.set(rotation=(angle + 90) % 180 - 90, fontsize=7, color=INK, zorder=2)
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.9})
    return [_place(spot, limits) for spot in taken]


def label_regions(
    axes: "Axes", found: Tensor, names: Mapping[str, str], limits: Limits, taken: Sequence[Place]
) -> None:
    """Write the name of each region where it is widest, if there is space.

    Args:
        axes: The map, with logarithmic axes.
        found: Index of the region of each place of an even grid of powers of ten, (rows, columns).
        names: Of the regions, and the colour of each.
        limits: The axes' ends, as powers of ten.
        taken: What must not be covered, in data coordinates.
    """
    from matplotlib.patheffects import withStroke
    from scipy.ndimage import distance_transform_edt  # type: ignore[import-untyped]

    rows, columns = found.shape
    free = torch.ones(found.shape, dtype=torch.bool)
    for spot in taken:
        u, v = _share(spot, limits)
        free[round(min(max(v, 0), 1) * (rows - 1)), round(min(max(u, 0), 1) * (columns - 1))] = False
    across = torch.linspace(-1, 1, columns).square() + torch.linspace(-1, 1, rows)[:, None].square()
    for index, (name, colour) in enumerate(names.items()):
        inside = torch.nn.functional.pad((found == index) & free, (1, 1, 1, 1)).numpy()
        half = 0.012 * len(name) + 0.02  # of its width, as a share of the map's
        away = distance_transform_edt(inside, sampling=(1 / (0.03 * rows), 1 / (half * columns)))
        space = torch.from_numpy(away)[1:-1, 1:-1]
        if space.max() < 1:
            continue
        # of places with space to spare, one nearer to the middle
        row, column = divmod(int((space.clamp_max(3.0) - 0.2 * across).argmax()), columns)
        share = column / (columns - 1), row / (rows - 1)
        x, y = _place(share, limits)
        text = axes.text(x, y, name, ha="center", va="center", fontsize=10, color=INK, zorder=2)
        text.set(fontweight="bold", path_effects=[withStroke(linewidth=3, foreground=colour)])


def _share(place: Sequence[float], limits: Limits) -> Place:
    """Return where a place is on the map, as shares of its width and height."""
    pairs = zip(place, limits, strict=True)
    u, v = ((math.log10(value) - low) / (high - low) for value, (low, high) in pairs)
    return u, v


def _place(share: Place, limits: Limits) -> Place:
    """Return the data coordinates of a place of the map."""
    x, y = (10 ** (low + part * (high - low)) for part, (low, high) in zip(share, limits, strict=True))
    return x, y
