"""The map of regimes: which coefficients are lazy, nested or rich, and where a network's features lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_aux.drawing.engine import draw
from lit_aux.drawing.layout import Layout, Panel, looks_of
from lit_aux.drawing.style import GREY, INK, Look, minus
from lit_aux.errors import ConfigurationError
from lit_aux.finite import all_finite
from lit_aux.functional import NESTED, feature_dependence

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
MARKERS = (
    Look("#12355b", "o", "none"),
    Look("#b5402a", "^", "none"),
    Look("#3d7a4e", "s", "none"),
    Look("#5b4b8a", "D", "none"),
)
_RESOLUTION = 241


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
            if values.ndim != 1 or len(values) != len(self.beta) or not all_finite(values):
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


def draw_regime_map(penalty: str = "q", points: Sequence[MapPoints] = (), **kwargs: float) -> "Figure":
    r"""Draw the regimes of a penalty over :math:`|\beta_{aux}|` and :math:`|\beta|`, and features on top.

    Args:
        penalty: ``"q"``, ``"mtl"`` or ``"relu"``.
        points: Features to show; the axes reach as far. Those at 0, or more than ten decades below the
            largest, lie on the edge.
        kwargs: Numbers: ``gamma`` of ``"q"``; ``correlation`` and ``readout`` of ``"relu"``.

    Raises:
        ConfigurationError: For an unknown penalty or option.
    """
    limits = decades([p.beta_aux for p in points]), decades([p.beta for p in points])
    labels = [p.label for p in points]
    return draw_maps([regime_panel((0, 0), RegimeMap.of(penalty, limits, points, **kwargs))], labels, 1.5)


def draw_regimes() -> "Figure":
    """Draw the maps of all penalties side by side.

    Finetuning of diagonal networks with readouts re-initialised at 0 and at .1, of ReLU networks at
    correlations 1 and .9, and multi-task training.
    """
    diagonal: list[tuple[str, dict[str, float]]] = [("q", {}), ("q", {"gamma": 0.1}), ("mtl", {})]
    kinds = [*diagonal, ("relu", {}), ("relu", {"correlation": 0.9})]
    maps = [RegimeMap.of(penalty, ((-4, 4), (-4, 4)), (), **options) for penalty, options in kinds]
    return draw_maps([regime_panel(divmod(i, 3), one) for i, one in enumerate(maps)], (), 1.2)


def draw_maps(panels: Sequence[Panel], points: Sequence[str], scale: float) -> "Figure":
    """Draw maps with one legend.

    Args:
        panels: Of :func:`regime_panel`.
        points: What each kind of points is.
        scale: Of the panels.
    """
    looks = looks_of(points, [MARKERS[i % len(MARKERS)] for i in range(len(points))])
    found = {
        band for panel in panels for mark in panel.marks if isinstance(mark, RegimeMap) for band in mark.bands
    }
    patches = tuple((meaning, colour) for i, (_, colour, meaning) in enumerate(BANDS) if i in found)
    return draw(Layout(tuple(panels), 0, looks, caption="feature dependence", patches=patches, scale=scale))


def regime_panel(place: tuple[int, int], one: "RegimeMap", title: str = "") -> Panel:
    """Lay out a map.

    Args:
        place: Row and column in the figure.
        one: The map.
        title: Above it; by default the network and what is known of it.
    """
    labels = r"pretrained coefficient $|\beta_\mathrm{aux}|$", r"main coefficient $|\beta|$"
    x, y = ((10**low, 10**high) for low, high in one.limits)
    return Panel((place,), place, (), *labels, title or one.title, marks=(one,), x_ends=x, y_ends=y)


@dataclass(frozen=True)
class RegimeMap:
    """Regimes of a penalty, lines of equal feature dependence, and points."""

    title: str
    limits: Limits
    """Powers of ten between which the pretrained and the main coefficient are shown."""
    points: Sequence[MapPoints]
    grid: tuple[Tensor, Tensor, Tensor]
    """Pretrained coefficients (columns,), main ones (rows,) and the feature dependence (rows, columns)."""

    @classmethod
    def of(
        cls, penalty: str, limits: Limits, points: Sequence[MapPoints] = (), **kwargs: float
    ) -> "RegimeMap":
        """Compute a map.

        Args:
            penalty: As in `draw_regime_map`.
            limits: Powers of ten between which the pretrained and the main coefficient are shown.
            points: What is drawn on top.
            kwargs: As in `draw_regime_map`.

        Raises:
            ConfigurationError: For an unknown penalty or option.
        """
        for name, value in kwargs.items():
            if not isinstance(value, int | float):
                raise ConfigurationError(f"{name}: {value!r} for a map; give one number")
        x, y = (torch.logspace(*bounds, _RESOLUTION, dtype=torch.float64) for bounds in limits)
        # With a readout the dependence may be beyond -1 and 1, without limit where R is 0.
        dependence = feature_dependence(penalty, y[:, None], x, **kwargs).nan_to_num(0).clamp(-1.5, 1.5)
        return cls(_title(penalty, kwargs), limits, points, (x, y, dependence))

    @property
    def bands(self) -> set[int]:
        """Which of `BANDS` there are."""
        return set(self._bands().flatten().tolist())

    def _bands(self) -> Tensor:
        edges = torch.tensor((*NESTED, AVOIDED), dtype=torch.float64)
        return torch.bucketize(self.grid[2], edges)

    def draw(self, axes: "Axes") -> None:
        """Shade the regimes, draw lines of equal feature dependence, and put points on top."""
        x, y, dependence = self.grid
        grid = x.numpy(), y.numpy(), dependence.numpy()
        colours = [colour for _, colour, _ in BANDS]
        shades = axes.contourf(*grid, levels=[-2, *NESTED, AVOIDED, 2], colors=colours, zorder=0)
        shades.set_rasterized(True)
        shown = [level for level in LEVELS if dependence.min() < level < dependence.max()]
        ends = [level in NESTED for level in shown]
        style: Any = {"colors": [INK if end else GREY for end in ends], "zorder": 1}
        lines = axes.contour(*grid, levels=shown, linewidths=[1.3 if end else 0.5 for end in ends], **style)
        places = [self._place(points) for points in self.points]
        taken = torch.zeros(dependence.shape, dtype=torch.bool)
        self._take(taken, [spot for place in places for spot in place.tolist()])
        spots = self._spots(shown, taken)
        axes.clabel(lines, fmt=minus, fontsize=6.5, colors=INK, inline_spacing=2, manual=spots)
        self._name_regions(axes, taken)
        for number, (points, place) in enumerate(zip(self.points, places, strict=True)):
            look = MARKERS[number % len(MARKERS)]
            edge: Any = {"alpha": 0.7, "edgecolor": "white", "linewidth": 0.5, "clip_on": False}
            edge |= {"marker": look.marker, "color": look.colour, "zorder": 3 + number}
            axes.scatter(place[:, 0], place[:, 1], s=points.areas().tolist(), **edge)

    def _spots(self, levels: Sequence[float], taken: Tensor) -> list[Sequence[float]]:
        """Return where lines cross falling diagonals and have space for a label, the thick ones first."""
        x, y, dependence = self.grid
        found: list[Sequence[float]] = []
        for number, level in enumerate(sorted(levels, key=lambda level: level not in NESTED)):
            for turn in range(3):
                shift = ((number + turn) % 3 - 1) * _RESOLUTION // 6
                above = dependence.flip(1).diagonal(shift) > level
                crossings = (above[1:] != above[:-1]).nonzero()[:, 0].tolist()
                cells = [(i + max(0, -shift), _RESOLUTION - 1 - i - max(0, shift)) for i in crossings]
                free = [(float(x[column]), float(y[row])) for row, column in cells if not taken[row, column]]
                if free:
                    found.append(free[0])
                    self._take(taken, free[:1])
                    break
        return found

    def _take(self, taken: Tensor, spots: Sequence[Sequence[float]]) -> None:
        """Mark what is around spots as taken."""
        for spot in spots:
            column, row = (int((axis <= v).sum()) - 1 for axis, v in zip(self.grid, spot, strict=False))
            taken[max(0, row - 8) : row + 9, max(0, column - 14) : column + 15] = True

    def _place(self, points: MapPoints) -> Tensor:
        """Return where points are drawn, (n, 2); what lies outside the axes goes to their edge."""
        pair = zip((points.beta_aux, points.beta), self.limits, strict=True)
        return torch.stack([values.clamp(10**low, 10**high) for values, (low, high) in pair], dim=1)

    def _name_regions(self, axes: "Axes", taken: Tensor) -> None:
        """Write the name of each region where it is widest, if there is space, and not over what is there."""
        from matplotlib.patheffects import withStroke
        from scipy.ndimage import distance_transform_edt  # type: ignore[import-untyped]

        x, y, _ = self.grid
        found = self._bands().masked_fill(taken, -1)
        for index, (name, colour, _) in enumerate(BANDS):
            inside = torch.nn.functional.pad(found == index, (1, 1, 1, 1)).numpy()
            half = 0.014 * len(name) + 0.02, 0.035  # of its width and height, as shares of the map's
            steps = [1 / (share * _RESOLUTION) for share in half[::-1]]
            space = torch.from_numpy(distance_transform_edt(inside, sampling=steps))[1:-1, 1:-1]
            if space.max() < 1:
                continue
            row, column = divmod(int(space.clamp_max(3.0).argmax()), _RESOLUTION)
            text = axes.text(float(x[column]), float(y[row]), name, ha="center", va="center", fontsize=8.5)
            stroke = [withStroke(linewidth=3, foreground=colour)]
            text.set(fontweight="bold", color=INK, zorder=2, path_effects=stroke)


def _title(penalty: str, options: dict[str, float]) -> str:
    """Say which network, and what is known of it."""
    names = {"q": "Finetuning, diagonal", "mtl": "Multi-task, diagonal", "relu": "Finetuning, ReLU"}
    symbols = {"gamma": r"\gamma", "correlation": r"\rho", "readout": "v_0"}
    shown = {"q": {"gamma": 0.0}, "relu": {"correlation": 1.0}}.get(penalty, {}) | options
    return ", ".join([names[penalty], *(rf"${symbols[n]} = {value:.4g}$" for n, value in shown.items())])
