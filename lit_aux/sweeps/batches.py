"""Runs of a sweep that finetune in one batch."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from lit_aux.runs.child import Output, claimed, in_folder
from lit_aux.runs.folder import OUTPUT, forget, read_outcome
from lit_aux.runs.job import Job, Report
from lit_aux.sweeps.jobs import asks_for_several
from lit_aux.sweeps.run import SweepRun, pairs, without

MOST_TOGETHER = 64
_MAY_DIFFER = (
    "model.rescale",
    "seed_everything",
    "data.seed",
    "model.finetune_settings.optimizer",
    "model.settings.optimizer",
)
_OWN = ("trainer.default_root_dir",)
_ACCELERATORS = ("auto", "gpu", "cuda")


def why_not(runs: Sequence[SweepRun]) -> str:
    """Say why no run of a sweep is trained in a batch on this machine; empty where some may be."""
    asked = {_accelerator(run) for run in runs}
    if not asked & {*_ACCELERATORS}:
        return f"runs ask for --trainer.accelerator {', '.join(sorted(asked))}"
    import torch

    return "" if torch.cuda.is_available() else "there is no GPU"


def batches(jobs: Sequence[Job], size: int) -> list[Job]:
    """Make batches of jobs of a sweep; those that are left over stay by themselves.

    Runs are put together that have one environment, one set of configuration files and the same options but
    for the rescale factor, seeds and the options of the finetuning's optimizer.

    Args:
        jobs: Of one run each, as ``jobs_of`` gives them.
        size: Most runs of a batch.

    Returns:
        Jobs in the order of their first runs.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(_kind(job), []).append(job)
    made: list[Job] = []
    for kind, group in groups.items():
        most = size if kind else 1
        made += [_together(tuple(group[at : at + most])) for at in range(0, len(group), most)]
    order = {run: place for place, job in enumerate(jobs) for run in job.runs}
    return sorted(made, key=lambda job: order[next(iter(job.runs))])


def _kind(job: Job) -> str:
    """Return what runs of one batch have in common; empty for a run that is always alone."""
    run: SweepRun = job.arguments[1]
    # also by `logger+=` and `logger.class_path`
    loggers = [words for name, _, words in pairs(run.arguments) if name.startswith("trainer.logger")]
    logs_online = "wandb" in f"{run.option('trainer.logger')} {loggers}".lower()
    if asks_for_several(run) or logs_online or _accelerator(run) not in _ACCELERATORS:
        return ""
    words = without([word.replace(".init_args", "") for word in run.arguments], *_MAY_DIFFER, *_OWN)
    return json.dumps([words, dict(run.environment), dict(run.files)], sort_keys=True)


def _accelerator(run: SweepRun) -> str:
    return str(run.option("trainer.accelerator") or "auto").lower()


def _together(jobs: tuple[Job, ...]) -> Job:
    if len(jobs) == 1:
        return jobs[0]
    first = jobs[0]
    jobs = tuple(replace(job, retry=False) for job in jobs)  # what failed before has been forgotten
    return Job(
        title=f"{len(jobs)} runs in a batch ({first.title}; ...)",
        runs={run: columns for job in jobs for run, columns in job.runs.items()},
        work=fit_batch,
        arguments=(jobs,),
        environment=first.environment,
        imports=(*first.imports, "lit_aux.batched"),
        parts=jobs,
    )


def fit_batch(report: Report, jobs: Sequence[Job]) -> None:
    """Carry out runs, each in its own folder, and train their last phases in one batch, where they can be.

    A run whose batch failed as a whole is left as one that has not ended.

    Args:
        report: Is told how many runs train, and which were trained alone.
        jobs: The runs.
    """
    from lit_aux.batched import fit_together

    with ExitStack() as held:
        free = [job for job in jobs if held.enter_context(claimed(job, _folder(job)))]
        outputs = [Output(_folder(job) / OUTPUT) for job in free]
        for output in outputs:
            held.callback(output.close)
        words = [["lit-aux"] for _ in free]

        @contextmanager
        def turn(number: int) -> Iterator[None]:
            """Let the process print to a run's own file, and have its command line."""
            before, sys.argv = sys.argv, words[number]
            try:
                with outputs[number]:
                    yield
            finally:
                words[number], sys.argv = sys.argv, before

        runs = [partial(in_folder, job, _folder(job), report) for job in free]
        ends = fit_together(runs, turn, report.step)
        for job, end in zip(free, ends, strict=True):
            outcome = read_outcome(_folder(job))
            if end.broken:
                why = "the batch failed" if outcome is None else outcome.error
                forget(_folder(job))
                report.note(f"{job.title}: trained by itself: {why}")
            elif end.reason and outcome is not None and not outcome.error:
                report.note(f"{job.title}: trained by itself: {end.reason}")


def _folder(job: Job) -> Path:
    assert job.folder is not None
    return job.folder
