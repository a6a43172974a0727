"""A run's own folder: what it printed, and a mark of how it ended."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from lit_aux.errors import signal_name
from lit_aux.files import atomic_write

OUTPUT = "output.txt"
_MARK = "ended.json"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
_SAID = "lit-aux: error: "
_ERROR = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit|Warning|Failure)\b(?::|$)")


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
    name = signal_name(-code)
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}" + (f"; its last line: {line}" if line else "")
