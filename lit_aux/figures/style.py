"""What the pictures share: colours that survive grey printing, a figure without global state, and saving."""

import os
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from lit_aux.errors import ConfigurationError
from lit_aux.files import atomic_path
from lit_aux.outputs import check_output

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PathLike: TypeAlias = str | os.PathLike[str]
FORMATS = ("png", "svg", "pdf")
TIMES = "\N{MULTIPLICATION SIGN}"
_DPI = 150
INK, GREY = "#2b2f36", "#6b7280"
SERIES = (("#f0a030", ":"), ("#c8553d", "-."), ("#5b4b8a", "--"), ("#12355b", "-"))
"""Colour and line of ordered series: from light to dark, each with a line of its own."""
Line: TypeAlias = Any
"""Of matplotlib: a name, or an offset and lengths of dashes and gaps."""


class Look(NamedTuple):
    """How a curve is drawn."""

    colour: str
    marker: str
    line: Line

    def options(self, size: float = 4.5) -> dict[str, Any]:
        """Return matplotlib's options of a line with markers, and of its entry in a legend."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": self.line,
            "linewidth": 1.4,
            "markersize": size,
            "markeredgewidth": 0.4,
            "markeredgecolor": "white",
        }


SETUPS = {
    "STL": Look("#e99a00", "s", (0, (3, 1.2))),
    "MTL": Look("#b02a1f", "^", (0, (7, 1.5))),
    "PT+FT": Look("#0b2545", "o", "-"),
    "STL (LP)": Look("#dcc45a", "D", (0, (1, 1))),
    "PT+FT (LP)": Look("#2f7fbf", "v", (0, (5, 1, 1, 1))),
    "PT+FT (LoRA)": Look("#6b051d", "*", (0, (2, 2))),
    "STL (NTK)": Look("#52a36e", "P", (0, (1, 2))),
    "PT+FT (NTK)": Look("#5b2a86", "X", (0, (5, 1, 1, 1, 1, 1))),
}
"""The look of each setup, the same in all figures: its own colour, marker and line, and its own lightness."""
QUANTITIES = {
    "pr_before": Look("#93b7da", "o", (0, (4, 1.5))),
    "pr_after": Look("#12355b", "s", "-"),
    "ensd": Look("#b8601a", "D", (0, (1.5, 1))),
}
PUBLISHED: Line = (0, (2.5, 1.5))
_FACTORS = ("#440154", "#3b528b", "#21908d", "#6ccb5f")
_MARKERS = "oD^vPX*"
_LINES: tuple[Line, ...] = ("-", (0, (5, 1)), (0, (4, 1, 1, 1)), (0, (2, 1)), (0, (1, 1)))


def ordered_looks(count: int) -> list[Look]:
    """Return looks for ordered series, from dark to light, each with its own marker and line.

    Args:
        count: How many; markers repeat after seven, lines after five.
    """
    from matplotlib.colors import LinearSegmentedColormap, to_hex

    shades = LinearSegmentedColormap.from_list("series", _FACTORS)(np.linspace(0, 1, count))
    return list(map(Look, map(to_hex, shades), cycle(_MARKERS), cycle(_LINES)))


def picture_path(path: PathLike, option: str = "path") -> Path:
    """Return the file of a picture, whose ending says its format.

    Args:
        path: Ends in png, svg or pdf.
        option: What the user calls it.

    Raises:
        ConfigurationError: For another ending, or if there is a folder or another kind of file of that name.
    """
    found = Path(path)
    if found.suffix.lower().removeprefix(".") not in FORMATS:
        raise ConfigurationError(
            f"{option}: {str(path)!r} ends in no known format; end it in .png, .svg or .pdf"
        )
    if found.is_dir():
        raise ConfigurationError(f"{option}: {str(path)!r} is a folder; name a file")
    return check_output(option, path, kind="picture")


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure that belongs to no window and to no global state.

    Args:
        width: In inches.
        height: In inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def minus(value: float) -> str:
    """Write a number with a proper minus sign."""
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def tidy(axes: "Axes", title: str, size: float = 10) -> None:
    """Give a panel its title, small ticks under a small one, and take away what carries nothing."""
    axes.set_title(title, loc="left", fontsize=size, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK, which="both")
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(9)
    if size < 10:
        axes.tick_params(labelsize=7)


def save(figure: "Figure", path: Path, *, palette: bool = False) -> Path:
    """Write a figure; the file appears complete or not at all, and its folder is made.

    Args:
        figure: Of `new_figure`.
        path: Of `picture_path`.
        palette: Whether a PNG gets 256 colours, which is enough for lines and a third of the size.

    Returns:
        The path.

    Raises:
        ConfigurationError: If the file cannot be written there.
    """
    kind = path.suffix.lower().removeprefix(".")
    check_output("--out", path, kind="picture")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as part:
            margins: Any = {"bbox_inches": "tight", "pad_inches": 0.15}
            figure.savefig(part, format=kind, dpi=_DPI, facecolor="white", **margins)
            if palette and kind == "png":
                _to_palette(part)
    except OSError as error:
        raise ConfigurationError(
            f"path: {str(path)!r} cannot be written: {error.strerror or error}"
        ) from error
    return path


def _to_palette(path: Path) -> None:
    """Rewrite a PNG with 256 colours."""
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(path, format="PNG", optimize=True, dpi=(_DPI, _DPI))
