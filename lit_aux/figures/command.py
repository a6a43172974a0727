"""``lit-aux figures``: pictures of the theory, and of results."""

import re
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from lit_aux.errors import ConfigurationError, unknown_name
from lit_aux.figures.catalogue import FIGURES
from lit_aux.figures.request import Request
from lit_aux.figures.style import picture_path

PICTURES = {
    "penalties": ("penalties", "draw_penalties", "each penalty against the coefficient"),
    "l-order": ("penalties", "draw_l_order", "l-order and feature dependence"),
    "regimes": ("regime_map", "draw_regimes", "maps of the lazy, nested and rich regimes"),
}
"""Of the theory: module, function and what it shows."""
ALL = "all"
_OPTIONS = ("--results", "--reference", "--experiment", "--network", "--where", "--value", "--mean", "--out")


class _Help(DefaultHelpFormatter):
    """Leaves the lines of the description as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))


def parser() -> ArgumentParser:
    """Return the parser of ``lit-aux figures``."""
    theory = "\n".join(f"  {name:18} {about}" for name, (*_, about) in PICTURES.items())
    results = "\n".join(f"  {name:18} {figure.about}" for name, figure in FIGURES.items())
    made = ArgumentParser(
        prog="lit-aux figures",
        description=(
            f"Draw a figure.\n\nof the theory:\n{theory}\n\nof results tables (--results):\n{results}\n"
            f"  {ALL:18} every figure that the tables cover, into the folder --out\n\n"
            "Error bars are 2 standard errors over seeds."
        ),
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=_Help,
    )
    made.add_argument("name", type=str, help="one of those above")
    made.add_argument(
        "--results",
        type=str,
        nargs="+",
        default=[],
        help="results.csv, or folders that hold one, of reproduce, sweep or fit; published ones too",
    )
    made.add_argument(
        "--reference", type=str | None, default=None, help="folder of published tables to lay over, dashed"
    )
    made.add_argument("--experiment", type=str | None, default=None, help="draw the rows of this experiment")
    made.add_argument(
        "--network", type=str | None, default=None, help="draw the rows of diagonal, relu or image networks"
    )
    made.add_argument(
        "--where",
        type=str,
        nargs="+",
        default=[],
        help='draw rows with these values only, as in "k_main=5,10"',
    )
    made.add_argument(
        "--value", type=Literal["loss_best", "loss_final"], default="loss_best", help="the loss of students"
    )
    made.add_argument(
        "--mean", type=Literal["arithmetic", "geometric"], default="arithmetic", help="of losses over seeds"
    )
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
        ConfigurationError: For an unknown figure, option or format, tables that do not have its rows, or a
            file that cannot be written.
    """
    given = _parse(arguments)
    if given.name in PICTURES:
        _refuse_options_of_results(given)
        module, function, _ = PICTURES[given.name]
        path = picture_path(f"{given.name}.png" if given.out is None else given.out, "--out")
        drawn: Callable[[Path], Path] = getattr(import_module(f"lit_aux.figures.{module}"), function)
        print(f"picture: {drawn(path)}")
        return 0
    if given.name != ALL and given.name not in FIGURES:
        raise unknown_name("NAME", given.name, [*PICTURES, *FIGURES, ALL])
    if not given.results:
        raise ConfigurationError(
            f"--results: nothing is given; {given.name} is drawn from a table, as of "
            f"{FIGURES.get(given.name, FIGURES['overlap']).example}"
        )
    from lit_aux.figures.results import draw_all, draw_figure

    source = {
        name: getattr(given, name) for name in ("results", "reference", "experiment", "network", "where")
    }
    how = Request(given.value, given.mean)
    if given.name == ALL:
        lines = draw_all(Path("figures" if given.out is None else given.out), how=how, **source)
    else:
        path = picture_path(f"{given.name}.png" if given.out is None else given.out, "--out")
        lines = draw_figure(given.name, path, how=how, **source)
    for line in lines:
        print(line)
    return 0


def _refuse_options_of_results(given: Any) -> None:
    for option in _OPTIONS[:5]:
        if getattr(given, option.removeprefix("--")):
            raise ConfigurationError(f"{option}: {given.name} is a picture of the theory, drawn from no rows")


def _parse(arguments: Sequence[str]) -> Any:
    """Parse, saying what is wrong in the house's way."""
    names = [*PICTURES, *FIGURES, ALL]
    try:
        return parser().parse_args(list(arguments))
    except ArgumentError as error:
        text = str(error)
        if match := re.match(r"unrecognized arguments: (\S+)", text):
            word = match[1].partition("=")[0]
            if word.startswith("-"):
                raise unknown_name("figures", word, _OPTIONS) from None
            raise ConfigurationError(f"{word!r} belongs to no option; draw one figure at a time") from None
        if "arguments are required" in text:
            raise ConfigurationError(f"NAME: nothing is given; name one of {', '.join(names)}") from None
        if match := re.match(r"argument (--\S+): expected (?:at least )?one argument", text):
            what = {"--out": "name a file", "--where": "as in k_main=5"}.get(match[1], "name one")
            raise ConfigurationError(f"{match[1]}: nothing is given; {what}") from None
        raise
