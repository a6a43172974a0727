"""How a run ended, as its folder tells it: a mark of the end, the output, and the rows that it wrote."""

import json
import re
import signal
from collections.abc import Mapping
from csv import DictReader
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lit_aux.experiments.results import MEASURE_COLUMNS, OPTION_COLUMNS, measures_path
from lit_aux.files import atomic_write
from lit_aux.spreadsheets import meant
from lit_aux.sweeps.run import SweepRun

Row = dict[str, Any]
OUTPUT = "output.txt"
_MARK = "ended.json"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
_SAID = "lit-aux: error: "
_ERROR = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit|Warning|Failure)\b(?::|$)")
_SETUPS = {"SingleTaskModule": "STL", "MultiTaskModule": "MTL", "PretrainFinetuneModule": "PT+FT"}


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        error: Why it failed, one line; empty where it went well.
        seconds: How long ``lit-aux fit`` took.
    """

    error: str = ""
    seconds: float = 0.0


def read_outcome(folder: Path) -> Outcome | None:
    """Return how the run of a folder ended; None where it did not, or is torn."""
    try:
        found = Outcome(**json.loads((folder / _MARK).read_text()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return found if isinstance(found.error, str) and isinstance(found.seconds, int | float) else None


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Mark a folder as that of a run which has ended.

    Raises:
        OSError: If the mark cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / _MARK, json.dumps(asdict(outcome)) + "\n")


def forget(folder: Path) -> None:
    """Take the mark of the end from a folder, so that its run is done again."""
    (folder / _MARK).unlink(missing_ok=True)


def last_line(output: Path) -> str:
    """Return the line of an output that says why it ended: the last error in it, else its last line."""
    try:
        with output.open("rb") as file:
            file.seek(max(0, output.stat().st_size - 65536))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line for part in text.splitlines() if (line := _CONTROL.sub("", part).strip())]
    for found in reversed(lines):
        if found.startswith(_SAID):
            return found.removeprefix(_SAID)
    told = next((line for line in reversed(lines) if _ERROR.match(line)), lines[-1] if lines else "")
    return told[:500]


def cause(code: int, line: str) -> str:
    """Say why a process failed.

    Args:
        code: Its exit code; negative for the signal that killed it.
        line: What it said last.
    """
    if code >= 0:
        return line or f"it ended with code {code} and said nothing"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}" + (f"; its last line: {line}" if line else "")


def rows_of(run: SweepRun) -> tuple[list[Row], list[Row]]:
    """Return the rows and measures that a run's fit wrote, under the run's own name.

    Where one fit has several rows, their names are numbered. Parameters of the sweep that are no columns
    become measures of every row.

    Args:
        run: One that has ended well.
    """
    tables = sorted(run.folder.rglob("results.csv"), key=lambda path: path.stat().st_mtime)
    if not tables:
        return [], []
    found = _read(tables[-1])
    measured = _read(measures_path(tables[-1]))
    names = [run.name] if len(found) == 1 else [f"{run.name}-{number}" for number in range(len(found))]
    new_names = {row["run"]: name for row, name in zip(found, names, strict=True)}
    rows = [{**row, "run": new_names[row["run"]]} for row in found]
    measures = [{**row, "run": new_names[row["run"]]} for row in measured if row["run"] in new_names]
    return rows, [*measures, *(row for name in names for row in _parameters(run, name))]


def failed_row(run: SweepRun, error: str, experiment: str = "") -> tuple[list[Row], list[Row]]:
    """Return the row of a run that failed, with what its command line tells, and its measures.

    Args:
        run: The run.
        error: Why, one line.
        experiment: Name of the experiment in rows of other runs.
    """
    network = str(run.option("model.backbone")).rpartition(".")[2]
    if network.endswith("Net"):  # students go by their network
        experiment = network.removesuffix("Net").lower()
    row: Row = {"run": run.name, "experiment": experiment, "setup": _setup(run)}
    for option, column in OPTION_COLUMNS.items():
        value = run.option(option)
        if column not in row and value is not None and not isinstance(value, list | Mapping):
            row[column] = value
    if not row["setup"].startswith("PT+FT"):
        row.pop("rescale", None)
    return [{**row, "converged": False, "error": error}], list(_parameters(run, run.name))


def _setup(run: SweepRun) -> str:
    name = _SETUPS.get(str(run.option("model")).rpartition(".")[2], "")
    return f"{name} (LP)" if name == "PT+FT" and run.option("model.finetune") == "probe" else name


def _parameters(run: SweepRun, name: str) -> list[Row]:
    """Return the sweep's parameters that are no columns, as measures."""
    blank = dict.fromkeys(MEASURE_COLUMNS)
    return [
        {**blank, "run": name, "measure": option, "value": _spelled(value)}
        for option, value in run.point.items()
        if option not in OPTION_COLUMNS
    ]


def _spelled(value: Any) -> Any:
    """Return numbers as they are, all else as one line of text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return value if isinstance(value, str) and "\n" not in value else json.dumps(value)


def _read(path: Path) -> list[Row]:
    try:
        with path.open(newline="") as file:
            rows = list(DictReader(file))
    except FileNotFoundError:
        return []
    return [{k: meant(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows]
