"""Which task a row is about: the columns of a results table do not say it, its measures do."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias

from lit_aux.runs.table import CLASSES, MEASURE_COLUMNS, TASK, measures_path
from lit_aux.runs.typed import Row, TableRow, whole_lines
from lit_aux.spreadsheets import meant

_Kind: TypeAlias = tuple[Any, str | None]
_OPTION = "train_tasks"
_FEW = 4  # classes that are written out
COLUMN_OF = {"test_loss": "loss_final", "train_loss": "train_loss", "test_accuracy": "accuracy"}
"""Columns of a row by what the metric is called for other tasks than its own."""


def name_tasks(rows: Sequence[Row], groups: Sequence[Sequence[TableRow]]) -> None:
    """Give rows the column ``task``, the task that they are about; those of which nothing tells it have none.

    Classes may be drawn by the seed, so that tasks of one name have others for another seed. Where they
    have several of one seed they are different tasks: the number of their classes, or the classes, stand
    behind the name.

    Args:
        rows: The row of each run.
        groups: All rows of each run.
    """
    tables = {one.path: None for group in groups for one in group if one.row["run"] is not None}
    found: dict[tuple[Path, str], _Told] = {}
    for table in tables:
        found |= {(table, run): told for run, told in _told(measures_path(table)).items()}
    known = [
        next((found[key] for one in group if (key := (one.path, one.row["run"])) in found), _Told())
        for group in groups
    ]
    tasks = _joined([(row["experiment"], told.task) for row, told in zip(rows, known, strict=True)])
    of_seed: dict[tuple[Any, ...], set[str]] = {}
    of_count: dict[tuple[Any, ...], set[str]] = {}
    for row, told, kind in zip(rows, known, tasks, strict=True):
        if told.classes:
            of_seed.setdefault((*kind, row["seed"]), set()).add(told.classes)
            of_count.setdefault((*kind, row["seed"], told.count), set()).add(told.classes)
    differ = {key[:2] for key, classes in of_seed.items() if len(classes) > 1}
    more = {key[:2] for key, classes in of_count.items() if len(classes) > 1}
    for row, told, kind in zip(rows, known, tasks, strict=True):
        label = told.short if kind in more else f"{told.count} classes"
        if kind[1] is not None:
            row.setdefault("task", f"{kind[1]} [{label}]" if kind in differ and told.classes else kind[1])


def _joined(tasks: Sequence[_Kind]) -> list[_Kind]:
    """Return experiments and tasks; where all that is known of an experiment is ``main``, so is the rest."""
    known: dict[Any, set[str]] = {}
    for experiment, task in tasks:
        known.setdefault(experiment, set()).update({task} - {None})  # type: ignore[arg-type]
    return [(name, "main" if known[name] == {"main"} else task) for name, task in tasks]


def name_of(task: str | None) -> str | None:
    """Return a task's own name, without its classes."""
    return None if task is None else task.partition(" [")[0]


class _Told:
    """What the measures of a run tell of its task."""

    def __init__(self) -> None:
        self.named, self.classes, self.option = "", "", ""
        self.metrics: dict[str, dict[str, set[str]]] = {}  # by phase and task

    def add(self, phase: str, layer: str, measure: str, value: str) -> None:
        """Take a line of measures.csv into account."""
        if measure == TASK:
            self.named = layer
        elif measure == CLASSES:
            self.classes = layer
        elif not phase and measure.rpartition(".")[2] == _OPTION:
            self.option = value
        elif phase and "/" in measure:
            task, _, name = measure.rpartition("/")
            self.metrics.setdefault(phase, {}).setdefault(task, set()).add(name)

    @property
    def count(self) -> int:
        """How many classes the task has."""
        return self.classes.count("|") + 1

    @property
    def short(self) -> str:
        """The classes, in words that are not too many."""
        names = self.classes.split("|")
        if len(names) <= _FEW:
            return self.classes
        digest = blake2b(self.classes.encode(), digest_size=2).hexdigest()
        return "|".join([*names[: _FEW - 1], f"{len(names)} classes {digest}"])

    @property
    def task(self) -> str | None:
        """The task; None where nothing tells it."""
        return self.named or self._from_option() or self._from_metrics()

    def _from_option(self) -> str | None:
        """Return the task of which a run of some tasks has a row, as a sweep's parameter lists them."""
        try:
            tasks = json.loads(self.option)
        except ValueError:
            tasks = self.option.strip(" []").split(",")
        if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
            return None
        tasks = [task.strip(" '\"") for task in tasks]
        return "main" if "main" in tasks else next(iter(tasks), None) or None

    def _from_metrics(self) -> str | None:
        """Return the task whose test loss is no measure: it is in the row. Tables were once without names."""
        last = next(reversed(self.metrics.values()), {})
        own = [task for task, names in last.items() if "test_loss" not in names and not {"|", " "} & {*task}]
        return own[0] if len(own) == 1 else None


def _told(path: Path) -> dict[str, _Told]:
    """Return what the measures beside a table tell, by run; nothing of a file of another kind."""
    found: dict[str, _Told] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = whole_lines(file)
            header = next(csv.reader([next(lines, "")]), [])
            if [*MEASURE_COLUMNS] == header:
                for fields in csv.reader(_telling(lines)):
                    run, phase, _, layer, measure, value = map(meant, fields)
                    found.setdefault(run, _Told()).add(phase, layer, measure, value)
    except (OSError, ValueError, csv.Error):  # the reader of the measures says what is wrong
        return {}
    return found


def _telling(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines that may be of use: tables of students have very many others."""
    words = (f",{TASK},", f",{CLASSES},", _OPTION, "/")
    return (line for line in lines if any(word in line for word in words))
