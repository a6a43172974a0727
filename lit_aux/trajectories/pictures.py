"""The pictures of ``lit-aux trajectories``."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lit_aux.figures.style import Look
from lit_aux.trajectories.analysis import Analysis
from lit_aux.trajectories.change_picture import draw_changes
from lit_aux.trajectories.factors import Factor
from lit_aux.trajectories.gap import Band, band, overlap, path_of
from lit_aux.trajectories.grid import SINGLE, Line, draw_grid, looks
from lit_aux.trajectories.series import Floats, Series
from lit_aux.trajectories.transfer import required

_SPAN = 20  # from which ratio of values on an axis is logarithmic


def draw(found: Analysis, folder: Path, kind: str = "png") -> Iterator[Path]:
    """Draw every picture, yielding each when it is written.

    Args:
        found: What is drawn.
        folder: Where.
        kind: The format: ``png``, ``svg`` or ``pdf``.
    """
    how = looks(list(found.study.multi))
    yield _draw_gap(found, folder / f"gap.{kind}", how)
    for factor in found.factors:
        yield _draw_factor(found, factor, folder / f"{factor.measure}.{kind}", how)
    if found.factors:
        yield draw_changes(found, folder / f"change.{kind}", how)


def _draw_gap(found: Analysis, path: Path, how: dict[str, Look]) -> Path:
    panels = {task: list(_loss_lines(found, task)) for task in found.study.tasks}
    bars = any(line.clear for lines in panels.values() for line in lines)
    clear = "; bars at the foot: losses at which intervals do not overlap" if bars else ""
    return draw_grid(
        path,
        panels,
        how,
        labels=("training loss", f"test {found.metric}"),
        title=f"Test {found.metric} at the same training loss",
        note=f"{_over(found)}{clear}",
        log_x=True,
    )


def _loss_lines(found: Analysis, task: str) -> Iterator[Line]:
    """Yield a task's curves over the losses that all runs of a kind passed through."""
    kinds = [(SINGLE, found.study.single[task]), *found.study.multi.items()]
    gaps = {result.method: result.gap for result in found.results if result.task == task}
    for name, runs in kinds:
        paths = [
            path_of(
                *required(run, task, "train_loss")
                .after_start()
                .at(required(run, task, f"test_{found.metric}"))
            )
            for run in runs
        ]
        losses = overlap(paths)
        if losses is None:
            continue
        drawn: Band = band(paths, losses)
        gap = gaps.get(name)
        clear = () if gap is None else tuple(_stretches(gap.single.loss, gap.significant))
        mean, two_sd = drawn.mean, drawn.two_sd
        yield Line(name, drawn.loss, mean, mean - two_sd, mean + two_sd, clear)


def _stretches(x: Floats, which: NDArray[np.bool_]) -> Iterator[Floats]:
    """Yield the ends of every stretch of places where something holds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], which.astype(np.int8), [0]])))
    for first, end in edges.reshape(-1, 2):
        yield x[[first, end - 1]]


def _draw_factor(found: Analysis, factor: Factor, path: Path, how: dict[str, Look]) -> Path:
    kinds = [
        (task, name, [run.series[key] for run in runs if (key := (task, factor.measure)) in run.series])
        for task in found.study.tasks
        for name, runs in ((SINGLE, found.study.single[task]), *found.study.multi.items())
    ]
    values = np.concatenate([own.value for *_, series in kinds for own in series])
    log = bool(values.min() > 0 and values.max() > _SPAN * values.min())
    panels: dict[str, list[Line]] = {task: [] for task in found.study.tasks}
    for task, name, series in kinds:
        line = _over_epochs(name, series, log)
        panels[task] += [] if line is None else [line]
    return draw_grid(
        path,
        panels,
        how,
        labels=("epoch", factor.title),
        title=f"{factor.title[0].upper()}{factor.title[1:]} over training",
        note=f"{_over(found)}{', of the logarithm' if log and _several(found) else ''}",
        log_y=log,
    )


def _over_epochs(name: str, series: Sequence[Series], log: bool) -> Line | None:
    """Return the mean of a measure at the epochs at which every run measured it.

    Args:
        name: Of the kind of run.
        series: Of each run.
        log: Whether the mean is geometric, and its interval that of the logarithm.
    """
    by_epoch = [dict(zip(own.epoch.tolist(), own.value.tolist(), strict=True)) for own in series]
    epochs = sorted(set.intersection(*map(set, by_epoch))) if by_epoch else []
    if not epochs:
        return None
    values = np.array([[own[epoch] for epoch in epochs] for own in by_epoch])
    values = np.log(values) if log else values
    mean = values.mean(axis=0)
    two_sd = 2 * values.std(axis=0, ddof=1) if len(values) > 1 else np.full(len(epochs), np.nan)
    ends = [mean, mean - two_sd, mean + two_sd]
    return Line(name, np.array(epochs, float), *(np.exp(ends) if log else ends))


def _several(found: Analysis) -> bool:
    """Whether there is an interval to be drawn."""
    return any(len(runs) > 1 for part in (found.study.single, found.study.multi) for runs in part.values())


def _over(found: Analysis) -> str:
    """Say what the bands are."""
    counts = {len(runs) for part in (found.study.single, found.study.multi) for runs in part.values()}
    few, many = min(counts), max(counts)
    seeds = f"{many}" if few == many else f"{few} to {many}"
    return f"Means over {seeds} runs; bands: 2 standard deviations" if many > 1 else "One run of each"
