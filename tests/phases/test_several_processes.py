"""Two and four gloo processes of the command line measure and learn what one does, from unequal shares."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from process_helpers import launch
from several_processes_script import main

SIZES = {"n_main": 24, "n_aux": 44, "n_val": 23, "n_test": 29}
BATCH = 12
"""Of all processes together."""
SGD: dict[str, Any] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.2, "momentum": 0.9}}
SETTINGS: dict[str, Any] = {"optimizer": SGD, "max_epochs": 3}
MODELS: dict[str, dict[str, Any]] = {
    "PretrainFinetuneModule": {
        "finetune": "probe_then_full",
        "rescale": 0.5,
        "pretrain_settings": SETTINGS,
        "finetune_settings": {**SETTINGS, "stop_at_training_loss": 0.3},
    },
    "MultiTaskModule": {"settings": SETTINGS},
}


def configure(folder: Path, model: str, processes: int) -> None:
    """Write the configuration of a run; shares of the 23 and 29 images of evaluations are never equal."""
    here = "several_processes_script"
    callbacks: list[Any] = [
        {"class_path": f"{here}.Report", "init_args": {"folder": str(folder)}},
        {"class_path": "lit_aux.callbacks.TrajectoryLog", "init_args": {"every_n_epochs": 1}},
        {
            "class_path": "lit_aux.callbacks.RepresentationDimensionality",
            "init_args": {"num_samples": 15, "batch_size": 4, "picture": False},
        },
    ]
    trainer = {
        "accelerator": "cpu",
        "devices": processes,
        "strategy": "ddp" if processes > 1 else "auto",
        "precision": "64-true",
        "default_root_dir": str(folder / "runs"),
        "phase_store": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": callbacks,
    }
    data = {**SIZES, "size": 8, "channels": 1, "batch_size": BATCH // processes, "eval_batch_size": 7}
    content = {
        "seed_everything": 0,
        "trainer": trainer,
        "model": {
            "class_path": f"lit_aux.modules.{model}",
            "init_args": {"backbone": {"class_path": f"{here}.Plain"}, **MODELS[model]},
        },
        "data": {"class_path": "lit_aux.data.DigitsDataModule", "init_args": data},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content))


def measured(folder: Path) -> dict[str, float]:
    """Return every number that a run says of its phases and of the way there."""
    (run,) = (folder / "runs").glob("version_*")
    found = {}
    for phase in json.loads((run / "summary.json").read_text())["phases"]:
        found |= {f"{phase['name']} {name}": value for name, value in phase["metrics"].items()}
        found |= {f"{phase['name']} {name}": phase[name] for name in ("epochs", "steps")}
    for file in ("trajectory.csv", "dimensionality.csv"):
        with (run / file).open(newline="") as rows:
            for number, row in enumerate(csv.DictReader(rows)):
                for column, value in row.items():
                    try:
                        found[f"{file} {number} {column}"] = float(value)
                    except ValueError:
                        continue
    return found


@pytest.fixture(scope="module", params=MODELS)
def single(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """One process."""
    folder = tmp_path_factory.mktemp("one")
    configure(folder, request.param, 1)
    assert main(["fit", "--config", str(folder / "config.yaml")]) == 0
    return request.param, folder


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_end_where_one_does(single: tuple[str, Path], processes: int, tmp_path: Path) -> None:
    model, alone = single
    configure(tmp_path, model, processes)
    launch(Path(__file__).with_name("several_processes_script.py"), tmp_path)
    phases = sorted(path.name.removesuffix("-0.pt") for path in alone.glob("*.pt"))
    assert phases
    for phase in phases:
        first, *others = (torch.load(tmp_path / f"{phase}-{rank}.pt") for rank in range(processes))
        expected = torch.load(alone / f"{phase}-0.pt")
        for name, value in first.items():
            assert all(torch.equal(value, other[name]) for other in others), (phase, name)
            torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-6)
    expected_numbers, numbers = measured(alone), measured(tmp_path)
    assert numbers.keys() == expected_numbers.keys()
    assert len([name for name in numbers if "test_loss" in name]) >= 2
    for name, number in expected_numbers.items():
        assert numbers[name] == pytest.approx(number, rel=1e-6, abs=1e-6), name
