"""Ways to do the same work, timed in turns."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

Row = tuple[str, float, str]
Clock = Callable[[], float]
OURS = "ours"
_UNITS = {"ms": 1e3, "s": 1.0}


class Outcome(NamedTuple):
    """What one way took, and the training loss that it ended with, or what else must agree."""

    seconds: float
    result: float


Way = Callable[[Path], Outcome]


def compare(
    what: str,
    unit: str,
    ways: Mapping[str, Way],
    targets: Mapping[str, str],
    repetitions: int,
    needs: Mapping[str, str] | None = None,
    agreement: tuple[str, str] = ("last losses", "<= 1.2"),
) -> list[Row]:
    """Time ways in turns, each in a folder of its own; return a row for each, ratios and how results differ.

    Args:
        what: The work.
        unit: ``ms`` or ``s`` and of what.
        ways: What does it, by name; the first is ours.
        targets: By name, of how many times as fast ours is (``>=``), or of its share of their time (``<=``).
        repetitions: How many turns count.
        needs: By name, the package that a way needs; where it is not installed, a row says so.
        agreement: What results are, and how far the largest may be from the smallest.
    """
    absent = {name: package for name, package in (needs or {}).items() if find_spec(package) is None}
    names = [name for name in ways if name not in absent]
    found: dict[str, list[Outcome]] = {name: [] for name in names}
    for turn in range(repetitions):
        for name in names[::-1] if turn % 2 else names:  # none always finds the processor cool
            with TemporaryDirectory() as folder:
                outcome = ways[name](Path(folder))
            found[name].append(outcome)
    factor = _UNITS[unit.partition(" ")[0]]
    rows = [
        (f"{what}, {name}: {unit}", factor * median(o.seconds for o in outcomes), "")
        for name, outcomes in found.items()
    ]
    rows += [_ratio(what, name, found, targets.get(name, ">= 1")) for name in found if name != OURS]
    results = [median(o.result for o in outcomes) for outcomes in found.values()]
    said, (kind, bound) = ", ".join(f"{result:.3g}" for result in results), agreement
    if len(results) > 1:
        rows.append((f"{what}: {kind} {said}: largest over smallest", max(results) / min(results), bound))
    return rows + [_not_installed(what, package) for package in dict.fromkeys(absent.values())]


def _not_installed(what: str, package: str) -> Row:
    remedy = "see scripts/peers/requirements.txt"
    return f"{what}: {package} is not installed: {remedy}", float("nan"), ""


def _ratio(what: str, name: str, found: Mapping[str, list[Outcome]], target: str) -> Row:
    pairs = [(a.seconds, b.seconds) for a, b in zip(found[OURS], found[name], strict=True)]
    if target.startswith("<="):
        return f"{what}: time of ours over that of {name}", median(a / b for a, b in pairs), target
    return f"{what}: times as fast as {name}", median(b / a for a, b in pairs), target
