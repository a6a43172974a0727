"""``lit-aux report``: one HTML page of what runs left."""

import gc
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from lit_aux.cli.display import open_file
from lit_aux.cli.parser import Option, Options, command_parser, parse
from lit_aux.errors import ConfigurationError
from lit_aux.runs.duplicates import check_duplicates
from lit_aux.storage import check_place

if TYPE_CHECKING:
    from lit_aux.pages.live import LivePage

LIVE = "keep a page of the results beside the table while runs go on: open it in a browser"
_DESCRIPTION = (
    "Write one HTML page of what runs left: what ran and how, what lit-aux table prints, every picture that "
    "the rows cover, layers, trajectories, regimes, failures, and links into the folders of runs. It needs "
    "no network and no other file. RUN is a run's folder, a results.csv, or a folder that has some anywhere "
    "beneath; several make one page."
)
_OPTIONS: Options = {
    "out": Option("the page; report.html in the only folder that is given, else here"),
    "open": Option("open it in a browser, where there is a display", bool),
    "live": Option("write it again whenever the tables change, until Ctrl-C", bool),
    "duplicates": Option(
        "first, last or mean: what counts where rows of one run differ by more than a hundredth"
    ),
}


def parser() -> ArgumentParser:
    """Return the parser of ``lit-aux report``."""
    made = command_parser("report", _DESCRIPTION, _OPTIONS)
    made.add_argument("runs", type=str, nargs="*", metavar="RUN", help="folders of runs, or tables")
    return made


def run(arguments: Sequence[str], wait: Callable[[float], object] = sleep) -> int:
    """Carry out ``lit-aux report``.

    Args:
        arguments: What follows ``report``.
        wait: Waits for some seconds, between two looks at the tables.

    Returns:
        The exit code, 0.

    Raises:
        ConfigurationError: For what is unknown or not there, tables that cannot be read, or a page that
            cannot be written.
    """
    from lit_aux.pages.live import follow
    from lit_aux.pages.page import default_place, write_report
    from lit_aux.pages.sources import files_of_page

    given = parse(parser(), arguments)
    if given.out is not None:
        check_place("--out", given.out)
    check_duplicates(given.duplicates)
    if not given.runs:
        raise ConfigurationError("RUN: nothing is given; name a run's folder or a results.csv")
    page = default_place(given.runs) if given.out is None else Path(given.out)

    def write(refresh: int | None) -> Path:
        return write_report(given.runs, page, duplicates=given.duplicates, refresh=refresh)

    with _uncollected():
        write(None)
    unseen = given.open and not open_file(page)
    print(f"report: {page}{' (there is no display here: open it in a browser)' * unseen}", flush=True)
    if given.live:
        print("it is written again whenever tables change; Ctrl-C ends that", flush=True)
        follow(write, lambda: files_of_page(given.runs), wait)
    return 0


@contextmanager
def _uncollected() -> Iterator[None]:
    """Let the collector of garbage rest: drawing makes very many objects that stay."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def named(table: Path, live: bool) -> "Iterator[LivePage | None]":
    """Name the page of a results table when its runs have ended; keep it up to date where that is asked for.

    Unless it is, there is only the command that writes it: drawing takes some seconds, which most who start
    runs by the hundred do not want.

    Args:
        table: The table.
        live: Whether the page is written while runs go on.
    """
    page: LivePage | None = None
    if live:
        from lit_aux import pages

        page = pages.LivePage(table)
        print(f"report: {page.path}, brought up to date while runs go on", flush=True)
    try:
        yield page
    finally:
        if page is not None:
            page.close()
    if table.is_file():
        command = shlex.join(
            ["lit-aux", "report", str(table.parent if table.name == "results.csv" else table)]
        )
        print(f"report: {page.path if page is not None else f'{command} --open'}", flush=True)
