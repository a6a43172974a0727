"""Plans the runs of an experiment: what the table lacks, a slice of the grid at a time."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

from lit_aux.cores import cores
from lit_aux.errors import ClusterError, ConfigurationError
from lit_aux.experiments.expand import cells, chosen_setups
from lit_aux.experiments.grids import Experiment, experiment
from lit_aux.experiments.options import Options
from lit_aux.experiments.run import Run
from lit_aux.results.means import is_log
from lit_aux.results.sheet import show
from lit_aux.results.sheets import Query, means
from lit_aux.runs.duplicates import check_one_kind, once
from lit_aux.runs.engines import Engine, Here, Processes, check_for_cluster, workers_of
from lit_aux.runs.job import Job, Report, Row, Rows
from lit_aux.runs.progress import Progress
from lit_aux.runs.runner import Runner
from lit_aux.runs.table import ResultsTable
from lit_aux.runs.typed import as_read
from lit_aux.storage import check_place
from lit_aux.teachers import drawn_word, spelled

Fit = Callable[[list[str]], Any]
_IMPORTS = ("lit_aux.experiments.students", "lit_aux.experiments.reproduction")
_FEW = 16  # runs for which it is not worth while to start processes


class SliceError(RuntimeError):
    """Slices ended without rows for all of their runs; the message is one line that names them."""


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
    cluster: str | None = None,
    appended: Callable[[], object] | None = None,
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
        cluster: A Dask scheduler, or its file, whose workers carry runs out in place of this machine.
        appended: Called whenever runs have got their rows.
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
        given = chosen_setups(setups, found)
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
    if cluster is None:
        _check_device(options.device)
    else:  # whose workers have devices and working folders of their own
        check_for_cluster(options.jobs)
        path = path.resolve()
    options = replace(options, store=options.store or path.parent / "phases")
    with ResultsTable(path, appended) as table:
        # what cannot be averaged is said before it is trained
        of_experiment = [row for row in once(table.rows(), path, "--out") if row["experiment"] == name]
        another = path.with_stem(path.stem + (drawn_word(runs[0].options) or "-published"))
        hint = f"name another table: --out {another}"
        check_one_kind(f"--out {path}", of_experiment, hint, runs[0].run_hash, spelled)
        complete, failures = _run(found, runs, table, options, fit, cluster)
        wanted = {run.run_hash for run in runs}
        rows = [row for row in once(table.rows(), path, "--out") if row["run"] in wanted]
    print_summary(rows, "accuracy" if found.network == "image" else "loss_best", path)
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
    found: Experiment,
    runs: Sequence[Run],
    table: ResultsTable,
    options: Options,
    fit: Fit | None,
    cluster: str | None,
) -> tuple[bool, list[str]]:
    """Carry out the runs that the table lacks; return False after Ctrl-C, and what failed."""
    done = table.done()
    left = [run for run in runs if run.run_hash not in done]
    held = {run.run_hash for run in runs} & done
    converged = sum(row["converged"] == "true" for row in table.rows() if row["run"] in held)
    engine: Engine = Here() if cluster is None or not left else workers_of(cluster)
    gpu, jobs = bool(left) and cluster is None and _on_gpu(options.device), engine.width
    if cluster is None and left and left[0].protocol is not None:
        jobs = options.jobs or (1 if gpu or len(left) < _FEW else min(2, cores()))
    timed = options.integrator == Options().integrator and not gpu
    if timed and left and (takes := found.takes(len(left))):
        print(f"{found.name}: {takes}", flush=True)
    groups = slices(left, options.replicas_per_slice, jobs, gpu, solved=options.integrator == "exact")
    if found.network == "image":
        if fit is None:
            raise ConfigurationError(
                "fit: image experiments run through lit-aux; give a function that does so"
            )
        folder = table.path.parent / "runs"
        planned = [
            _job([run], fit_image, run, options, folder, fit, cluster is not None)
            for group in groups
            for run in group
        ]
    else:
        planned = [slice_job(group, options) for group in groups]
    with Progress(len(runs), len(held), converged) as progress:
        if cluster is None and min(jobs, len(planned)) > 1:
            engine = Processes(min(jobs, len(planned)))
        runner = Runner(engine, progress, table.append)
        try:
            runner.run(planned)
        except (KeyboardInterrupt, SystemExit):  # within a fit, Lightning makes the latter of the former
            return False, []
        except ClusterError as lost:
            return True, [str(lost)]
    return True, runner.failures


def slice_job(group: Sequence[Run], options: Options) -> Job:
    """Return the job of students that train as one batch.

    Args:
        group: Their runs.
        options: How they are carried out.
    """
    return replace(_job(group, train_students, group, options), imports=_IMPORTS, reuse=True)


def _job(group: Sequence[Run], work: Callable[..., None], *arguments: Any) -> Job:
    known = {run.run_hash: run.identity for run in group}
    return Job(title(group), known, work, arguments)


def train_students(report: Report, group: Sequence[Run], options: Options) -> None:
    """Train a slice of students, quietly; torch is imported when there is one.

    Args:
        report: Is told how they get on, and the row of each.
        group: The runs.
        options: How they are carried out.
    """
    from lit_aux.experiments.students import train_slice
    from lit_aux.phases.quiet import quiet

    def emit(run: Run, row: Row, measures: Sequence[Row]) -> None:
        report.rows(run.run_hash, *_rows(run, row, measures))

    with quiet(logging.WARNING):
        train_slice(group, options, report.step, emit)


def fit_image(
    report: Report, run: Run, options: Options, folder: Path, fit: Fit, quietly: bool = False
) -> None:
    """Fit a run of an image experiment.

    Args:
        report: Is told its row.
        run: The run.
        options: How it is carried out.
        folder: Where it has a folder of its own.
        fit: Carries out a ``lit-aux`` command line in this process.
        quietly: Whether what it prints is kept in its folder.
    """
    from lit_aux.experiments.images import fit_run

    report.rows(run.run_hash, *_rows(run, *fit_run(run, options, folder, fit, quietly)))


def _rows(run: Run, row: Row, measures: Sequence[Row]) -> Rows:
    return [{**run.identity, **row}], [{"run": run.run_hash, **measure} for measure in measures]


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


_RIDGE = ("(LP)", "(NTK)")


def slices(
    runs: Sequence[Run], most: int | None = None, jobs: int = 1, gpu: bool = False, solved: bool = False
) -> list[list[Run]]:
    """Group runs that can train as one batch: of one experiment, setup and rescale factor.

    ReLU networks and images have one n_main in a group. Diagonal networks mix them, since what their replicas
    share are the inputs of the auxiliary task. Runs of one seed, which share inputs, stay together as far as
    they can.

    Args:
        runs: In the order in which they should be done.
        most: Most runs in a group; where None, as many as is good for the kind of network.
        jobs: How many groups will be under way at a time. For one, groups keep the order of the runs; for
            several, the longest come first, and diagonal networks are divided by seeds.
        gpu: Whether they run on a GPU.
        solved: Whether they are solved instead of trained: then all runs of a seed make a group, since
            drawing inputs takes longer than solving.
    """
    kinds: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        size = None if _network(run) == "diagonal" else run.axes["n_main"]
        kind = (run.axes["seed"],) if solved else (run.setup, run.axes.get("rescale"), size)
        kinds.setdefault((run.experiment, *kind), []).append(run)
    groups: list[list[Run]] = []
    for alike in kinds.values():
        limit = most or (len(alike) if solved else _most(alike[0], gpu))
        divided = _network(alike[0]) == "diagonal" and not solved
        groups += _packed(alike, limit, min(limit, ceil(len(alike) / jobs)) if divided else limit)
    return groups if jobs == 1 else sorted(groups, key=_cost, reverse=True)


def title(group: Sequence[Run]) -> str:
    """Return what a person calls a group: its setup and n_main."""
    sizes = sorted({run.axes["n_main"] for run in group})
    span = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    setups = ", ".join(dict.fromkeys(run.setup for run in group))
    return f"{setups}, n {span}"


def _network(run: Run) -> str:
    return "image" if run.protocol is None else run.protocol.network


def _most(run: Run, gpu: bool) -> int:
    """Return how many runs are good for one batch."""
    if _network(run) == "diagonal":
        return 256
    # On a CPU, ReLU students share nothing: small groups, so that rows come early and workers balance.
    return 8 if _network(run) == "relu" and not gpu and not run.setup.endswith(_RIDGE) else 64


def _packed(runs: Iterable[Run], most: int, good: int) -> list[list[Run]]:
    """Put runs into groups of up to ``good``; a seed's are divided only where they are more than ``most``."""
    seeds: dict[int, list[Run]] = {}
    for run in runs:
        seeds.setdefault(run.axes["seed"], []).append(run)
    groups: list[list[Run]] = []
    for own in seeds.values():
        pieces = ceil(len(own) / most)
        for i in range(pieces):
            piece = own[i * len(own) // pieces : (i + 1) * len(own) // pieces]
            if groups and len(groups[-1]) + len(piece) <= good:
                groups[-1] += piece
            else:
                groups.append(piece)
    return groups


def _cost(group: Sequence[Run]) -> float:
    """Return about how long a group takes, in no unit: the rows that it trains on."""
    return sum(_trained_rows(run) for run in group)


def _trained_rows(run: Run) -> float:
    if run.protocol is None:
        return 1.0
    rows: float = run.axes["n_main"] + (run.protocol.n_aux if run.setup == "MTL" else 0)
    return rows / 20 if run.setup.endswith(_RIDGE) else rows


def print_summary(rows: Sequence[Mapping[str, str]], value: str, path: Path) -> None:
    """Print the means of ``lit-aux table``, where there are rows.

    Args:
        rows: Rows of the results table, as they are written.
        value: The column, ``loss_best`` or ``accuracy``.
        path: The table.
    """
    read = [as_read(row, path) for row in rows]
    if read:
        show([means(Query(read, value, is_log(read, value), None))])
