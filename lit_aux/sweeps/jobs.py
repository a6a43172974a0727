"""The runs of a sweep as jobs: a fit in a folder of its own, and the rows that it leaves."""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from csv import DictReader
from pathlib import Path

from lit_aux.runs.job import Job, Report, Row, Rows
from lit_aux.runs.table import OPTION_COLUMNS, measures_path, option_measures
from lit_aux.spreadsheets import meant
from lit_aux.sweeps.run import SweepRun

LitAux = Callable[[list[str]], int]
"""Carries out a command line; a function of a module."""
_SETUPS = {"SingleTaskModule": "STL", "MultiTaskModule": "MTL", "PretrainFinetuneModule": "PT+FT"}
_FINETUNING = {"probe": "LP", "lora": "LoRA"}
_OF_PROGRAM: dict[str, tuple[str, ...]] = {
    "lit_aux.cli": (
        "lit_aux.cli.lightning_cli",
        "omegaconf",
        "rich.console",
        "lit_aux.reporting",
        "lit_aux.experiments.fit_rows",
        "lit_aux.experiments.student_report",
        "lit_aux.runs.child",
    )
}
_OF_CONFIG = {
    "TimmBackbone": ("timm", "torchvision.transforms.v2", "matplotlib.figure"),
    "TransformersBackbone": (
        "transformers.modeling_utils",
        "transformers.models.auto.modeling_auto",
        "matplotlib.figure",
    ),
    "DigitsDataModule": ("sklearn.datasets",),
}


def jobs_of(runs: Sequence[SweepRun], lit_aux: LitAux) -> list[Job]:
    """Return a job for every run of a sweep.

    Args:
        runs: The runs.
        lit_aux: Carries out a command line in a process of its own.
    """
    return [
        Job(
            title=run.title,
            runs={run.name: _known(run)},
            measures=tuple(_parameters(run, run.name)),
            work=fit,
            arguments=(lit_aux, run),
            folder=run.folder,
            collect=rows_of,
            environment=run.environment,
            imports=_imports(lit_aux.__module__, run),
        )
        for run in runs
    ]


def fit(report: Report, lit_aux: LitAux, run: SweepRun) -> int:
    """Carry out the command line of a run; return its exit code.

    Args:
        report: Not needed: the rows are in the folder.
        lit_aux: Carries out a command line.
        run: The run.
    """
    words = ["fit", *_with_files(run)]
    if asks_for_several(run):  # Lightning starts the command line again for every further process
        command = [sys.executable, "-m", lit_aux.__module__, *words]
        return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    sys.argv = ["lit-aux", *words]
    return lit_aux(words)


def _with_files(run: SweepRun) -> list[str]:
    """Return the options of a run; configuration files that are not here are written to its folder."""
    places: dict[str, str] = {}
    for name, text in run.files.items():
        path = Path(name)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            own = run.folder / "configs" / f"{len(places)}-{path.name}"
            own.parent.mkdir(parents=True, exist_ok=True)
            own.write_text(text, encoding="utf-8")
            places[name] = str(own)
    words = []
    for word in run.arguments:
        option, sign, value = word.partition("=")
        words.append(option + sign + places[value] if value in places else places.get(word, word))
    return words


def asks_for_several(run: SweepRun) -> bool:
    """Return whether a run asks for more than one process or device."""
    devices, nodes = run.option("trainer.devices"), run.option("trainer.num_nodes")
    if isinstance(devices, str) and devices != "auto":
        several = "," in devices or devices.strip() == "-1"
    elif isinstance(devices, list):
        several = len(devices) > 1
    else:
        several = isinstance(devices, int) and devices not in (0, 1)
    if devices in (None, "auto"):
        strategy = str(run.option("trainer.strategy")).lower()
        several = any(word in strategy for word in ("ddp", "fsdp", "deepspeed", "parallel"))
    return several or (isinstance(nodes, int) and nodes > 1)


def rows_of(lit_aux: LitAux, run: SweepRun) -> Rows:
    """Return the rows and measures that a run's fit wrote, under the run's own name.

    Where one fit has several rows, their names are numbered. Parameters of the sweep that are no columns
    become measures of every row.

    Args:
        lit_aux: Not needed.
        run: One that has ended well.
    """
    tables = sorted(run.folder.rglob("results.csv"), key=lambda path: path.stat().st_mtime)
    if not tables:
        return [], []
    found = _read(tables[-1])
    measured = _read(measures_path(tables[-1]))
    names = [run.name] if len(found) == 1 else [f"{run.name}-{number}" for number in range(len(found))]
    new_names = {row["run"]: name for row, name in zip(found, names, strict=True)}
    rows = [{**row, "run": new_names[row["run"]]} for row in found]
    measures = [{**row, "run": new_names[row["run"]]} for row in measured if row["run"] in new_names]
    return rows, [*measures, *(row for name in names for row in _parameters(run, name))]


def _known(run: SweepRun) -> Row:
    """Return the columns that the command line of a run tells."""
    network = str(run.option("model.backbone")).rpartition(".")[2]
    row: Row = {"setup": _setup(run)}
    if network.endswith("Net"):  # students go by their network, other experiments by their data
        row["experiment"] = network.removesuffix("Net").lower()
    for option, column in OPTION_COLUMNS.items():
        value = run.option(option)
        if column not in row and value is not None and not isinstance(value, list | Mapping):
            row[column] = value
    if not row["setup"].startswith("PT+FT"):
        row.pop("rescale", None)
    return row


def _setup(run: SweepRun) -> str:
    name = _SETUPS.get(str(run.option("model")).rpartition(".")[2], "")
    kind = _FINETUNING.get(str(run.option("model.finetune"))) if name == "PT+FT" else None
    return f"{name} ({kind})" if kind else name


def _parameters(run: SweepRun, name: str) -> list[Row]:
    """Return the sweep's parameters that are no columns, as measures."""
    own = {option: value for option, value in run.point.items() if option not in OPTION_COLUMNS}
    return option_measures(name, own)


def _read(path: Path) -> list[Row]:
    try:
        with path.open(newline="") as file:
            rows = list(DictReader(file))
    except FileNotFoundError:
        return []
    return [{k: meant(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows]


def _imports(program: str, run: SweepRun) -> tuple[str, ...]:
    """Return what a run imports, also what it would import late."""
    text = str(run.configs)
    late = [module for word, modules in _OF_CONFIG.items() if word in text for module in modules]
    return (program, *_OF_PROGRAM.get(program, ()), *late)
