"""The results table: a row for every run of an experiment, kept whole whatever happens to the writer."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from lit_aux.errors import ConfigurationError
from lit_aux.files import remove_parts
from lit_aux.locks import Lock
from lit_aux.runs.csv_file import CsvFile

COLUMNS = (
    *("run", "experiment", "setup", "seed", "n_main"),
    *("overlap", "k_main", "correlation", "magnitude", "rescale", "solver"),
    *("loss_best", "loss_final", "train_loss", "steps", "converged", "seconds", "accuracy", "error"),
)
ADDED = 1
"""How many of the last columns tables that were written before lack: ``error``."""
OPTION_COLUMNS = {
    "data.seed": "seed",  # of students, whose seeds may be several
    "seed_everything": "seed",
    "data.n_main": "n_main",
    "data.overlap": "overlap",
    "data.k_main": "k_main",
    "data.correlation": "correlation",
    "data.magnitude": "magnitude",
    "model.rescale": "rescale",
}
"""Columns by the option of ``lit-aux fit`` that sets them."""
MEASURE_COLUMNS = ("run", "phase", "step", "layer", "measure", "value")
TASK, CLASSES = "task", "task_classes"
"""Measures whose ``layer`` is the name of the task, and those of its classes with ``|`` between them."""


class ResultsTable:
    """``results.csv`` and the ``measures.csv`` beside it, open for one writer.

    Rows are appended as runs end, each in one write that reaches the disk before ``append`` returns. A writer
    that was killed leaves whole rows: a last line without its end is cut off when the table is opened again,
    and measures of a run that did not get its row are replaced when it gets it. A run that failed has a row
    too: what went wrong in ``error``, ``converged`` false, and no numbers. A table that was written before
    there was this column gets it, the file replaced as a whole.

    Args:
        path: The table; made with its folder where it does not exist. Measures are written to
            ``measures.csv`` beside a ``results.csv``, to ``NAME.measures.csv`` beside a ``NAME.csv``.
        appended: Called whenever rows have been added.

    Raises:
        ConfigurationError: If the file is no table of these columns, cannot be written, or has a writer.

    Attributes:
        path: The table.
        measures_path: Its measures.
        experiment: The experiment that the first row with one names; empty where none does.
    """

    def __init__(self, path: str | Path, appended: Callable[[], object] | None = None) -> None:
        self.path = Path(path)
        self._appended = appended
        self.measures_path = measures_path(self.path)
        self._results = CsvFile(self.path, COLUMNS, ADDED)
        self._measures = CsvFile(self.measures_path, MEASURE_COLUMNS)
        self._results.check()  # before anything is made, so that a refusal leaves nothing behind
        self._measures.check()
        self._new = not self.path.exists()
        self._new_folders = [folder for folder in self.path.parents if not folder.exists()]
        self._done: set[str] = set()
        self.experiment = ""
        self._lock = self._claim()
        try:
            self._results.open()
            self._measures.open()
            rows = self.rows()
            self._done = {row["run"] for row in rows}
            self._note_experiment(rows)
            self._failed = {row["run"] for row in rows if row["error"]}
            self._halves = {row["run"] for row in self._measures.rows()} - self._done
        except BaseException:
            self.close()
            raise

    def _claim(self) -> Lock:
        """Become the only writer, or say that there is one."""
        lock = Lock(self.path.with_name(f".{self.path.name}.lock"))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            free = lock.acquire()
        except OSError as error:
            raise ConfigurationError(f"--out {self.path}: cannot be written ({error.strerror})") from None
        if not free:
            raise ConfigurationError(
                f"--out {self.path}: {lock.holder()} is writing it; wait for its end, end it, or name "
                f"another file (where no such process is left, remove {lock.path}*)"
            )
        for path in (self.path, self.measures_path):  # what a writer left that was killed
            remove_parts(path.parent, path.name)
        return lock

    def __enter__(self) -> "ResultsTable":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process write; leave nothing of a new table without rows."""
        self._results.close()
        self._measures.close()
        nothing = self._lock.held and self._new and not self._done
        if nothing:
            for path in (self.path, self.measures_path):
                path.unlink(missing_ok=True)
        self._lock.release()
        if nothing:
            with suppress(OSError):  # others have put files there meanwhile
                for folder in self._new_folders:
                    folder.rmdir()

    def done(self) -> set[str]:
        """Return the hashes of the runs that have their row."""
        return set(self._done)

    def failed(self) -> set[str]:
        """Return the hashes of the runs whose row says that they failed."""
        return set(self._failed)

    def rows(self) -> list[dict[str, str]]:
        """Return every row as it is written, by column."""
        return list(self._results.rows())

    def measures(self) -> list[dict[str, str]]:
        """Return every row of the measures beside the table."""
        return list(self._measures.rows())

    def append(self, rows: Sequence[Mapping[str, Any]], measures: Iterable[Mapping[str, Any]] = ()) -> None:
        """Add the rows of runs that have ended, and what was measured in them.

        Args:
            rows: One mapping a run, by column; what is missing, None or NaN stays empty. ``correlation`` may
                be a sequence of numbers.
            measures: Rows of ``measures.csv`` of the same runs. They are written first, so that a run with a
                row has all of them.

        Raises:
            ValueError: For a column that the table does not have, a run without hash, or one that is there.
            ConfigurationError: If the disk is full or the file cannot be written; nothing is added then.
        """
        new = [str(row["run"]) if row.get("run") else "" for row in rows]
        if "" in new or len({*new}) < len(new) or self._done & {*new}:
            raise ValueError(f"every row needs the hash of a run that has none yet: {new}")
        if again := self._halves & {*new}:  # a writer was killed between the two files
            self._measures.keep(lambda row: row["run"] not in again)
            self._halves -= again
        self._measures.append(measures)
        self._results.append(rows)
        self._done.update(new)
        self._note_experiment(rows)
        self._failed.update(str(row["run"]) for row in rows if row.get("error"))
        if self._appended is not None:
            self._appended()

    def _note_experiment(self, rows: Iterable[Mapping[str, Any]]) -> None:
        named = (str(row["experiment"]) for row in rows if row.get("experiment"))
        self.experiment = self.experiment or next(named, "")

    def remove(self, runs: Collection[str]) -> None:
        """Take the rows of some runs out, with their measures: so that failed ones can be tried again.

        Each file is replaced as a whole. A writer that is killed between the two leaves measures without a
        row, which are replaced when the run gets one.

        Args:
            runs: Their hashes; those that have no row are left out of account.

        Raises:
            ConfigurationError: If a file cannot be written; it is as before then.
        """
        gone = self._done & {*runs}
        if not gone:
            return
        self._results.keep(lambda row: row["run"] not in gone)
        self._done -= gone
        self._failed -= gone
        self._halves |= gone
        self._measures.keep(lambda row: row["run"] not in gone)
        self._halves -= gone


def measures_path(path: Path) -> Path:
    """Return where the measures of a results table are: ``measures.csv`` beside ``results.csv``."""
    return path.with_name("measures.csv" if path.name == "results.csv" else f"{path.stem}.measures.csv")


def option_measures(run: str, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return options that are no columns as measures of a run, which belong to no phase and no layer.

    Args:
        run: The run's name.
        options: Numbers are written as they are, all else as one line of text.
    """
    blank = dict.fromkeys(MEASURE_COLUMNS)
    return [
        {**blank, "run": run, "measure": option, "value": _spelled(value)}
        for option, value in options.items()
    ]


def _spelled(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return value if isinstance(value, str) and "\n" not in value else json.dumps(value)


def run_hash(config: Mapping[str, Any]) -> str:
    """Return the twelve hexadecimal digits that name a run: a hash of its resolved configuration.

    The order of keys does not matter, nor does the spelling of numbers (``1``, ``1.0``, ``1e0``) or whether
    a sequence is a list or a tuple.

    Args:
        config: Names, numbers, truth values, None, and sequences and mappings of them.

    Raises:
        TypeError: For a value of another kind, which could not be told apart from others reliably.
    """
    text = json.dumps(_canonical(config), sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _canonical(value: Any) -> Any:
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else float(value)
    if isinstance(value, Mapping):
        return {str(key): _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    raise TypeError(f"a run's configuration cannot hold {value!r}")
