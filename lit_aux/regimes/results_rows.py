"""Students of a results table: diagonal networks, whose weights are solved for where rows hold none."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_aux.data import TeacherDataModule
from lit_aux.errors import ConfigurationError
from lit_aux.experiments import EXPERIMENTS, Options, Run, cells
from lit_aux.experiments._lines import CsvLines
from lit_aux.experiments.options import INTEGRATORS
from lit_aux.experiments.results import COLUMNS
from lit_aux.experiments.students import data_of
from lit_aux.functional import gradient_flow_limit
from lit_aux.regimes.student_features import StudentFeatures

Row = dict[str, str]
Weights = dict[str, Tensor]


def read_results(
    path: str | Path, run: str | None = None, sampling: str | None = None
) -> tuple[list[StudentFeatures], str]:
    """Work out the weights of the PT+FT rows of a table of ``lit-aux reproduce diagonal-...``.

    Both phases are solved exactly, as the limit of gradient flow from the published start: auxiliary task,
    rescaling, a fresh readout, main task.

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
    sure = sum(known for _, known in found)
    students = list(_solve([one for one, _ in found]))
    note = "solved: the limit of gradient flow in place of the rows' own weights"
    if sure < len(found) and sampling is None:
        note += f"; {len(found) - sure} of {len(found)} rows had other options, published draws are assumed"
    return students, note


def _rows(path: Path) -> list[Row]:
    if not path.is_file():
        raise ConfigurationError(f"--results {path}: there is no such file")
    lines = CsvLines(path, COLUMNS)
    try:
        lines.check()
        return list(lines.rows())
    except (ConfigurationError, UnicodeDecodeError):
        raise ConfigurationError(f"--results {path}: is no results table of lit-aux reproduce") from None


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
        if EXPERIMENTS[row["experiment"]].network != "diagonal":
            raise ConfigurationError(
                f"--results {path}: rows of {row['experiment']} hold no weights and only diagonal networks "
                "can be solved; train with lit-aux fit and give the run's folder"
            )
    return finetuned


def _run(row: Row, sampling: str | None, path: Path) -> tuple[Run, bool]:
    """Return a row's run in float64, and whether its hash is that of the run that was assumed."""
    try:
        axes = {name: int(row[name]) for name in ("overlap", "k_main")} | {"rescale": float(row["rescale"])}
        places: dict[str, Any] = {"seeds": int(row["seed"]), "n_main": int(row["n_main"]), **axes}
    except ValueError as error:
        raise ConfigurationError(f"--results {path}: run {row['run']} is not complete ({error})") from None

    def run_of(**options: Any) -> Run:
        return cells(row["experiment"], setups="PT+FT", options=Options(**options), **places)[0]

    draws = [sampling] if sampling else ["published", "independent"]
    for draw in draws:
        for integrator in INTEGRATORS:
            if run_of(sampling=draw, integrator=integrator).run_hash == row["run"]:
                return run_of(sampling=draw, dtype="float64"), True
    return run_of(sampling=draws[0], dtype="float64"), False


def _solve(runs: Iterable[Run]) -> Iterable[StudentFeatures]:
    """Yield the students of some runs; pretraining is solved once a seed."""
    pretrained: dict[Any, Weights] = {}
    for run in runs:
        protocol = run.protocol
        assert protocol is not None
        data = data_of([run], Options(sampling=run.options["sampling"]))
        key = (run.experiment, run.axes["seed"], run.options["sampling"], protocol.init_scale)
        if key not in pretrained:
            start = torch.full((protocol.in_features,), protocol.init_scale, dtype=torch.float64)
            pretrained[key] = _limit(data, "aux", dict.fromkeys(_NAMES, start)).weights
        w = torch.stack([pretrained[key][name] for name in ("w_plus", "w_minus")])
        v = torch.full_like(w, protocol.readout_scale)
        factor = run.axes["rescale"]
        weights = {"w_plus": factor * w[0], "v_plus": v[0], "w_minus": factor * w[1], "v_minus": v[1]}
        beta = _limit(data, "main", weights).beta
        follows = run.experiment == "diagonal-rescaling"  # its readout is 1e-3 times the factor
        cell = {name: run.axes[name] for name in run.axes}
        yield StudentFeatures("q", cell, factor, beta, w, v / factor if follows else v, None, follows)


_NAMES = ("w_plus", "v_plus", "w_minus", "v_minus")


def _limit(data: TeacherDataModule, task: str, weights: Mapping[str, Tensor]) -> Any:
    x, y = data.train_set(0, task)
    return gradient_flow_limit(x.double(), y[:, 0].double(), weights)
