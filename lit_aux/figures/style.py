"""What the pictures share: colours that survive grey printing, a figure without global state, and saving."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from lit_aux.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PathLike: TypeAlias = str | os.PathLike[str]
FORMATS = ("png", "svg", "pdf")
INK, GREY = "#2b2f36", "#6b7280"
SERIES = (("#f0a030", ":"), ("#c8553d", "-."), ("#5b4b8a", "--"), ("#12355b", "-"))
"""Colour and line of ordered series: from light to dark, each with a line of its own."""


def picture_path(path: PathLike, option: str = "path") -> Path:
    """Return the file of a picture, whose ending says its format.

    Args:
        path: Ends in png, svg or pdf.
        option: What the user calls it.

    Raises:
        ConfigurationError: For another ending, or a folder of that name.
    """
    found = Path(path)
    if found.suffix.lower().removeprefix(".") not in FORMATS:
        raise ConfigurationError(
            f"{option}: {str(path)!r} ends in no known format; end it in .png, .svg or .pdf"
        )
    if found.is_dir():
        raise ConfigurationError(f"{option}: {str(path)!r} is a folder; name a file")
    return found


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


def tidy(axes: "Axes", title: str) -> None:
    """Give a panel its title and take away what carries nothing."""
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK, which="both")
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(9)


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure; the file appears complete or not at all, and its folder is made.

    Args:
        figure: Of `new_figure`.
        path: Of `picture_path`.

    Returns:
        The path.

    Raises:
        ConfigurationError: If the file cannot be written there.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = path.suffix.lower().removeprefix(".")
        figure.savefig(part, format=kind, dpi=150, facecolor="white", bbox_inches="tight", pad_inches=0.15)
        part.replace(path)
    except OSError as error:
        raise ConfigurationError(
            f"path: {str(path)!r} cannot be written: {error.strerror or error}"
        ) from error
    finally:
        if part.parent.is_dir():
            part.unlink(missing_ok=True)
    return path
