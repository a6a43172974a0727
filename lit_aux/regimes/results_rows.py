"""Students of a results table, whose rows hold no weights: they are solved, or trained, again."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_aux.data import TeacherDataModule
from lit_aux.errors import ConfigurationError
from lit_aux.experiments import EXPERIMENTS, Options, Run, cells
from lit_aux.experiments.options import INTEGRATORS
from lit_aux.experiments.students import data_of, train_again
from lit_aux.functional.gradient_flow import PATHWAYS, gradient_flow_limit
from lit_aux.phases.quiet import quiet
from lit_aux.regimes.student_features import StudentFeatures, student_weights
from lit_aux.runs.csv_file import CsvFile
from lit_aux.runs.duplicates import once
from lit_aux.runs.table import ADDED, COLUMNS
from lit_aux.runs.typed import Row

Weights = dict[str, Tensor]


def read_results(
    path: str | Path, run: str | None = None, sampling: str | None = None
) -> tuple[list[StudentFeatures], str]:
    """Work out the weights of the PT+FT rows of a table of ``lit-aux reproduce``.

    Diagonal networks: both phases are solved exactly, as the limit of gradient flow from the published start:
    auxiliary task, rescaling, a fresh readout, main task. ReLU networks train again, one run after the other,
    from the pretrained weights that are kept beside the table, if they are still there.

    Args:
        path: The table.
        run: The hash of one row, or its beginning; all rows of PT+FT by default.
        sampling: How its data were drawn. By default the draw with which the rows' hashes agree; published
            where there is none, since other options were changed too.

    Returns:
        One entry a row, and how they were found, in words.

    Raises:
        ConfigurationError: If the file is no such table, or has no such row.
    """
    rows = _chosen(_rows(Path(path)), Path(path), run)
    found = [_run(row, sampling, Path(path)) for row in rows]
    sure = sum(known for *_, known in found)
    if EXPERIMENTS[rows[0]["experiment"]].network == "diagonal":
        students = list(_solve([run for run, *_ in found]))
        note = "solved: the limit of gradient flow in place of the rows' own weights"
        assumed = "published draws are assumed"
    else:
        again = [(run, options) for run, options, _ in found]
        students = list(train_rows(again, Path(path).parent / "phases"))
        note = "trained again: rows hold no weights"
        assumed = "the usual ones are assumed"
    if sure < len(found) and (sampling is None or "usual" in assumed):
        note += f"; {len(found) - sure} of {len(found)} rows had other options, {assumed}"
    return students, note


def _rows(path: Path) -> list[Row]:
    if not path.is_file():
        raise ConfigurationError(f"--results {path}: there is no such file")
    lines = CsvFile(path, COLUMNS, ADDED)
    try:
        lines.check()
        rows = list(lines.rows())
    except (ConfigurationError, UnicodeDecodeError):
        raise ConfigurationError(f"--results {path}: is no results table of lit-aux reproduce") from None
    # a failed run has nothing to be found
    return [row for row in once(rows, path, "--results") if not row["error"]]


def _chosen(rows: list[Row], path: Path, run: str | None) -> list[Row]:
    """Return the rows that are meant, or say why they cannot be had."""
    wanted = [row for row in rows if run is None or row["run"].startswith(run)]
    if run is not None and len(wanted) != 1:
        count = f"{len(wanted)} runs begin" if wanted else f"no run of {path} begins"
        raise ConfigurationError(f"--run {run!r}: {count} with it; give the hash of one row")
    finetuned = [row for row in wanted if row["setup"] == "PT+FT"]
    if not finetuned:
        what = f"the row is of {wanted[0]['setup']}" if run else "no row is of PT+FT"
        raise ConfigurationError(
            f"--results {path}: {what}; there is a place only for PT+FT (pretraining and finetuning)"
        )
    for row in finetuned:
        if row["experiment"] not in EXPERIMENTS:
            raise ConfigurationError(
                f"--results {path}: its rows are of lit-aux fit, which keeps the weights; give the run's "
                f"folder, as lit-aux regime {path.parent}"
            )
        if EXPERIMENTS[row["experiment"]].network == "image":
            raise ConfigurationError(
                f"--results {path}: {row['experiment']} trains deep networks; ask with --config FILE "
                "--factors LIST"
            )
    return finetuned


def _run(row: Row, sampling: str | None, path: Path) -> tuple[Run, Options, bool]:
    """Return a row's run, its options, and whether its hash is that of the run that was assumed.

    Diagonal runs are in float64, for they are solved.
    """
    diagonal = EXPERIMENTS[row["experiment"]].network == "diagonal"
    axes = {"overlap": int} if diagonal else {"correlation": str, "magnitude": float}
    kinds: dict[str, Any] = {"seed": int, "n_main": int, "k_main": int, "rescale": float, **axes}
    try:
        places = {name: kind(row[name]) for name, kind in kinds.items()}
    except ValueError as error:
        raise ConfigurationError(f"--results {path}: run {row['run']} is not complete ({error})") from None
    places["seeds"] = places.pop("seed")

    def run_of(options: Options) -> Run:
        return cells(row["experiment"], setups="PT+FT", options=options, **places)[0]

    likely = list(_candidates(diagonal, sampling))
    found = next((options for options in likely if run_of(options).run_hash == row["run"]), None)
    options = found or likely[0]
    run = run_of(replace(options, dtype="float64", integrator="gradient_flow") if diagonal else options)
    return run, options, found is not None


def _candidates(diagonal: bool, sampling: str | None) -> Iterable[Options]:
    """Yield the options that rows are likely to have had, the usual ones first."""
    draws = [sampling] if sampling else ["published", "independent"]
    integrators = INTEGRATORS if diagonal else INTEGRATORS[:2]
    for draw, integrator, scale in product(draws, integrators, [None, "sqrt", "units"]):
        yield Options(sampling=cast(Any, draw), integrator=integrator, output_scale=cast(Any, scale))


def _solve(runs: Iterable[Run]) -> Iterable[StudentFeatures]:
    """Yield the students of some runs; pretraining is solved once a seed."""
    pretrained: dict[Any, Weights] = {}
    for run in runs:
        protocol = run.protocol
        assert protocol is not None
        data = data_of([run], Options(sampling=run.options["sampling"]))
        data.set_phase(["aux"])
        key = (run.experiment, run.axes["seed"], run.options["sampling"], protocol.init_scale)
        if key not in pretrained:
            start = torch.full((protocol.in_features,), protocol.init_scale, dtype=torch.float64)
            pretrained[key] = _limit(data, "aux", dict.fromkeys(PATHWAYS, start)).weights
        w = torch.stack([pretrained[key][name] for name in ("w_plus", "w_minus")])
        v = torch.full_like(w, protocol.readout_scale)
        factor = run.axes["rescale"]
        data.set_phase(["main"])
        weights = {"w_plus": factor * w[0], "v_plus": v[0], "w_minus": factor * w[1], "v_minus": v[1]}
        beta = _limit(data, "main", weights).beta
        follows = run.experiment == "diagonal-rescaling"  # its readout is 1e-3 times the factor
        cell = {name: run.axes[name] for name in run.axes}
        yield StudentFeatures("q", cell, factor, beta, w, v / factor if follows else v, None, follows)


def _limit(data: TeacherDataModule, task: str, weights: Mapping[str, Tensor]) -> Any:
    x, y = data.train_set(0, task)
    return gradient_flow_limit(x.double(), y[:, 0].double(), weights)


# ReLU students, which train again


class _Start(Callback):
    """Keeps the weights from which finetuning starts: the readout drawn anew, the first layer rescaled."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights = student_weights(cast(Any, pl_module).net, "main")


def train_rows(runs: Sequence[tuple[Run, Options]], store: Path) -> Iterator[StudentFeatures]:
    """Train runs of ReLU networks again, one after the other, and yield their units as features.

    Args:
        runs: Of PT+FT, and the options of each.
        store: Folder of pretrained networks; those that it lacks are trained.
    """
    for number, (run, options) in enumerate(runs, 1):
        place = ", ".join(f"{name} {run.axes[name]}" for name in ("seed", "n_main", "rescale"))
        print(f"training run {number} of {len(runs)} again: {place} ...", flush=True)
        start = _Start()
        with quiet(logging.WARNING):
            net = train_again(run, replace(options, store=store), [start])
        factor = run.axes["rescale"]
        (w, v), (w_end, v_end) = start.weights, student_weights(net, "main")
        start_end = (w[0] / factor, v[0, 0]), (w_end[0], v_end[0, 0])
        yield StudentFeatures.of_relu(dict(run.axes), factor, *start_end)
