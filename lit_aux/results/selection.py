"""Which rows of a table are looked at, and columns that measures make."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lit_aux.errors import ConfigurationError, check_known, unknown_name
from lit_aux.results.means import LOSSES
from lit_aux.runs.row_tasks import COLUMN_OF, name_of
from lit_aux.runs.typed import Row

COLUMNS = (*LOSSES, "accuracy", "seconds", "steps")


def where(rows: Sequence[Row], text: str) -> list[Row]:
    """Return the rows that meet conditions.

    Rows to which a column does not apply (the rescale factor of STL) stay, as long as some row has it.

    Args:
        rows: Of a table.
        text: ``setup=PT+FT,rescale=1``; several values as in ``n_main=16,64,setup=STL``. ``correlation=1``
            means that of every unit.

    Raises:
        ConfigurationError: For another form, a column that no row has, or a value of none.
    """
    kept = list(rows)
    for name, values in _conditions(text).items():
        known = sorted({column for row in rows for column, value in row.items() if value is not None})
        check_known("--where", name, known)
        there = {row.get(name) for row in kept} - {None}
        meeting = {found for found in there if any(_equal(found, value) for value in values)}
        if not meeting:
            known = list(dict.fromkeys(spelled(row[name]) for row in kept if row.get(name) is not None))
            raise ConfigurationError(
                f"--where {name}={','.join(values)}: no row is such; {name} is {', '.join(known[:12])}"
            )
        kept = [row for row in kept if row.get(name) is None or row[name] in meeting]
    return kept


def _conditions(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    name = ""
    for part in text.split(","):
        left, sign, right = part.partition("=")
        if sign:
            name, part = left.strip().replace("-", "_"), right
        if not name or not part.strip():
            raise ConfigurationError(
                f'--where {text!r}: write COLUMN=VALUE, several with commas: "setup=PT+FT,rescale=1"'
            )
        found.setdefault(name, []).append(part.strip())
    return found


def _equal(value: Any, text: str) -> bool:
    """Return whether a field is what was asked for."""
    if value is None:
        return False
    if isinstance(value, bool):
        return str(value).lower() == text.lower()
    try:
        numbers = tuple(float(part) for part in text.split("|"))
    except ValueError:
        return str(value) == text
    if isinstance(value, tuple):
        return value == numbers or (len(numbers) == 1 and {*value} == {*numbers})
    return isinstance(value, int | float) and (value,) == numbers


def spelled(value: Any) -> str:
    """Write a value of a column as people read it; correlations that are all alike as one.

    Args:
        value: Read, or as it is written: text of numbers joined by ``|``.
    """
    if isinstance(value, str):
        try:
            value = tuple(map(float, value.split("|")))
        except ValueError:  # a word
            return str(value)
    if isinstance(value, tuple):
        parts = [f"{part:g}" for part in value]
        return parts[0] if len({*parts}) == 1 else "|".join(parts)
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def with_options(rows: Sequence[Row], measures: Iterable[Row], names: Sequence[str]) -> list[Row]:
    """Return rows with parameters of a sweep as columns.

    Args:
        rows: Of a table.
        measures: Of its runs; parameters are those that belong to no phase.
        names: The parameters.

    Raises:
        ConfigurationError: For one that no run has.
    """
    found = options_of(measures)
    known = {name for options in found.values() for name in options}
    columns = {name for row in rows for name in row}
    for name in names:
        if name not in known | columns:
            raise unknown_name("--by", name, sorted(known) or ["no option: measures.csv has none"])
    return [{**row, **{n: v for n, v in found.get(row["run"], {}).items() if n in names}} for row in rows]


def options_of(measures: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """Return the parameters of a sweep by run."""
    found: dict[str, dict[str, Any]] = {}
    for row in measures:
        if row["phase"] is None and row["layer"] is None and row["measure"] is not None:
            found.setdefault(row["run"], {})[row["measure"]] = row["value"]
    return found


def with_measure(rows: Sequence[Row], measures: Sequence[Row], text: str) -> tuple[list[Row], str]:
    """Return rows with a measure as a column, and the column's name.

    A measure of a task (``TASK/val_accuracy``) makes the rows that have it rows of this task: so runs of
    several tasks, whose row is of the first, are compared on the others, too. In a row of the task itself
    some of them are columns.

    Args:
        rows: Of a table.
        measures: Of its runs. Of a run's several phases the last one with the measure counts.
        text: ``MEASURE``, or ``MEASURE@LAYER`` with the layer's full name or the end of it.

    Raises:
        ConfigurationError: For a measure that no run has, or one of several layers where none is named.
    """
    measure, _, layer = text.partition("@")
    task, _, metric = measure.rpartition("/")
    mine = [row for row in measures if row["measure"] == measure]
    own: dict[str, Any] = {
        row["run"]: row[COLUMN_OF[metric]]
        for row in rows
        if task and metric in COLUMN_OF and name_of(row.get("task")) == task
    }
    if own and not mine:
        mine = [{"run": None, "layer": None, "value": None}]
    if not mine:
        known = sorted({str(row["measure"]) for row in measures})
        raise unknown_name("--value", measure, [*COLUMNS, *known])
    layers = sorted({row["layer"] or "" for row in mine})
    chosen = [name for name in layers if name == layer or name.endswith(f".{layer}")] if layer else layers
    if len(chosen) != 1:
        short = ", ".join(name.rpartition(".")[2] or name for name in (chosen or layers)[:12])
        problem = "is measured in several layers" if len(chosen) > 1 else f"has no layer {layer!r}"
        raise ConfigurationError(f"--value {text}: {measure} {problem}; write {measure}@LAYER: {short}")
    values = {row["run"]: row["value"] for row in mine if (row["layer"] or "") == chosen[0]}
    found = [{**row, text: values.get(row["run"], own.get(row["run"]))} for row in rows]
    for row in found if task else ():
        row["task"] = row.get("task") if name_of(row.get("task")) == task else task
    return found, text


def default_value(rows: Sequence[Row]) -> str:
    """Return the column that a table is about.

    Raises:
        ConfigurationError: If it has no numbers at all.
    """
    for name in ("value", "loss_best", "accuracy", "loss_final", "train_loss"):
        if any(row.get(name) is not None and row.get("error") is None for row in rows):
            return name
    failed = sum(row.get("error") is not None for row in rows)
    what = f"none of {len(rows)} rows has a loss or an accuracy"
    raise ConfigurationError(f"FILE: {what} ({failed} runs failed)")


def is_higher_better(value: str) -> bool | None:
    """Return whether more of a column is better; None where neither is."""
    if value in LOSSES or value.rpartition("/")[2].endswith("loss") or value in ("seconds", "steps"):
        return False
    metric = value.partition("@")[0].rpartition("_")[2]
    return {"accuracy": True, "f1": True, "iou": True, "r2": True, "mae": False}.get(metric)


def varying(rows: Sequence[Row], names: Iterable[str]) -> tuple[list[str], Mapping[str, Any]]:
    """Return the columns in which rows differ, and the value of each of those in which they agree."""
    differ, same = [], {}
    for name in names:
        values = {row.get(name) for row in rows}
        if len(values) > 1:
            differ.append(name)
        elif values and values != {None}:
            same[name] = values.pop()
    return differ, same
