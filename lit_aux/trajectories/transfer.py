"""What a run reached on a task in the end: the mean test metric of its best checkpoints."""

from collections.abc import Sequence

import numpy as np

from lit_aux.errors import ConfigurationError, check_known, unknown_name
from lit_aux.trajectories.gap import LossPath, path_of
from lit_aux.trajectories.reading import Series, Trajectory
from lit_aux.trajectories.study import Study

CHECKPOINTS = 10
LAST = "last"
_LOWER_IS_BETTER = ("loss", "error", "mse", "mae", "rmse", "perplexity")


def higher_is_better(metric: str) -> bool:
    """Return whether more of a metric is better, by its name."""
    return metric.rpartition("_")[2] not in _LOWER_IS_BETTER


def required(run: Trajectory, task: str, measure: str) -> Series:
    """Return a measure of a task that a run must have.

    Raises:
        ConfigurationError: If it has not.
    """
    found = run.series.get((task, measure))
    if found is None or not len(found.after_start().value):
        raise ConfigurationError(
            f"RUN {run.path}: has no {measure} of {task!r}; TrajectoryLog measures it in epochs of training "
            f"where {measure.partition('_')[0]!r} is among its splits and has examples"
        )
    return found


def loss_paths(runs: Sequence[Trajectory], task: str, metric: str) -> list[LossPath]:
    """Return the test metric of each run along its falling training loss.

    Raises:
        ConfigurationError: If a run lacks one of the two.
    """
    found = []
    for run in runs:
        loss, test = (required(run, task, name) for name in ("train_loss", f"test_{metric}"))
        # from the untrained network to the first checkpoint there is nothing to interpolate between
        found.append(path_of(*loss.after_start().at(test)))
    return found


def check_metric(study: Study, metric: str) -> None:
    """Raise if no run measured a metric on test examples.

    Raises:
        ConfigurationError: If so, with the metrics that there are.
    """
    measures = {measure for run in study.runs for _, measure in run.series}
    known = sorted(name.removeprefix("test_") for name in measures if name.startswith("test_"))
    if not known:
        raise ConfigurationError(
            f"RUN {study.runs[0].path}: no run has a test metric; TrajectoryLog measures them where 'test' "
            "is among its splits"
        )
    check_known("--metric", metric, known)


def selection(study: Study, metric: str, select: str | None) -> str:
    """Return the measure by which checkpoints are chosen: on validation examples, or ``last``.

    Args:
        study: The runs.
        metric: The test metric.
        select: What was asked for; by default the same metric on validation examples, else ``last``.

    Raises:
        ConfigurationError: If runs do not have it, or it is not of validation examples.
    """
    if select == LAST:
        return LAST
    if select is not None and not select.startswith("val_"):
        raise ConfigurationError(
            f"--select {select or repr(select)}: checkpoints are chosen on validation examples; give "
            f"val_{metric}, another val_ measure, or {LAST}"
        )
    wanted = select or f"val_{metric}"
    lacking = [run for run in study.runs for task in _own(study, run) if (task, wanted) not in run.series]
    if not lacking:
        return wanted
    if select is None and len({run.path for run in lacking}) == len(study.runs):
        return LAST
    known = sorted({m for run in study.runs for _, m in run.series if m.startswith("val_")} | {LAST})
    if select is not None and select not in known:
        raise unknown_name("--select", select, known)
    raise ConfigurationError(
        f"--select {wanted}: {lacking[0].path} does not have it and others do; --select {LAST} takes the "
        "last checkpoints"
    )


def reached(run: Trajectory, task: str, metric: str, select: str, count: int = CHECKPOINTS) -> float:
    """Return the mean test metric of the checkpoints that are best on validation examples.

    Of equally good ones the earlier count. The state before training is no checkpoint.

    Args:
        run: The run.
        task: The task.
        metric: The metric on test examples, ``accuracy`` say.
        select: Of :func:`selection`.
        count: How many checkpoints; all of a run that has fewer.

    Raises:
        ConfigurationError: If the run lacks a measure.
    """
    test = required(run, task, f"test_{metric}").after_start()
    if select == LAST:
        return float(test.value[-count:].mean())
    quality, values = required(run, task, select).after_start().at(test)
    if not len(values):
        raise ConfigurationError(f"RUN {run.path}: {select} and test_{metric} have no step in common")
    ranked = np.argsort(-quality if higher_is_better(select) else quality, kind="stable")
    return float(values[ranked[:count]].mean())


def fewest_checkpoints(study: Study, metric: str) -> int:
    """Return how many checkpoints the run with the fewest has."""
    return min(
        len(required(run, task, f"test_{metric}").after_start().value)
        for run in study.runs
        for task in _own(study, run)
    )


def _own(study: Study, run: Trajectory) -> Sequence[str]:
    """Return the tasks of the study that a run trained on."""
    return run.trained if run.single else study.tasks
