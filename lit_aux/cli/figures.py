"""``lit-aux figures``: pictures of the theory, and of results."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from lit_aux.cli.parser import Option, Options, command_parser, parse
from lit_aux.errors import ConfigurationError, unknown_name
from lit_aux.figures.layout import Request
from lit_aux.figures.results import FIGURES, draw_all, draw_figure
from lit_aux.figures.style import picture_path
from lit_aux.runs.duplicates import check_duplicates
from lit_aux.storage import check_place

PICTURES = {
    "penalties": ("penalties", "draw_penalties", "each penalty against the coefficient"),
    "l-order": ("penalties", "draw_l_order", "l-order and feature dependence"),
    "regimes": ("regime_map", "draw_regimes", "maps of the lazy, nested and rich regimes"),
}
"""Of the theory: module, function and what it shows."""
ALL = "all"
_OPTIONS: Options = {
    "results": Option(
        "results.csv, or folders that hold one, of reproduce, sweep or fit; published ones too", list[str], []
    ),
    "reference": Option("folder of published tables to lay over, dashed"),
    "experiment": Option("draw the rows of this experiment"),
    "network": Option("draw the rows of diagonal, relu or image networks"),
    "where": Option('draw rows with these values only, as in "k_main=5,10"', list[str], []),
    "duplicates": Option("first, last or mean: what counts where rows of one run differ by more than 1 %%"),
    "value": Option("the loss of students", Literal["loss_best", "loss_final"], "loss_best"),
    "mean": Option("of losses over seeds", Literal["arithmetic", "geometric"], "geometric"),
    "out": Option("the file, in png, svg or pdf by its ending; NAME.png by default"),
}
_OF_RESULTS = ("results", "reference", "experiment", "network", "where", "duplicates")


def parser() -> ArgumentParser:
    """Return the parser of ``lit-aux figures``."""
    theory = "\n".join(f"  {name:18} {about}" for name, (*_, about) in PICTURES.items())
    results = "\n".join(f"  {name:18} {figure.about}" for name, figure in FIGURES.items())
    made = command_parser(
        "figures",
        (
            f"Draw a figure.\n\nof the theory:\n{theory}\n\nof results tables (--results):\n{results}\n"
            f"  {ALL:18} every figure that the tables cover, into the folder --out\n\n"
            "Error bars are 2 standard errors over seeds."
        ),
        _OPTIONS,
    )
    made.add_argument("name", type=str, help="one of those above")
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
    if given.out is not None:
        check_place("--out", given.out)
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
    check_duplicates(given.duplicates)
    source = {name: given[name] for name in _OF_RESULTS}
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
    for option in _OF_RESULTS:
        if value := given[option]:
            text = " ".join(value) if isinstance(value, list) else value
            raise ConfigurationError(
                f"--{option} {text or repr(text)}: {given.name} is a picture of the theory, drawn from "
                "no rows"
            )


def _parse(arguments: Sequence[str]) -> Any:
    return parse(
        parser(),
        arguments,
        nothing=f"NAME: nothing is given; name one of {', '.join([*PICTURES, *FIGURES, ALL])}",
        stray="draw one figure at a time",
        missing={"--out": "name a file", "--where": "as in k_main=5", "": "name one"},
    )
