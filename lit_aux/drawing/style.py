"""What the pictures share: colours that survive grey printing, a figure without global state, and saving."""

import os
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from lit_aux.errors import ConfigurationError
from lit_aux.files import atomic_path, atomic_write
from lit_aux.outputs import check_output

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lit_aux.drawing.picture import Picture

PathLike: TypeAlias = str | os.PathLike[str]
FORMATS = ("png", "svg", "pdf")
TIMES = "\N{MULTIPLICATION SIGN}"
MINUS = "\N{MINUS SIGN}"
INK, GREY, RULE = "#2b2f36", "#6b7280", "#d9dee4"
Line: TypeAlias = Any
"""Of matplotlib: a name, or an offset and lengths of dashes and gaps."""


class Look(NamedTuple):
    """How a curve is drawn."""

    colour: str
    marker: str
    line: Line
    hollow: bool = False
    """Whether its markers are white within."""
    size: float = 3.6
    """Of its markers, in points."""

    def options(self, least: float = 0.0) -> dict[str, Any]:
        """Return matplotlib's options of a line with markers, and of its entry in a legend.

        Args:
            least: Size that markers have at least.
        """
        return {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": self.line,
            "linewidth": 1.4,
            "markersize": max(self.size, least),
            "markerfacecolor": "white" if self.hollow else self.colour,
            "markeredgewidth": 1.2 if self.hollow else 0.4,
            "markeredgecolor": self.colour if self.hollow else "white",
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
    "pr_before": ("PR before", Look("#93b7da", "o", (0, (4, 1.5)))),
    "pr_after": ("PR after", Look("#12355b", "s", "-")),
    "ensd": ("shared (ENSD)", Look("#b8601a", "D", (0, (1.5, 1)))),
}
"""Name and look of what is measured of layers."""
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


def new_figure(width: float, height: float) -> "Picture":
    """Return an empty figure that belongs to no window and to no global state.

    Args:
        width: In inches.
        height: In inches.
    """
    from lit_aux.drawing.picture import Picture

    return Picture(width, height)


def minus(value: float, form: str = "g") -> str:
    """Write a number with a proper minus sign."""
    return f"{value:{form}}".replace("-", MINUS)


def tidy(axes: "Axes", title: str, *, bold: bool = False) -> None:
    """Give a panel its title, small ticks under a small one, and take away what carries nothing."""
    axes.set_title(title, loc="left", fontsize=8.5, color=INK, fontweight="bold" if bold else "normal")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7, colors=INK, which="both")


def save(figure: "Figure", path: PathLike) -> Path:
    """Write a figure; the file appears complete or not at all, and its folder is made.

    PNG files get 256 colours, which is enough for lines and a third of the size; SVG files hold text as text.

    Args:
        figure: Of any function that draws.
        path: The file; its ending (png, svg, pdf) is the format.

    Returns:
        The path.

    Raises:
        ConfigurationError: For another ending, or if the file cannot be written there.
    """
    from lit_aux.drawing.picture import DPI, MARGINS, Picture

    found = picture_path(path)
    kind = found.suffix.lower().removeprefix(".")
    try:
        found.parent.mkdir(parents=True, exist_ok=True)
        if kind == "svg" and isinstance(figure, Picture):
            atomic_write(found, figure.svg())
            return found
        with atomic_path(found) as part:
            figure.savefig(part, format=kind, dpi=DPI, **MARGINS)
            if kind == "png":
                _to_palette(part, DPI)
    except OSError as error:
        raise ConfigurationError(
            f"path: {str(found)!r} cannot be written: {error.strerror or error}"
        ) from error
    return found


def _to_palette(path: Path, dpi: int) -> None:
    """Rewrite a PNG with 256 colours."""
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(path, format="PNG", optimize=True, dpi=(dpi, dpi))
