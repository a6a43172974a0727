"""Ways to do the same work, timed in turns."""

import io
import logging
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

Row = tuple[str, float, str]
Clock = Callable[[], float]
OURS = "ours"
_UNITS = {"ms": 1e3, "s": 1.0}


class Outcome(NamedTuple):
    """What one way took, and the training loss that it ended with."""

    seconds: float
    loss: float


Way = Callable[[Path], Outcome]


class Missing(Exception):
    """A peer cannot take part; its text says which, and why."""


def peer(module: str, distribution: str) -> Any:
    """Import a peer.

    Args:
        module: What to import.
        distribution: What it is called where packages come from.

    Raises:
        Missing: If it is not installed or cannot be imported.
    """
    try:
        return import_module(module)
    except Exception as error:  # whatever an old package does with new ones
        known = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        if known:
            raise Missing(f"{distribution}: not installed (scripts/peers/requirements.txt)") from None
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise Missing(f"{distribution} {version(distribution)} cannot be imported here: {said}") from error


def in_silence(way: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Return a way that prints nothing, unless it fails."""

    def silent(*args: Any, **options: Any) -> Outcome:
        said = io.StringIO()
        with warnings.catch_warnings(), redirect_stdout(said), redirect_stderr(said):
            warnings.simplefilter("ignore")
            logging.disable()  # of loggers that hold the streams as they were
            try:
                return way(*args, **options)
            except Exception as error:
                error.add_note(said.getvalue()[-2000:])
                raise
            finally:
                logging.disable(logging.NOTSET)

    return silent


def compare(
    what: str,
    unit: str,
    ways: Mapping[str, Way],
    targets: Mapping[str, str],
    repetitions: int,
    warm: bool = True,
) -> list[Row]:
    """Time ways in turns, each in a folder of its own; return a row for each, ratios and how losses differ.

    A way that raises ``Missing`` has a row that says why.

    Args:
        what: The work.
        unit: ``ms`` or ``s`` and of what.
        ways: What does it, by name; the first is ours.
        targets: By name, of how many times as fast ours is (``>=``), or of its share of their time (``<=``).
        repetitions: How many turns count.
        warm: Whether a turn before them, which does not count, warms up.
    """
    found: dict[str, list[Outcome]] = {name: [] for name in ways}
    missing: dict[str, str] = {}
    for turn in range(0 if warm else 1, repetitions + 1):
        names = [name for name in ways if name not in missing]
        for name in names if turn % 2 else names[::-1]:  # none always finds the processor cool
            with TemporaryDirectory() as folder:
                try:
                    outcome = ways[name](Path(folder))
                except Missing as error:
                    missing[name] = str(error)
                    continue
            if turn:
                found[name].append(outcome)
    there = {name: outcomes for name, outcomes in found.items() if outcomes}
    factor = _UNITS[unit.partition(" ")[0]]
    rows = [
        (f"{what}, {name}: {unit}", factor * median(o.seconds for o in outcomes), "")
        for name, outcomes in there.items()
    ]
    rows += [_ratio(what, name, there, targets.get(name, ">= 1")) for name in there if name != OURS]
    losses = [median(o.loss for o in outcomes) for outcomes in there.values()]
    said = ", ".join(f"{loss:.3g}" for loss in losses)
    rows.append((f"{what}: last losses {said}: largest over smallest", max(losses) / min(losses), "<= 1.2"))
    return rows + [(f"{what}: {why}", float("nan"), "") for why in missing.values()]


def _ratio(what: str, name: str, found: Mapping[str, list[Outcome]], target: str) -> Row:
    pairs = [(a.seconds, b.seconds) for a, b in zip(found[OURS], found[name], strict=True)]
    if target.startswith("<="):
        return f"{what}: time of ours over that of {name}", median(a / b for a, b in pairs), target
    return f"{what}: times as fast as {name}", median(b / a for a, b in pairs), target
