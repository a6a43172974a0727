"""A page that is brought up to date while runs go on."""

from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Event, Thread
from time import monotonic

from lit_aux.errors import ConfigurationError, one_line
from lit_aux.outputs import check_output
from lit_aux.pages.page import KIND, NAME, write_report
from lit_aux.pages.sources import RESULTS

SECONDS = 15
_SHARE = 10  # of the time, a tenth at most is spent on the page


class LivePage:
    """Writes a page again as rows come, now and then; what goes wrong with it costs no run.

    It is written by a thread of its own: who adds rows only says so, and waits for nothing. A page that is
    there is of all rows within ``seconds`` of the last one.

    Args:
        table: The results table; the page lies beside it.
        say: Told once what went wrong with the page.
        seconds: Least time between two times.

    Raises:
        ConfigurationError: If there is a file in the page's place that is none.

    Attributes:
        path: The page.
    """

    def __init__(self, table: Path, say: Callable[[str], object] = print, seconds: float = SECONDS) -> None:
        self.path = check_output("--live", table.parent / NAME, kind=KIND)
        self._table, self._say, self._seconds = table, say, seconds
        self._told = False
        self._due, self._over = Event(), Event()
        self._due.set()
        self._thread = Thread(target=self._follow, daemon=True)
        self._thread.start()

    def __call__(self) -> None:
        """Say that there are more rows."""
        self._due.set()

    def close(self) -> None:
        """Write the page for the last time: browsers do not read it again."""
        self._over.set()
        self._due.set()
        self._thread.join()
        self._write(None)

    def _follow(self) -> None:
        while self._due.wait() and not self._over.is_set():
            self._due.clear()
            began = monotonic()
            self._write(SECONDS)
            self._over.wait(max(self._seconds, _SHARE * (monotonic() - began)))

    def _write(self, refresh: int | None) -> None:
        try:
            if self._table.is_file():
                folder = self._table.parent
                whole = self._table.name == RESULTS and folder.resolve() != Path.cwd()
                about = folder if whole else self._table
                write_report(about, self.path, duplicates="last", refresh=refresh)
        except Exception as error:  # whatever it is, training goes on
            if not self._told:
                self._say(f"note: the report {self.path} cannot be written: {one_line(error)}")
            self._told = True


def follow(
    write: Callable[[int | None], object],
    files: Callable[[], Iterable[Path]],
    wait: Callable[[float], object],
) -> None:
    """Write a page whenever its files have changed, until Ctrl-C.

    Args:
        write: Writes it, with the seconds after which browsers read it again; None for the last time.
        files: Returns the files that it is made from.
        wait: Waits for some seconds.
    """
    known: object = None
    said = ""
    try:
        while True:
            try:
                now = [
                    (path, found.st_mtime_ns, found.st_size) for path in files() for found in (path.stat(),)
                ]
                if now != known:
                    known = now
                    write(SECONDS)
            except (ConfigurationError, OSError) as error:  # a file is being replaced, say: it comes again
                if said != (said := one_line(error)):
                    print(f"note: the report is as it was: {said}", flush=True)
            wait(SECONDS)
    except KeyboardInterrupt:
        write(None)
