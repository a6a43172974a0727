"""``lit-aux figures``: pictures of the theory."""

import re
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from lit_aux.errors import ConfigurationError, unknown_name
from lit_aux.figures.penalties import draw_l_order, draw_penalties
from lit_aux.figures.regime_map import draw_regimes
from lit_aux.figures.style import picture_path

PICTURES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "penalties": (draw_penalties, "each penalty against the coefficient, for several pretrained ones"),
    "l-order": (draw_l_order, "l-order and feature dependence against the pretrained coefficient"),
    "regimes": (draw_regimes, "maps of the lazy, nested and rich regimes"),
}


def parser() -> ArgumentParser:
    """Return the parser of ``lit-aux figures``."""
    made = ArgumentParser(
        prog="lit-aux figures",
        description="Draw pictures of the theory of finetuning and multi-task training.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    known = "; ".join(f"{name}: {about}" for name, (_, about) in PICTURES.items())
    made.add_argument("name", type=str, help=known)
    made.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="the file, in png, svg or pdf by its ending; NAME.png by default",
    )
    return made


def run(arguments: Sequence[str]) -> int:
    """Carry out ``lit-aux figures``.

    Args:
        arguments: What follows ``figures``.

    Returns:
        The exit code, 0.

    Raises:
        ConfigurationError: For an unknown picture, option or format, or a file that cannot be written.
    """
    given = _parse(arguments)
    if given.name not in PICTURES:
        raise unknown_name("NAME", given.name, PICTURES)
    path = picture_path(f"{given.name}.png" if given.out is None else given.out, "--out")
    print(f"picture: {PICTURES[given.name][0](path)}")
    return 0


def _parse(arguments: Sequence[str]) -> Any:
    """Parse, saying what is wrong in the house's way."""
    try:
        return parser().parse_args(list(arguments))
    except ArgumentError as error:
        text = str(error)
        if match := re.match(r"unrecognized arguments: (\S+)", text):
            word = match[1].partition("=")[0]
            if word.startswith("-"):
                raise unknown_name("figures", word, ["--out"]) from None
            raise ConfigurationError(f"{word!r} belongs to no option; draw one picture at a time") from None
        if "arguments are required" in text:
            raise ConfigurationError(f"NAME: nothing is given; name one of {', '.join(PICTURES)}") from None
        if match := re.match(r"argument (--\S+): expected one argument", text):
            raise ConfigurationError(f"{match[1]}: nothing is given; name a file") from None
        raise
