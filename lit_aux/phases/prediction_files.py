"""Predictions as a table for people, and as arrays."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_aux.files import atomic_path, atomic_write
from lit_aux.functional._labels import MISSING
from lit_aux.spreadsheets import as_csv

Array = NDArray[Any]


@dataclass(frozen=True)
class TaskPredictions:
    """What is predicted of the inputs of one task.

    Attributes:
        loaders: Of each input, the number of its loader, int64 (N,).
        numbers: Its number within it, int64 (N,).
        names: Its name; None where it has its number alone.
        outputs: As :class:`~lit_aux.phases.answers.Answers` has them, over all inputs, and so are the others.
        predictions: Likewise.
        probabilities: Likewise.
        labels: Likewise; None where a batch had none.
        of_classes: Likewise.
        classes: The names of the classes, or of the outputs where each has its own answer.
    """

    loaders: Array
    numbers: Array
    names: Array | None
    outputs: Array
    predictions: Array
    probabilities: Array | None
    labels: Array | None
    of_classes: bool
    classes: Sequence[str] | None = None

    @property
    def inputs(self) -> Array:
        """The name of each input, or its number, with that of its loader where there are several."""
        if self.names is not None:
            return _texts(self.names)
        if not self.loaders.any():
            return self.numbers
        return _texts(f"{loader}/{n}" for loader, n in zip(self.loaders, self.numbers, strict=True))

    @property
    def answers(self) -> list[str]:
        """The answers that have a probability: the classes; 1 where it is that or something else."""
        if self.probabilities is None:
            return []
        return [self.named(number) for number in range(self.outputs.shape[1])] if self.of_classes else ["1"]

    def named(self, number: int) -> str:
        """Return the name of a class or output, or its number."""
        known = self.classes is not None and 0 <= number < len(self.classes)
        return self.classes[number] if known else str(number)  # type: ignore[index]


def write_arrays(path: Path, found: Mapping[str, TaskPredictions]) -> None:
    """Write ``TASK/inputs``, ``/outputs``, ``/predictions``, ``/probabilities``, ``/labels``, ``/classes``.

    Args:
        path: The ``.npz`` file; ``numpy.load`` reads it.
        found: What is predicted, by task.
    """
    arrays: dict[str, Array] = {}
    for task, one in found.items():
        parts = {
            "inputs": one.inputs,
            "outputs": one.outputs,
            "predictions": one.predictions,
            "probabilities": one.probabilities,
            "labels": one.labels,
            "classes": None if one.classes is None else _texts(one.classes),
        }
        arrays |= {f"{task}/{name}": array for name, array in parts.items() if array is not None}
    with atomic_path(path, sync=True) as part, part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def write_table(path: Path, found: Mapping[str, TaskPredictions]) -> None:
    """Write a row for each input of each task, or for each of its outputs where each has its own answer.

    Columns are ``task``, ``input``, ``output`` (in files with such tasks), ``label``, ``prediction``, and
    ``TASK/ANSWER`` for the probability of each answer, which is empty in the rows of other tasks.

    Args:
        path: The ``.csv`` file.
        found: What is predicted, by task; outputs are (N, C).
    """
    several = any(one.predictions.ndim > 1 for one in found.values())
    columns = [f"{task}/{answer}" for task, one in found.items() for answer in one.answers]
    rows = [["task", "input", *(["output"] if several else []), "label", "prediction", *columns]]
    before = 0
    for task, one in found.items():
        after = len(columns) - before - len(one.answers)
        for name, output, *told, probabilities in _rows(one):
            shown = [*[""] * before, *probabilities, *[""] * after]
            rows.append([task, name, *([output] if several else []), *told, *shown])
        before += len(one.answers)
    atomic_write(path, as_csv(rows))


def _rows(one: TaskPredictions) -> Iterator[tuple[str, str, str, str, list[str]]]:
    """Yield input, output, label, prediction and probabilities."""
    for row, name in enumerate(one.inputs.tolist()):
        each: list[tuple[tuple[int, ...], str]] = [((row,), "")]
        if one.predictions.ndim > 1:
            each = [((row, k), one.named(k)) for k in range(one.predictions.shape[1])]
        for place, output in each:
            label = "" if one.labels is None else _text(one, one.labels[place])
            chances = [] if one.probabilities is None else one.probabilities[place].flatten()
            yield str(name), output, label, _text(one, one.predictions[place]), [f"{p:.7g}" for p in chances]


def _text(one: TaskPredictions, value: Any) -> str:
    """Return an answer; nothing for one that is missing."""
    if np.issubdtype(value.dtype, np.floating):
        return "" if np.isnan(value) else f"{value:.7g}"
    return "" if value == MISSING else one.named(int(value)) if one.of_classes else str(int(value))


def _texts(values: Any) -> Array:
    """Return texts as an array; what is no text in the name of a file is replaced by a sign."""
    return np.array([str(v).encode("utf-8", "surrogateescape").decode("utf-8", "replace") for v in values])
