"""``lit-aux figures``: pictures of the theory, and of results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from lit_aux import figures
from lit_aux.cli.parser import Option, Options, command_parser, parse
from lit_aux.drawing.style import picture_path, save
from lit_aux.errors import ConfigurationError, unknown_name
from lit_aux.figures.request import Request
from lit_aux.figures.results import FIGURES, Drawn, chosen, drawn, figures_of, nothing_for
from lit_aux.figures.tables import Tables, load
from lit_aux.runs.duplicates import check_duplicates
from lit_aux.storage import check_place

PICTURES = {
    "penalties": ("draw_penalties", "each penalty against the coefficient"),
    "l-order": ("draw_l_order", "l-order and feature dependence"),
    "regimes": ("draw_regimes", "maps of the lazy, nested and rich regimes"),
}
"""Of the theory: function and what it shows."""
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
        path = picture_path(f"{given.name}.png" if given.out is None else given.out, "--out")
        print(f"picture: {save(getattr(figures, PICTURES[given.name][0])(), path)}")
        return 0
    if given.name != ALL and given.name not in FIGURES:
        raise unknown_name("NAME", given.name, [*PICTURES, *FIGURES, ALL])
    if not given.results:
        raise ConfigurationError(
            f"--results: nothing is given; {given.name} is drawn from a table, as of "
            f"{FIGURES.get(given.name, FIGURES['overlap']).example}"
        )
    check_duplicates(given.duplicates)
    how = Request(given.value, given.mean)
    if given.name == ALL:
        folder = Path("figures" if given.out is None else given.out)
        if folder.suffix or folder.is_file():
            raise ConfigurationError(f"--out: {str(folder)!r} is no folder; all figures go into one")
        tables, published = _tables(given)
        missing: list[str] = []
        lines = [
            line
            for found in figures_of(tables, how, published, missing.append)
            for line in _saved(found, folder / f"{found.name}.png")
        ]
        if not lines:
            raise ConfigurationError(missing[0]) if missing else nothing_for(ALL, tables)
        lines += [f"not drawn: {text}" for text in dict.fromkeys(missing)]
    else:
        path = picture_path(f"{given.name}.png" if given.out is None else given.out, "--out")
        tables, published = _tables(given)
        lines = _saved(drawn(given.name, tables, how, published), path)
    for line in (*lines, *(f"note: {text}" for text in tables.notes)):
        print(line)
    return 0


def _tables(given: Any) -> tuple[Tables, Tables | None]:
    """Return the rows that are to be drawn, and published ones."""
    tables = load(given.results, duplicates=given.duplicates)
    tables = chosen(tables, given.experiment, given.network, given.where)
    reference = given.reference
    return tables, None if reference is None else load([reference], "--reference", given.duplicates)


def _saved(found: Drawn, path: Path) -> list[str]:
    """Write a figure; return lines that say what is on it."""
    return [f"picture: {save(found.figure, path)}", *(f"  {text}" for text in found.notes)]


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
