"""``lit-aux table``: what a results table says."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from lit_aux.cli.parser import Option, Options, command_parser, parse
from lit_aux.errors import ConfigurationError, check_known
from lit_aux.files import atomic_write
from lit_aux.outputs import check_output, written_to
from lit_aux.results.reference import compare
from lit_aux.results.sheet import FORMATS, Format, Sheet, show
from lit_aux.results.sheets import beside, in_full, means_in_full, pairs_in_full
from lit_aux.results.tables import check_baseline, is_known, query, table
from lit_aux.runs.duplicates import check_duplicates
from lit_aux.runs.reading import read_measures, read_rows, tables_of
from lit_aux.runs.table import measures_path
from lit_aux.runs.typed import Row
from lit_aux.storage import check_given, check_place

_DESCRIPTION = (
    "Print what a results table says: means with standard errors over seeds, differences between setups "
    "paired by seed, and who wins each cell. FILE is a results.csv, or a folder: its results.csv, or all "
    "beneath it. Several are read as one; a run that is in several counts once."
)
_OPTIONS: Options = {
    "value": Option(
        "loss_best, loss_final, train_loss, accuracy, seconds, steps, or a measure of measures.csv, "
        "MEASURE@LAYER where it is of several layers; by default what the table is about"
    ),
    "where": Option('only rows with these values: "setup=PT+FT,rescale=1,n_main=16,64"'),
    "by": Option("also tell cells apart by these parameters of a sweep, separated by commas"),
    "mean": Option("geometric or arithmetic; geometric for losses of students by default"),
    "pairs": Option("print differences paired by seed; by default where setups share seeds", bool | None),
    "baseline": Option("the setup that all others are compared with", str, "STL"),
    "reference": Option("a published table: print ours beside it and how many cells agree"),
    "duplicates": Option(
        "first, last or mean: what counts where rows of one run differ by more than 1 %%; by default that is "
        "an error"
    ),
    "format": Option(
        "text, markdown or csv; by default as --out ends, else text. csv has one table: the means, the "
        "differences with --pairs true, or the comparison with --reference"
    ),
    "from_wandb": Option(
        "ENTITY/PROJECT or ENTITY/PROJECT/sweeps/ID: fetch its runs from W&B into the table --out"
    ),
    "out": Option("write there, not to the terminal; with --from-wandb, the results table"),
}


def parser() -> ArgumentParser:
    """Return the parser of ``lit-aux table``."""
    made = command_parser("table", _DESCRIPTION, _OPTIONS)
    made.add_argument("files", type=str, nargs="*", metavar="FILE", help="tables, or folders with tables")
    return made


def run(arguments: Sequence[str]) -> int:
    """Carry out ``lit-aux table``.

    Args:
        arguments: What follows ``table``.

    Returns:
        The exit code, 0.

    Raises:
        ConfigurationError: For what is unknown or impossible, or a file that cannot be read or written.
    """
    given = parse(parser(), arguments)
    if given.out is not None:
        check_place("--out", given.out)
    check_duplicates(given.duplicates)
    if given.from_wandb is not None:
        from lit_aux.results.from_wandb import fetch

        if given.files:
            raise ConfigurationError(
                f"FILE {given.files[0]}: --from-wandb fetches runs into --out; leave FILE out"
            )
        print(fetch(given.from_wandb, given.out or "results.csv", given.duplicates))
        return 0
    if not given.files:
        raise ConfigurationError("FILE: nothing is given; name a results.csv or a folder that has one")
    if given.reference is not None:
        check_given("--reference", given.reference)
    kind = _format(given.format, given.out)
    if given.out is not None:
        check_output("--out", given.out, inputs=_inputs(given), kind="printed table")
    found = _sheets(given, kind)
    if given.out is None and kind == "text":
        show(found)
        return 0
    text = "\n".join(sheet.render(kind) for sheet in found)
    if given.out is None:
        print(text, end="")
        return 0
    path = Path(given.out)
    with written_to(path, path.parent):
        atomic_write(path, text)
    print(f"table: {path}")
    return 0


def _inputs(given: Any) -> list[Path]:
    """Return the files that are read."""
    tables = tables_of([*given.files, *([] if given.reference is None else [given.reference])])
    return [*tables, *map(measures_path, tables)]


def _sheets(given: Any, kind: Format) -> list[Sheet]:
    """Return what is printed, one after the other."""
    rows: Sequence[Row] = read_rows(given.files, given.duplicates)
    by = [name.strip() for name in (given.by or "").split(",") if name.strip()]
    looked_at = {*by, str(given.value).partition("@")[0]}
    needed = bool(by) or not is_known(rows, given.value)
    measures = read_measures(given.files, given.duplicates, looked_at) if needed else []
    how = {"value": given.value, "by": by, "where": given.where, "mean": given.mean}
    if given.reference is None and kind != "csv":
        return table(rows, measures, **how, baseline=given.baseline, paired=given.pairs)
    look = query(rows, measures, **how)
    if given.reference is not None:
        comparison = compare(look.rows, _reference(given.reference, given.duplicates))
        return [in_full(comparison)] if kind == "csv" else beside(comparison)
    check_baseline(given.baseline, look.rows)
    return [pairs_in_full(look, given.baseline) if given.pairs else means_in_full(look)]


def _reference(path: str, duplicates: str | None) -> list[Row]:
    """Read the published table."""
    try:
        return read_rows(path, duplicates)
    except ConfigurationError as error:
        raise ConfigurationError(re.sub(r"^FILE\b", "--reference", str(error))) from None


def _format(given: str | None, out: str | None) -> Format:
    if given is None:
        ends: dict[str, Format] = {".md": "markdown", ".csv": "csv"}
        return ends.get(Path(out).suffix.lower() if out else "", "text")
    check_known("--format", given, FORMATS)
    return given  # type: ignore[return-value]
