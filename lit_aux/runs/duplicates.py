"""Rows of one run that are there several times: one row where they agree, else what differs is named."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from math import isclose, isnan
from os import PathLike
from statistics import fmean
from typing import Any, TypeAlias

from lit_aux.errors import ConfigurationError, unknown_name
from lit_aux.runs.table import COLUMNS

DUPLICATES = ("first", "last", "mean")
MEASURED = ("loss_best", "loss_final", "train_loss", "steps", "converged", "accuracy")
"""Columns that a run found; ``seconds`` say nothing of it."""
CLOSE = 0.01
"""Numbers that differ by no larger share of the larger are the same."""
HINT = "--duplicates first, last or mean decides"
_PLACES = tuple(name for name in COLUMNS if name not in (*MEASURED, "run", "seconds", "error"))
_NONE = 1e-30  # below it, a loss is 0

Row: TypeAlias = Mapping[str, Any]
Found: TypeAlias = tuple[Row, str]
"""A row, and where it is: the file, and the line in it."""


def check_duplicates(given: str | None) -> None:
    """Raise for what ``--duplicates`` cannot be.

    Raises:
        ConfigurationError: Naming what it can be.
    """
    if given is not None and given not in DUPLICATES:
        raise unknown_name("--duplicates", given, DUPLICATES)


def check_one_kind(
    option: str, rows: Iterable[Row], hint: str, wanted: str = "", spelled: Callable[[str], str] = repr
) -> None:
    """Refuse rows of one experiment that are of several kinds: what follows a dash in their names differs.

    Draws and sizes of teachers, say, are no columns, and runs that differ in them share a cell.

    Args:
        option: What is blamed.
        rows: Rows of a results table; those without ``run`` are left out.
        hint: What to do.
        wanted: The name of a run that shall be among them.
        spelled: Writes a kind in full.

    Raises:
        ConfigurationError: If there are such rows.
    """
    first: dict[Any, str] = {}
    for row in rows:
        if run := row.get("run"):
            kind = _kind(run)
            known = first.setdefault(row["experiment"], _kind(wanted or run))
            if known != kind:
                raise ConfigurationError(
                    f"{option}: rows of {row['experiment']} are of two kinds, {spelled(kind)} and "
                    f"{spelled(known)}, which cannot be averaged; {hint}"
                )


def _kind(run: str) -> str:
    """Return what follows the hash in a run's name; others' names are of one kind."""
    found = re.fullmatch(r"[0-9a-f]{12}-(\w+)", run)
    return "" if found is None else found[1]


def settled(
    groups: Sequence[Sequence[Found]], how: str | None = None, what: str = "FILE", hint: str = HINT
) -> list[dict[str, Any]]:
    """Return one row for each run.

    Rows of runs that failed give way to others. Those that are left count once if they agree: what was
    measured to one hundredth, all else but ``seconds`` as it is, where both say it.

    Args:
        groups: For each run, the rows that there are of it: read, or as they are written.
        how: ``first`` or ``last`` of several rows, or the arithmetic ``mean`` of what each measured; None
            refuses rows that do not agree.
        what: Option that named the tables, for the refusal.
        hint: What is to be done, for the refusal.

    Raises:
        ConfigurationError: If rows differ and ``how`` is None, or if there is no mean of them.
    """
    kept = [[group[number] for number in _good(group)] for group in groups]
    for group in kept:
        names = differing(group) if len(group) > 1 else []
        places = [name for name in names if name in _PLACES]
        if names and how is None:
            others = sum(bool(differing(other)) for other in kept if len(other) > 1) - 1
            raise _refusal(group, names, what, hint, others)
        if places and how == "mean":
            raise _refusal(group, places, "--duplicates mean", "take first or last")
    return [_one([row for row, _ in group], how) for group in kept]


def once(rows: Iterable[Row], path: str | PathLike[str], option: str) -> list[dict[str, Any]]:
    """Return the rows of one table, each run once.

    Args:
        rows: As they are written, in the order of the file.
        path: The file.
        option: What named it.

    Raises:
        ConfigurationError: If rows of one run differ.
    """
    groups: dict[str, list[Found]] = {}
    for line, row in enumerate(rows, 2):
        groups.setdefault(row["run"], []).append((row, f"{path}, line {line}"))
    return settled([*groups.values()], None, f"{option} {path}", "leave one of them in the file")


def chosen(group: Sequence[Found], how: str | None) -> list[int]:
    """Return the places of those rows of a run that count: of one, or for the mean of all that went well."""
    good = _good(group)
    return good if how == "mean" else [good[-1] if how == "last" else good[0]]


def differing(group: Sequence[Found]) -> list[str]:
    """Return the columns in which rows of a run differ, what they measured first."""
    pairs = list(combinations([row for row, _ in group], 2))
    names = (*MEASURED, *_PLACES)
    return [name for name in names if any(_differ(name, one, other) for one, other in pairs)]


def same(one: Any, other: Any) -> bool:
    """Return whether two values are the same: numbers to one hundredth of the larger."""
    first, second = _number(one), _number(other)
    if first is None or second is None:
        return first is second and str(_blank(one)) == str(_blank(other))
    return isclose(first, second, rel_tol=CLOSE, abs_tol=_NONE)


def mean_value(values: Sequence[Any]) -> Any:
    """Return the arithmetic mean of the numbers among values; where there are none, the first value."""
    numbers = [number for value in values if (number := _number(value)) is not None]
    return fmean(numbers) if numbers else values[0]


def shown(value: Any) -> str:
    """Write a value for a message."""
    if _blank(value) is None:
        return "nothing"
    return f"{value:.6g}" if isinstance(value, float) else str(value).lower()


def _good(group: Sequence[Found]) -> list[int]:
    """Return the places of the rows that did not fail; of the first one where all did."""
    return [number for number, (row, _) in enumerate(group) if not row.get("error")] or [0]


def _one(rows: Sequence[Row], how: str | None) -> dict[str, Any]:
    if how != "mean" or len(rows) < 2:
        return dict(rows[-1] if how == "last" else rows[0])
    means = {name: mean_value([row.get(name) for row in rows]) for name in (*MEASURED, "seconds")}
    ends = [row.get("converged") for row in rows]
    return {
        **rows[0],
        **means,
        "converged": all(ends) if all(isinstance(end, bool) for end in ends) else ends[0],
    }


def _refusal(
    group: Sequence[Found], names: Sequence[str], what: str, hint: str, others: int = 0
) -> ConfigurationError:
    name = names[0]
    (one, here), (other, there) = next(
        pair for pair in combinations(group, 2) if _differ(name, pair[0][0], pair[1][0])
    )
    more = f", and so do {', '.join(names[1:])}" if len(names) > 1 else ""
    more += f"; so it is with {others} other run{'s' if others > 1 else ''}" if others > 0 else ""
    return ConfigurationError(
        f"{what}: there are {len(group)} rows of run {one['run']} and {name} differs: "
        f"{shown(one.get(name))} ({here}), {shown(other.get(name))} ({there}){more}; {hint}"
    )


def _differ(name: str, one: Row, other: Row) -> bool:
    first, second = _blank(one.get(name)), _blank(other.get(name))
    if name in MEASURED:
        return not same(first, second)
    if first is None or second is None:  # tables that were written before may lack a column
        return False
    numbers = _number(first), _number(second)
    return numbers[0] != numbers[1] if None not in numbers else str(first) != str(second)


def _number(value: Any) -> float | None:
    """Return a value as a number, also one that is written; truth values are 0 and 1, NaN is none."""
    if isinstance(value, str):
        value = {"true": 1.0, "false": 0.0}.get(value.lower(), value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if isnan(number) else number


def _blank(value: Any) -> Any:
    return None if value == "" or (isinstance(value, float) and isnan(value)) else value
