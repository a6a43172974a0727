"""W&B runs: grouped and tagged, each in its own folder, also with agents and processes side by side."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from agent_helpers import fit
from process_helpers import prepared
from sweep_helpers import ROOT, SMALL, rows_of
from toys import ToyData, toy_module, toy_trainer

from lit_aux.cli import main
from lit_aux.errors import ConfigurationError
from lit_aux.modules import MultiTaskModule, SingleTaskModule
from lit_aux.phases.loggers import RunWandbLogger, _is_offline, describe_runs
from lit_aux.phases.phased import setup_of

DIAGONAL = [f"--{name}={value}" for name, value in SMALL.items()] + ["--trainer.enable_progress_bar=false"]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_RUN_GROUP", "WANDB_TAGS", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)


def test_group_and_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = RunWandbLogger("runs")
    module = toy_module(finetune="probe")
    describe_runs([logger], module, ToyData())
    assert logger._wandb_init["group"] == "PT+FT (LP)"
    assert logger._wandb_init["tags"] == ["PT+FT (LP)", "ToyData", "Sequential"]
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    monkeypatch.setenv("WANDB_TAGS", "one,two")
    logger = RunWandbLogger("runs")
    describe_runs([logger], module, None)
    assert "group" not in logger._wandb_init
    assert logger._wandb_init["tags"] == ["PT+FT (LP)", "Sequential", "one", "two"]


def test_a_run_is_opened_with_them() -> None:
    import wandb

    logger = RunWandbLogger("runs")
    trainer = toy_trainer(Path("runs"), logger=logger, max_epochs=1)
    trainer.fit(toy_module(), datamodule=ToyData())
    run = logger.experiment
    assert (run.group, run.tags) == ("PT+FT", ("PT+FT", "ToyData", "Sequential"))
    assert len(list(Path("runs").glob("wandb-*/wandb/offline-run-*"))) == 1
    wandb.finish()


def test_setups() -> None:
    from toys import TASKS, toy_backbone

    assert setup_of(toy_module()) == "PT+FT"
    assert setup_of(toy_module(finetune="probe")) == "PT+FT (LP)"
    assert setup_of(SingleTaskModule(toy_backbone(), TASKS)) == "STL"
    assert setup_of(MultiTaskModule(toy_backbone(), TASKS)) == "MTL"


def test_folders_bear_the_agents_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    first = Path(str(RunWandbLogger("runs").save_dir))
    assert first == Path("runs/wandb-abc")
    first.mkdir(parents=True)
    again = Path(str(RunWandbLogger("runs").save_dir))
    assert again.name.startswith("wandb-abc-"), "a run that is started again"


def test_offline_without_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _is_offline()
    monkeypatch.delenv("WANDB_MODE")
    assert _is_offline()
    Path(".netrc").write_text("machine api.wandb.ai\n  login user\n  password key\n")
    Path(".netrc").chmod(0o600)
    assert not _is_offline()
    Path(".netrc").unlink()
    monkeypatch.setenv("WANDB_SWEEP_ID", "x")
    assert not _is_offline()


def test_a_server_that_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def no_server(*_: Any, **__: Any) -> None:
        raise wandb.errors.CommError("Run initialization has timed out\nafter 90.0 sec.")

    monkeypatch.setattr(wandb, "init", no_server)
    monkeypatch.setattr("sys.argv", ["lit-aux"])
    config = str(ROOT / "configs" / "diagonal" / "stl.yaml")
    small = [word for word in DIAGONAL if "settings" not in word]
    assert main(["fit", "--config", config, *small, "--data.n_main=6", "--trainer.logger=wandb"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        "lit-aux: error: --trainer.logger: W&B's server cannot be used (Run initialization"
    )
    assert "WANDB_MODE=offline" in error
    with pytest.raises(ConfigurationError):
        _ = RunWandbLogger("runs").experiment


def test_two_agents_at_once(tmp_path: Path) -> None:
    context = prepared()
    barrier = context.Barrier(2)
    config = str(ROOT / "configs" / "diagonal" / "ptft.yaml")
    processes = []
    for name, rescale in (("one", 1.0), ("two", 0.5)):
        words = ["fit", "--config", config, *DIAGONAL, "--data.n_main=6", "--data.seed=0"]
        words += ["--trainer.logger", "wandb", f"--model.rescale={rescale}"]
        environment = {"WANDB_RUN_ID": name, "WANDB_SWEEP_ID": "sweep", "OMP_NUM_THREADS": "1"}
        arguments = (barrier, str(tmp_path), environment, words)
        processes.append(context.Process(target=fit, args=arguments))
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=240)
    outputs = {name: Path(f"{name}.txt").read_text() for name in ("one", "two")}
    assert [process.exitcode for process in processes] == [0, 0], outputs
    assert len(list(Path("runs/phases").glob("*.ckpt"))) == 1
    reused = []
    for name, rescale in (("one", 1.0), ("two", 0.5)):
        folder = Path("runs") / f"wandb-{name}"
        (log,) = folder.glob("wandb/offline-run-*")
        assert log.name.endswith(f"-{name}")
        assert (
            yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]["rescale"] == rescale
        )
        (row,) = rows_of(folder / "results.csv")
        assert float(row["rescale"]) == rescale
        summary = json.loads((folder / "summary.json").read_text())
        reused.append(summary["phases"][0]["reused"])
        assert Path(f"{name}.seen").read_text().splitlines() == [
            name,
            "PT+FT",
            "PT+FT",
            "DiagonalTeacher",
            "DiagonalNet",
        ]
    assert sorted(reused) == [False, True], "exactly one of them pretrains"
    assert {path.name for path in Path("runs").iterdir()} == {"phases", "wandb-one", "wandb-two"}


@pytest.mark.slow
def test_two_processes_of_one_run(tmp_path: Path) -> None:
    """Every process gets the configuration, one of them the W&B run."""
    config = str(ROOT / "configs" / "digits" / "ptft.yaml")
    words = ["fit", "--config", config, "--trainer.logger", "wandb", "--trainer.devices", "2"]
    words += [
        "--trainer.strategy",
        "ddp",
        "--trainer.accelerator",
        "cpu",
        "--trainer.enable_progress_bar=false",
    ]
    words += [
        "--model.backbone.name=test_resnet",
        "--model.rescale=0.5",
        "--data.n_main=20",
        "--data.n_aux=64",
    ]
    words += ["--data.n_test=40", "--trainer.max_epochs=1", "--trainer.callbacks=null", "--data.n_val=16"]
    done = subprocess.run(
        [sys.executable, "-m", "lit_aux.cli", *words],
        env={**os.environ, "WANDB_RUN_ID": "both", "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in Path("runs").iterdir()} == {"phases", "wandb-both"}
    assert len(list(Path("runs").rglob("*.wandb"))) == 1
    (row,) = rows_of("runs/wandb-both/results.csv")
    assert (row["rescale"], row["n_main"]) == ("0.5", "20")


@pytest.mark.slow
def test_a_sweep_of_runs_of_two_processes(tmp_path: Path) -> None:
    command = ["lit-aux", "fit", "--config", str(ROOT / "configs" / "digits" / "ptft.yaml"), "${args}"]
    fixed: dict[str, Any] = {
        "trainer.devices": 2,
        "trainer.strategy": "ddp",
        "trainer.accelerator": "cpu",
        "trainer.max_epochs": 1,
        "trainer.callbacks": None,
        "model.backbone.name": "test_resnet",
        "data.n_aux": 64,
        "data.n_test": 40,
    }
    parameters = {name: {"value": value} for name, value in fixed.items()}
    parameters["model.rescale"] = {"values": [0.5, 1.0]}
    sweep = {"method": "grid", "command": command, "parameters": parameters}
    Path("s.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False))
    assert main(["sweep", "s.yaml"]) == 0
    assert sorted(row["rescale"] for row in rows_of("runs/sweeps/s/results.csv")) == ["0.5", "1.0"]
    outputs = [path.read_text() for path in Path("runs").rglob("output.txt")]
    assert all("MEMBER: 2/2" in output for output in outputs)
