"""Which task the row of a fit is about, among its measures: the columns of the results table are fixed."""

from collections.abc import Sequence
from typing import Any

TASK, CLASSES = "task", "task_classes"
"""Measures whose ``layer`` is the name of the task, and those of its classes with ``|`` between them."""


def task_measures(rows: Sequence[dict[str, Any]], phase: str, task: str, data: Any) -> list[dict[str, Any]]:
    """Return measures that name the task of rows, so that rows of different tasks are never compared.

    Args:
        rows: Of the results table.
        phase: The phase at whose end they were measured.
        task: The task.
        data: The data module; one of the project's knows the classes of its tasks.

    Returns:
        Rows of ``measures.csv``, whose value is how many classes the task has, 1 where that is not known.
    """
    classes = _classes(data, task)
    names = [(TASK, task)] + ([(CLASSES, "|".join(classes))] if classes else [])
    return [
        {"run": row["run"], "phase": phase, "step": row.get("steps"), "layer": " ".join(name.split())}
        | {"measure": measure, "value": float(max(1, len(classes)))}
        for row in rows
        for measure, name in names
    ]


def _classes(data: Any, task: str) -> list[str]:
    known, names = getattr(data, "task_classes", None), getattr(data, "class_names", None)
    if known is None or names is None or task not in known:
        return []
    return sorted(str(names[number]) for number in known[task])
