"""The whole comparison: transfer, generalization gap, factors and verdicts of every method and task."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from lit_aux.errors import ConfigurationError
from lit_aux.trajectories import transfer
from lit_aux.trajectories.contrast import Contrast, Verdict, judge
from lit_aux.trajectories.factors import FACTORS, Factor, summarize
from lit_aux.trajectories.gap import Gap, gap, overlap
from lit_aux.trajectories.reading import Trajectory
from lit_aux.trajectories.study import Study
from lit_aux.trajectories.transfer import loss_paths

Runs = Sequence[Trajectory]


@dataclass(frozen=True)
class TaskAnalysis:
    """What a multi-task method did to one task.

    Attributes:
        method: The method.
        task: The task.
        transfer: The test metric that was reached.
        gap: The test metric by training loss; None where the two kinds of runs share no range of losses.
        gap_mean: Its mean over that range, run by run; None likewise.
        factors: Each factor that both kinds of runs measured, by its name.
        verdicts: What each says of the transfer.
    """

    method: str
    task: str
    transfer: Contrast
    gap: Gap | None
    gap_mean: Contrast | None
    factors: Mapping[str, Contrast]
    verdicts: Mapping[str, Verdict]


@dataclass(frozen=True)
class Analysis:
    """What ``lit-aux trajectories`` says.

    Attributes:
        study: The runs.
        metric: The test metric.
        select: How checkpoints were chosen: a validation measure, or ``last``.
        higher: Whether more of the metric is better.
        results: One for each method and task.
        notes: What is to be known, a line each.
    """

    study: Study
    metric: str
    select: str
    higher: bool
    results: Sequence[TaskAnalysis]
    notes: Sequence[str]

    @property
    def factors(self) -> list[Factor]:
        """The factors that were measured, in the order of the tables."""
        return [factor for factor in FACTORS if any(factor.measure in r.factors for r in self.results)]


def analyse(study: Study, metric: str = "accuracy", select: str | None = None) -> Analysis:
    """Compare every multi-task method with the single-task runs, task by task.

    Args:
        study: The runs.
        metric: The test metric.
        select: The validation measure by which checkpoints are chosen, or ``last``; by default the metric on
            validation examples, the last checkpoints where there are none.

    Raises:
        ConfigurationError: If runs lack what is needed, or share no training loss in any task.
    """
    transfer.check_metric(study, metric)
    chosen = transfer.selection(study, metric, select)
    higher = transfer.higher_is_better(metric)
    places = product(study.multi, study.tasks)
    results = [_of_task(study, method, task, metric, chosen, higher) for method, task in places]
    apart = [found for found in results if found.gap is None]
    if len(apart) == len(results):
        raise ConfigurationError(
            "RUN: there is no training loss that single-task and multi-task runs all pass through, in any "
            f"task ({_ranges(study, apart[0], metric)}); train both for longer, or measure more often"
        )
    notes = [
        f"{found.method}, {found.task}: no training loss that all runs pass through, so there is no gap "
        f"({_ranges(study, found, metric)})"
        for found in apart
    ]
    notes = [*study.notes, *notes, *_short_notes(study, metric, chosen, select)]
    return Analysis(study, metric, chosen, higher, results, (*notes, *_factor_notes(study, results)))


def _of_task(study: Study, method: str, task: str, metric: str, select: str, higher: bool) -> TaskAnalysis:
    single, multi = study.single[task], study.multi[method]

    def values(runs: Runs) -> list[tuple[int | None, float]]:
        return [(run.seed, transfer.reached(run, task, metric, select)) for run in runs]

    moved = Contrast(values(single), values(multi))
    found = gap(loss_paths(single, task, metric), loss_paths(multi, task, metric))
    mean = None
    if found is not None:
        kinds = (single, found.single), (multi, found.multi)
        pairs = (zip(runs, band.averages, strict=True) for runs, band in kinds)
        mean = Contrast(*([(run.seed, float(average)) for run, average in pair] for pair in pairs))
    changes = {f.measure: change for f in FACTORS if (change := _change(single, multi, task, f))}
    verdicts = {
        f.measure: judge(changes[f.measure], moved, f.sign, higher)
        for f in FACTORS
        if f.sign and f.measure in changes
    }
    return TaskAnalysis(method, task, moved, found, mean, changes, verdicts)


def _change(single: Runs, multi: Runs, task: str, factor: Factor) -> Contrast | None:
    """Return a factor in both kinds of runs, as far as they measured it; None where one kind did not."""
    kinds = []
    for runs in (single, multi):
        have = [(run.seed, run.series[key]) for run in runs if (key := (task, factor.measure)) in run.series]
        values = [(seed, summarize(series, factor.summary)) for seed, series in have]
        kinds.append([(seed, value) for seed, value in values if value is not None])
    return Contrast(*kinds) if all(kinds) else None


def _ranges(study: Study, found: TaskAnalysis, metric: str) -> str:
    """Say which losses all runs of either kind passed through."""
    parts = []
    for kind, runs in (("single", study.single[found.task]), ("multi", study.multi[found.method])):
        common = overlap(loss_paths(runs, found.task, metric))
        shared = "runs share none" if common is None else f"{common[0]:.3g} to {common[1]:.3g}"
        parts.append(f"{found.task} {kind} {shared}")
    return ", ".join(parts)


def _short_notes(study: Study, metric: str, chosen: str, asked: str | None) -> list[str]:
    notes, most = [], transfer.CHECKPOINTS
    if chosen == transfer.LAST and asked is None:
        notes.append(f"no run has val_{metric}: the last {most} checkpoints stand for the best ones")
    if (fewest := transfer.fewest_checkpoints(study, metric)) <= most:
        notes.append(f"a run has {fewest} checkpoints, so that the best {most} are all that it has")
    return notes


def _factor_notes(study: Study, results: Sequence[TaskAnalysis]) -> list[str]:
    """Say what was not measured, by all or by some."""
    notes = []
    gone: Counter[str] = Counter()
    for factor in FACTORS:
        have = [found for found in results if factor.measure in found.factors]
        if not have:
            gone[factor.callback] += 1
        elif len(have) < len(results):
            lacking = next(found for found in results if factor.measure not in found.factors)
            notes.append(
                f"{factor.title} was not measured in both kinds of runs for {len(results) - len(have)} of "
                f"{len(results)} tasks ({lacking.method}, {lacking.task})"
            )
        for found in have:
            change = found.factors[factor.measure]
            single = "single", change.single_runs, study.single[found.task]
            for kind, values, runs in (single, ("multi", change.multi_runs, study.multi[found.method])):
                if (count := len(values)) < len(runs):
                    what = f"{factor.title} of {found.task} was measured in {count} of {len(runs)}"
                    notes.append(f"{what} {kind}-task runs")
    if gone:
        notes.append(f"not measured in both kinds of runs: {', '.join(gone)} (callbacks)")
    return list(dict.fromkeys(notes))  # single-task runs are compared with every method
