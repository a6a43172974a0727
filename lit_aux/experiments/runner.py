"""Runs an experiment: what the table lacks, a slice of the grid at a time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lit_aux.errors import ConfigurationError
from lit_aux.experiments import _values
from lit_aux.experiments.display import GridProgress, print_summary
from lit_aux.experiments.duplicates import once
from lit_aux.experiments.expand import cells
from lit_aux.experiments.grids import Experiment, experiment
from lit_aux.experiments.options import Options
from lit_aux.experiments.pool import SliceError, carry_out, cores, train_students
from lit_aux.experiments.results import ResultsTable
from lit_aux.experiments.run import Emit, Run
from lit_aux.experiments.slices import slices, title
from lit_aux.storage import check_place

Fit = Callable[[list[str]], Any]
_FEW = 16  # runs for which it is not worth while to start processes


def reproduce(
    name: str,
    *,
    setups: Any = None,
    seeds: Any = None,
    n_main: Any = None,
    out: str | Path | None = None,
    options: Options | None = None,
    fit: Fit | None = None,
    fit_arguments: Sequence[str] = (),
    configs: Path | None = None,
    **axes: Any,
) -> bool:
    """Run an experiment of the paper and append a row for every run to its results table.

    Runs that the table holds are skipped: interrupted, killed or asked for more, the grid goes on where it
    was. Means over seeds are printed in the end.

    Args:
        name: One of :data:`~lit_aux.experiments.EXPERIMENTS`.
        setups: Which setups, one or a list; by default those of the paper. So are all choices below.
        seeds: Which seeds.
        n_main: How many rows, or images, of the main task.
        out: The table, by default ``runs/NAME/results.csv``.
        options: How runs are carried out.
        fit: For images: carries out a ``lit-aux`` command line in this process.
        fit_arguments: For images: more options of ``lit-aux fit``.
        configs: For images: the folder of the project's configurations.
        **axes: Values of the experiment's other axes, see :func:`~lit_aux.experiments.cells`.

    Returns:
        Whether every run has its row; False when Ctrl-C ended it before.

    Raises:
        ConfigurationError: For what is unknown or impossible, before anything is written.
        SliceError: If a process that carried out a slice was killed or failed, after all the other slices.
    """
    options = options or Options()
    found = experiment(name)
    path = Path("runs") / name / "results.csv" if out is None else check_place("--out", out)
    if options.store is not None:
        store = check_place("--store", options.store)
        if store.exists() and not store.is_dir():
            raise ConfigurationError(f"--store {store}: is a file; name a folder")
    if configs is not None and found.network != "image":
        raise ConfigurationError(f"--configs {configs}: {name} has no configurations; it is not of images")
    if found.network == "image":
        if options.jobs not in (None, 1):
            raise ConfigurationError(
                f"--jobs {options.jobs}: {name} fits one run after the other; start it several times, each "
                "with its own --seeds and --out"
            )
        given = _values.setups(setups, found)
        runs = cells(
            name,
            setups,
            seeds,
            n_main,
            options,
            _details(found, given, options, fit_arguments, configs),
            **axes,
        )
    else:
        if fit_arguments:
            raise ConfigurationError(f"{fit_arguments[0]}: {name} takes no options of lit-aux fit")
        runs = cells(name, setups, seeds, n_main, options, **axes)
    _check_device(options.device)
    options = replace(options, store=options.store or path.parent / "phases")
    with ResultsTable(path) as table:
        once(table.rows(), path, "--out")  # what cannot be averaged is said before it is trained
        complete, failures = _run(found, runs, table, options, fit)
        wanted = {run.run_hash for run in runs}
        rows = [row for row in once(table.rows(), path, "--out") if row["run"] in wanted]
    print_summary(rows, "accuracy" if found.network == "image" else "loss_best")
    print(f"results: {path}")
    if not complete:
        print(
            f"interrupted: {len(rows)} of {len(runs)} runs are in {path}; the same command goes on from there"
        )
    elif failures:
        raise SliceError(
            f"{len(rows)} of {len(runs)} runs are in {path}; {'; '.join(failures)}; the same command tries "
            "again what is left"
        )
    return complete


def _run(
    found: Experiment, runs: Sequence[Run], table: ResultsTable, options: Options, fit: Fit | None
) -> tuple[bool, list[str]]:
    """Carry out the runs that the table lacks; return False after Ctrl-C, and what failed."""
    done = table.done()
    left = [run for run in runs if run.run_hash not in done]
    held = {run.run_hash for run in runs} & done
    converged = sum(row["converged"] == "true" for row in table.rows() if row["run"] in held)
    gpu, jobs = bool(left) and _on_gpu(options.device), 1
    if left and left[0].protocol is not None:
        jobs = options.jobs or (1 if gpu or len(left) < _FEW else min(2, cores()))
    timed = options.integrator == Options().integrator and not gpu
    if timed and left and (takes := found.takes(len(left))):
        print(f"{found.name}: {takes}", flush=True)
    groups = slices(left, options.replicas_per_slice, jobs, gpu, solved=options.integrator == "exact")
    with GridProgress(len(runs), len(held), converged) as progress:

        def emit(run: Run, row: dict[str, Any], measures: list[dict[str, Any]]) -> None:
            table.append(
                [{**run.identity, **row}], [{"run": run.run_hash, **measure} for measure in measures]
            )
            progress.end(bool(row.get("converged")))

        try:
            if min(jobs, len(groups)) > 1:
                return True, carry_out(groups, options, jobs, progress, emit)
            for group in groups:
                progress.begin(title(group))
                if group[0].protocol is None:
                    train_images(group, table, options, fit, emit)
                else:
                    _train(group, options, progress, emit)
        except (KeyboardInterrupt, SystemExit):  # within a fit, Lightning makes the latter of the former
            return False, []
    return True, []


def _train(group: Sequence[Run], options: Options, progress: GridProgress, emit: Emit) -> None:
    """Carry out a slice of students in this process."""
    expected = {run.run_hash for run in group}

    def ended(run: Run, row: dict[str, Any], measures: list[dict[str, Any]]) -> None:
        expected.remove(run.run_hash)
        emit(run, row, measures)

    train_students(group, options, progress.step, ended)
    if expected:
        raise RuntimeError(f"{len(expected)} of {len(group)} runs of a slice ended without a row")


def train_images(
    group: Sequence[Run], table: ResultsTable, options: Options, fit: Fit | None, emit: Emit
) -> None:
    """Fit the runs of an image experiment one after the other.

    Args:
        group: The runs.
        table: The table that they are for; they write their own folders beside it.
        options: How they are carried out.
        fit: Carries out a ``lit-aux`` command line in this process.
        emit: Takes each run that has ended.
    """
    from lit_aux.experiments.images import fit_run

    if fit is None:
        raise ConfigurationError("fit: image experiments run through lit-aux; give a function that does so")
    for run in group:
        emit(run, *fit_run(run, options, table.path.parent / "runs", fit))


def _details(
    found: Experiment, setups: Sequence[str], options: Options, arguments: Sequence[str], configs: Path | None
) -> dict[str, dict[str, Any]]:
    from lit_aux.experiments.images import details

    return details(found, setups, options, arguments, configs)


def _check_device(device: str) -> None:
    """Raise unless there is such a device."""
    if device in ("auto", "cpu"):
        return
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(
            f"--device {device or repr(device)}: cannot be used here ({reason})"
        ) from None


def _on_gpu(device: str) -> bool:
    """Return whether that is not the CPU."""
    if device != "auto":
        return device != "cpu"
    import torch

    return torch.cuda.is_available()
