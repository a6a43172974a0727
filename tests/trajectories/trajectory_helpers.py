"""Made-up runs with answers that are known."""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

COLUMNS = ("method", "seed", "trained", "phase", "epoch", "step", "task", "measure", "value")
Measures = Mapping[str, Sequence[float]]
STEPS = 10
"""Optimizer steps in an epoch."""


def write_run(
    folder: Path,
    tasks: Mapping[str, Measures],
    *,
    method: str = "STL",
    seed: object = 0,
    trained: Sequence[str] | None = None,
    phase: str = "train",
    first: Mapping[str, int] | None = None,
    before: Iterable[Sequence[object]] = (),
) -> Path:
    """Write the file of a run: a value an epoch, the first one before training.

    Args:
        folder: Of the run.
        tasks: Values by task and measure.
        method: The method.
        seed: The seed.
        trained: The tasks that train; those of ``tasks`` by default.
        phase: The phase.
        first: The epoch of a measure's first value where that is not 0.
        before: Rows of earlier phases, from the column ``phase`` on.
    """
    head = (method, seed, "|".join(tasks if trained is None else trained))
    rows = [(*head, *row) for row in before]
    for task, measures in tasks.items():
        for measure, values in measures.items():
            start = (first or {}).get(measure, 0)
            for epoch, value in enumerate(values, start):
                rows.append((*head, phase, epoch, epoch * STEPS, task, measure, repr(float(value))))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "trajectory.csv"
    with file.open("w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerows([COLUMNS, *rows])
    return file


def curve(
    start: float, end: float, epochs: int, accuracy: Callable[[np.ndarray], np.ndarray]
) -> dict[str, Sequence[float]]:
    """Return a run's losses, falling evenly in their logarithm, and accuracy as a function of log10 loss."""
    loss = np.geomspace(start, end, epochs + 1)
    values = accuracy(np.log10(loss))
    return {"train_loss": loss, "test_accuracy": values, "val_accuracy": values}


def line(shift: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return accuracy as a straight line in log10 loss: .5 and a shift at loss 1, .2 more a decade."""
    return lambda log_loss: 0.5 + shift - 0.2 * log_loss


def small_study(
    folder: Path,
    shifts: Mapping[str, float],
    *,
    methods: Sequence[str] = ("MTL",),
    jitter: float = 0.01,
    factors: Mapping[str, tuple[float, float]] | None = None,
    epochs: int = 12,
) -> Path:
    """Write runs of three seeds: multi-task ones are higher by a shift, task by task.

    Args:
        folder: Where.
        shifts: How much higher, by task.
        methods: Of the multi-task runs.
        jitter: The distance between seeds, which is their standard deviation.
        factors: Value in single-task and in multi-task runs by factor; seeds scatter by 1 %.
        epochs: How many.
    """
    for number, seed in enumerate((0, 1, 2)):
        apart = jitter * (number - 1)

        def measures(shift: float, place: int, apart: float = apart, number: int = number) -> Measures:
            found: dict[str, Sequence[float]] = curve(2.0, 0.02, epochs, line(shift + apart))
            for name, values in (factors or {}).items():
                found[name] = [values[place] * (1 + 0.01 * (number - 1))] * (epochs + 1)
            return found

        for task in shifts:
            write_run(folder / f"stl-{task}-{seed}", {task: measures(0, 0)}, seed=seed)
        for method in methods:
            write_run(
                folder / f"{method}-{seed}",
                {task: measures(shift, 1) for task, shift in shifts.items()},
                method=method,
                seed=seed,
            )
    return folder


def noisy_study(
    folder: Path, tasks: int, *, seeds: int = 3, epochs: int = 40, methods: Sequence[str] = ("MTL",)
) -> Path:
    """Write a study as a real one looks: noisy, with every factor, some tasks helped and some hurt."""
    draw = np.random.default_rng(0)
    names = [f"task{number}" for number in range(tasks)]
    shift = {name: draw.normal(0, 0.04) for name in names}

    def measures(task: str, multi: float) -> Measures:
        time = np.linspace(0, 1, epochs + 1)
        speed = draw.uniform(1.6, 2.2) - 0.3 * multi
        log_loss = 0.35 - speed * time**0.7 + draw.normal(0, 0.03, epochs + 1)
        rise = 1 / (1 + np.exp(3 * (log_loss + 0.3)))
        accuracy = 0.3 + 0.55 * rise + multi * shift[task] * rise + draw.normal(0, 0.008, epochs + 1)

        def factor(level: float, spread: float = 0.15) -> np.ndarray:
            return level * np.exp(draw.normal(0, spread, epochs + 1))

        return {
            "train_loss": 10**log_loss,
            "test_accuracy": accuracy,
            "val_accuracy": accuracy + draw.normal(0, 0.01, epochs + 1),
            "sharpness": factor(0.02) * (1 + 3 * time) * (1 + 1.5 * multi),
            "gradient_variance": factor(40) * np.exp(-3 * time) * (1 + multi * draw.uniform(0, 1)),
            "gradient_norm": factor(2) * np.exp(-2 * time),
            "fisher_trace": factor(30) * np.exp(-4 * time) * (1 + multi * draw.uniform(0, 2)),
            "conflict": np.clip((0.4 if multi else 0.95) + draw.normal(0, 0.05, epochs + 1), -1, 1),
        }

    first = dict.fromkeys(("sharpness", "gradient_variance", "gradient_norm", "fisher_trace", "conflict"), 0)
    for seed in range(seeds):
        for name in names:
            write_run(folder / f"stl-{name}-{seed}", {name: measures(name, 0)}, seed=seed, first=first)
        for number, method in enumerate(methods):
            values = {name: measures(name, 1 + 0.5 * number) for name in names}
            write_run(folder / f"{method}-{seed}", values, method=method, seed=seed, first=first)
    return folder
