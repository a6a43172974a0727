"""Single-task and multi-task runs that can be compared."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lit_aux.errors import ConfigurationError, check_known, listed, some
from lit_aux.trajectories.reading import Trajectory

Runs = Mapping[str, Sequence[Trajectory]]
"""By task or by method."""
_NAMED = 5  # of many tasks or runs


@dataclass(frozen=True)
class Study:
    """Runs of the same tasks over equally many steps.

    Attributes:
        tasks: The tasks that are compared.
        single: The single-task runs of each, by seed.
        multi: The multi-task runs of each method, by seed; all with the tasks of ``tasks``.
        notes: What is to be known of the runs, a line each.
    """

    tasks: tuple[str, ...]
    single: Runs
    multi: Runs
    notes: tuple[str, ...] = ()

    @property
    def runs(self) -> list[Trajectory]:
        """Every run, single-task ones first."""
        parts = (*self.single.values(), *self.multi.values())
        return [run for runs in parts for run in runs]


def study_of(runs: Iterable[Trajectory], tasks: Sequence[str] | None = None) -> Study:
    """Sort runs into single-task and multi-task ones, and see that they can be compared.

    The order of runs does not matter. Where runs took different numbers of steps, all are looked at up to
    the last step that every one took.

    Args:
        runs: Of :func:`~lit_aux.trajectories.reading.read_trajectories`.
        tasks: The tasks to compare; by default all, which must then be the same for both kinds of runs.

    Raises:
        ConfigurationError: If there are no runs of one kind, one is there twice, their tasks differ, or they
            have no step in common.
    """
    found = sorted(runs, key=lambda run: (run.method, run.trained, run.seed is None, run.seed or 0, run.path))
    alone, together = [r for r in found if r.single], [r for r in found if not r.single]
    for kind, have, others in (("single-task", alone, together), ("multi-task", together, alone)):
        if not have:
            raise ConfigurationError(
                f"RUN: there are {len(others)} runs and none is {kind} (their tasks: "
                f"{listed(('|'.join(run.trained) for run in others), _NAMED)}); name runs of both kinds"
            )
    single: dict[str, list[Trajectory]] = defaultdict(list)
    for run in alone:
        single[run.trained[0]].append(run)
    multi = _by_method(together)
    for name, members in (*single.items(), *multi.items()):
        _refuse_doubles(name, members)
    chosen = _common_tasks(single, multi) if tasks is None else _chosen_tasks(tasks, single, multi)
    kept = [run for task in chosen for run in single[task]] + together
    last, notes = _equal_steps(kept)
    return Study(
        chosen,
        {task: [run.until(last) for run in single[task]] for task in chosen},
        {name: [run.until(last) for run in members] for name, members in multi.items()},
        (*notes, *_seed_notes(chosen, single, multi)),
    )


def _by_method(runs: Sequence[Trajectory]) -> dict[str, list[Trajectory]]:
    """Return multi-task runs by the name of their method, and their tasks where a method has several sets."""
    sets = Counter(method for method, _ in {(run.method, run.trained) for run in runs})
    found: dict[str, list[Trajectory]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.method != "MTL"):
        several = sets[run.method] > 1
        found[f"{run.method} ({'|'.join(run.trained)})" if several else run.method].append(run)
    return dict(found)


def _refuse_doubles(name: str, runs: Sequence[Trajectory]) -> None:
    seen: dict[int, Trajectory] = {}
    for run in runs:
        if run.seed in seen:
            kind = f"single-task runs of {name!r}" if run.single else f"runs of {name}"
            raise ConfigurationError(
                f"RUN {run.path}: seed {run.seed} is among the {kind} twice; the other is "
                f"{seen[run.seed].path}: leave one out"
            )
        if run.seed is not None:
            seen[run.seed] = run


def _common_tasks(single: Runs, multi: Runs) -> tuple[str, ...]:
    """Return the tasks that every multi-task run measured, which must be those of the single-task runs."""
    tasks = next(iter(multi.values()))[0].tasks
    for name, runs in multi.items():
        for run in runs:
            if not run.tasks:
                raise ConfigurationError(
                    f"RUN {run.path}: measured none of its tasks, {listed(run.trained, _NAMED)}"
                )
            lacking = sorted({*run.tasks} - {*single})
            more = sorted({*single} - {*run.tasks})
            if lacking or more:
                where = f"no single-task run has {listed(lacking, _NAMED)}" if lacking else ""
                where += " and " if lacking and more else ""
                where += f"{name} ({run.path}) has no {listed(more, _NAMED)}" if more else ""
                common = sorted({*single} & {*run.tasks})
                hint = f"--tasks {' '.join(common)} compares those in common" if common else "name other runs"
                raise ConfigurationError(f"RUN: runs with different tasks: {where}; {hint}")
    return tasks


def _chosen_tasks(tasks: Sequence[str], single: Runs, multi: Runs) -> tuple[str, ...]:
    for task in tasks:
        check_known("--tasks", task, sorted(single))
        for name, runs in multi.items():
            for run in runs:
                if task not in run.tasks:
                    raise ConfigurationError(f"--tasks {task}: {name} ({run.path}) has no such task")
    return tuple(dict.fromkeys(tasks))


def _equal_steps(runs: Sequence[Trajectory]) -> tuple[int, list[str]]:
    """Return the last step that every run took, and what to say of runs that took fewer."""
    last, most = min(run.last_step for run in runs), max(run.last_step for run in runs)
    short = [run for run in runs if run.last_step < most]
    if last == 0:
        raise ConfigurationError(
            f"RUN {short[0].path if short else runs[0].path}: has no measurement after its first step; leave "
            "this run out"
        )
    if not short:
        return last, []
    named = some([f"{run.path} ({run.last_step})" for run in short])
    return last, [
        f"{len(short)} of {len(runs)} runs took fewer than {most} steps: {named}; all are compared up to "
        f"step {last}, since the comparison is of equal steps"
    ]


def _seed_notes(tasks: Sequence[str], single: Runs, multi: Runs) -> list[str]:
    """Say which seeds are missing, and that one seed tells nothing of significance."""
    groups = [(f"single-task {task}", single[task]) for task in tasks] + [*multi.items()]
    every = {run.seed for _, runs in groups for run in runs} - {None}
    notes = []
    for name, runs in groups:
        have = {run.seed for run in runs}
        if None not in have and (missing := sorted(every - have)):  # type: ignore[type-var]
            notes.append(f"{name} has no run of seed {listed(missing, _NAMED)}; its mean is over {len(runs)}")
    nameless = sum(run.seed is None for _, runs in groups for run in runs)
    if nameless:
        notes.append(f"{nameless} runs say no seed; each counts as one of its own")
    if alone := [name for name, runs in groups if len(runs) == 1]:
        notes.append(f"one run only, so that nothing of it is significant: {listed(alone, _NAMED)}")
    return notes
