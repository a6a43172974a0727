"""Fits of a deep network at several rescale factors, and what each did to the layers."""

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from math import isfinite, nan
from pathlib import Path
from time import monotonic
from typing import Any

import lit_aux
from lit_aux.callbacks import LayerDimensionality
from lit_aux.errors import NonFiniteLossError
from lit_aux.experiments.one_fit import Fit, fit_config
from lit_aux.files import atomic_write
from lit_aux.identity.configuration import named_code
from lit_aux.reporting import DIMENSIONS, short_layer
from lit_aux.runs.engines import Engine, Here
from lit_aux.runs.job import Job, Report, Row
from lit_aux.runs.progress import Progress
from lit_aux.runs.runner import Runner
from lit_aux.runs.table import run_hash

Config = dict[str, Any]
_WITHOUT_EFFECT = ("default_root_dir", "logger", "phase_store", "enable_progress_bar", "enable_model_summary")


@dataclass(frozen=True)
class FactorFit:
    """What came of one fit.

    Attributes:
        factor: The rescale factor.
        seed: Its seed.
        layers: The layers of the last phase, in network order; none where the loss became infinite.
        val_accuracy: Of the finetuned task on validation data, where there are any.
        val_loss: Likewise.
        reason: How finetuning ended.
        seconds: Duration of the fit.
    """

    factor: float
    seed: int
    layers: tuple[LayerDimensionality, ...] = ()
    val_accuracy: float | None = None
    val_loss: float | None = None
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Sweep:
    """Fits that differ in rescale factor and seed; pretraining is shared.

    Each fit has a folder of its own, ``OUT/runs/HASH``, and leaves ``done.json`` there when it has ended, so
    that the same sweep does not fit it again. No fit tests: what is chosen here must not be chosen by test
    data.

    Args:
        config: The whole configuration, as :func:`~lit_aux.regimes.sweep_options.resolved` returns it.
        factors: Rescale factors.
        seeds: Seeds, each for every factor.
        out: Folder of the sweep.
    """

    config: Mapping[str, Any]
    factors: Sequence[float]
    seeds: Sequence[int]
    out: Path

    def run(
        self, fit: Fit, say: Callable[[str], None] = print, engine: Engine | None = None
    ) -> list[FactorFit]:
        """Fit what has not been fitted yet.

        Args:
            fit: Carries out a ``lit-aux`` command line in its process.
            say: Told which fit begins and how it ended.
            engine: Where fits are carried out; by default in this process, one after the other.

        Returns:
            One entry for every factor and seed, factors in the order given.
        """
        todo = [(factor, seed) for factor in self.factors for seed in self.seeds]
        found: dict[str, FactorFit] = {}
        jobs: list[Job] = []
        titles: dict[str, str] = {}
        for number, (factor, seed) in enumerate(todo, start=1):
            config = self._config_of(factor, seed)
            root = Path(config["trainer"]["default_root_dir"])
            title = f"fit {number} of {len(todo)}: rescale {factor:g}, seed {seed}"
            titles[root.name] = title
            if (before := _read(root / "done.json")) is not None:
                say(f"{title}: done before")
                found[root.name] = before
            else:
                jobs.append(Job(title, {root.name: {}}, fit_factor, (config, factor, seed, fit)))

        def take(rows: Sequence[Row], measures: Sequence[Row]) -> None:
            for row in rows:
                done = row["fit"]
                found[row["run"]] = done
                _write(self.out / "runs" / row["run"] / "done.json", done)
                say(f"{titles[row['run']]}: {done.reason} ({done.seconds:.0f} s)")

        runner = Runner(engine or Here(), _Said(say), take)
        runner.run(jobs)
        if runner.failures:
            raise RuntimeError("; ".join(runner.failures))
        return [found[key] for key in titles]

    def _config_of(self, factor: float, seed: int) -> Config:
        config: Config = deepcopy(dict(self.config))
        config.pop("open", None)  # no window for each of many fits
        config["seed_everything"] = seed
        config["model"]["init_args"]["rescale"] = factor
        trainer = config["trainer"]
        key = deepcopy(config)
        for option in _WITHOUT_EFFECT:
            key["trainer"].pop(option, None)
        code = named_code(key)
        name = run_hash({"lit_aux": lit_aux.__version__, **key} | ({"code": code} if code else {}))
        trainer |= {"default_root_dir": str(self.out / "runs" / name), "enable_progress_bar": False}
        if trainer.get("phase_store") is True:
            trainer["phase_store"] = str(self.out / "phases")
        return config


def fit_factor(report: Report, config: Config, factor: float, seed: int, fit: Fit) -> None:
    """Fit at one factor; what the fit prints is kept beside it.

    Args:
        report: Is told what came of it.
        config: The whole configuration.
        factor: The rescale factor.
        seed: The seed.
        fit: Carries out a ``lit-aux`` command line in this process.
    """
    root = Path(config["trainer"]["default_root_dir"])
    began = monotonic()
    try:
        home = fit_config(config, fit, output=root / "output.txt")
    except NonFiniteLossError as error:
        done = FactorFit(factor, seed, reason=str(error), seconds=monotonic() - began)
    else:
        task = (config["model"]["init_args"].get("finetune_tasks") or ["main"])[0]
        summary = json.loads((home / "summary.json").read_text())
        done = _measured(summary, task, factor, seed, monotonic() - began)
    report.rows(root.name, [{"run": root.name, "fit": done, "converged": True}], [])


class _Said(Progress):
    """Says which fit begins, a line each."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(0)
        self._say = say

    def begin(self, what: str, worker: int = 0) -> None:
        self._say(f"{what} ...")

    def note(self, text: str) -> None:
        self._say(text)

    def _show(self) -> None:
        """Show nothing else."""


def _measured(summary: Config, task: str, factor: float, seed: int, seconds: float) -> FactorFit:
    """Take what is wanted from what ``lit-aux fit`` wrote; nothing of it is of test data."""
    last = summary["phases"][-1]
    rows = [row for row in summary["layers"] if row["phase"] == last["name"]]
    accuracy, loss = (last["metrics"].get(f"{task}/val_{name}") for name in ("accuracy", "loss"))
    return FactorFit(
        factor, seed, tuple(_layer(row) for row in rows), accuracy, loss, last["reason"], round(seconds, 1)
    )


def _layer(row: Mapping[str, Any]) -> LayerDimensionality:
    """Build a layer's row from JSON, where what is no number is null."""
    numbers = {name: nan if row[name] is None else float(row[name]) for name in DIMENSIONS}
    return LayerDimensionality(
        phase=row["phase"],
        layer=short_layer(row["layer"]),
        verdict=row["verdict"],
        note=row.get("note", ""),
        **numbers,
    )


def _read(path: Path) -> FactorFit | None:
    """Read a fit that has ended; None where there is none, or its file is not whole."""
    try:
        row = json.loads(path.read_text())
        return FactorFit(**{**row, "layers": tuple(_layer(layer) for layer in row["layers"])})
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _write(path: Path, done: FactorFit) -> None:
    content = asdict(done)
    for layer in content["layers"]:
        layer |= {name: layer[name] if isfinite(layer[name]) else None for name in DIMENSIONS}
    atomic_write(path, json.dumps(content, indent=2) + "\n")
