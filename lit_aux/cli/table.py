"""``lit-aux table``: what a results table says."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from lit_aux.cli.parser import Option, Options, command_parser, parse
from lit_aux.errors import ConfigurationError, check_known, unknown_name
from lit_aux.files import atomic_write
from lit_aux.outputs import check_output, written_to
from lit_aux.results import selection, sheets
from lit_aux.results.means import is_log
from lit_aux.results.reference import compare
from lit_aux.results.sheet import FORMATS, Format, Sheet
from lit_aux.results.sheets import Query, beside, in_full
from lit_aux.results.statistics import SETUPS
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
    width = 200 if given.out is not None or not sys.stdout.isatty() else os.get_terminal_size().columns
    text = "\n".join(sheet.render(kind, width) for sheet in _sheets(given, kind))
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
    query = _query(given)
    if given.reference is not None:
        comparison = compare(query.rows, _reference(given.reference, given.duplicates))
        return [in_full(comparison)] if kind == "csv" else beside(comparison)
    _check_baseline(given.baseline, query.rows)
    if kind == "csv":
        return [sheets.pairs_in_full(query, given.baseline) if given.pairs else sheets.means_in_full(query)]
    found = [sheets.means(query)]
    paired = sheets.pairs(query, given.baseline)
    if given.pairs or (given.pairs is None and paired.rows):
        found.append(paired)
    if query.higher is not None and (won := sheets.who_wins(query)).rows:
        found.append(won)
    return found


def _reference(path: str, duplicates: str | None) -> list[Row]:
    """Read the published table."""
    try:
        return read_rows(path, duplicates)
    except ConfigurationError as error:
        raise ConfigurationError(re.sub(r"^FILE\b", "--reference", str(error))) from None


def _query(given: Any) -> Query:
    rows: Sequence[Row] = read_rows(given.files, given.duplicates)
    by = [name.strip() for name in (given.by or "").split(",") if name.strip()]
    value = given.value
    known = value is None or any(row.get(value) is not None for row in rows) or value in selection.COLUMNS
    looked_at = {*by, str(value).partition("@")[0]}
    measures = read_measures(given.files, given.duplicates, looked_at) if by or not known else []
    rows = selection.with_options(rows, measures, by)
    if given.where is not None:
        rows = selection.where(rows, given.where)
    if value is None:
        value = selection.default_value(rows)
    elif not known:
        rows, value = selection.with_measure(rows, measures, value)
    if not any(row.get(value) is not None for row in rows):
        raise ConfigurationError(f"--value {value}: no row has it; this table has {_present(rows)}")
    if given.mean not in (None, "geometric", "arithmetic"):
        raise unknown_name("--mean", given.mean, ("geometric", "arithmetic"))
    log = is_log(rows, value) if given.mean is None else given.mean == "geometric"
    if log and any(isinstance(row.get(value), float) and row[value] < 0 for row in rows):
        raise ConfigurationError(
            f"--mean geometric: some values of {value} are below 0; take the arithmetic mean"
        )
    return Query(rows, value, log, selection.is_higher_better(value), tuple(by))


def _present(rows: Sequence[Row]) -> str:
    return ", ".join(name for name in selection.COLUMNS if any(row.get(name) is not None for row in rows))


def _check_baseline(name: str, rows: Sequence[Row]) -> None:
    known = {row["setup"] for row in rows if row["setup"] is not None}
    if name not in known and name not in SETUPS:
        raise unknown_name("--baseline", name, sorted(known))


def _format(given: str | None, out: str | None) -> Format:
    if given is None:
        ends: dict[str, Format] = {".md": "markdown", ".csv": "csv"}
        return ends.get(Path(out).suffix.lower() if out else "", "text")
    check_known("--format", given, FORMATS)
    return given  # type: ignore[return-value]
