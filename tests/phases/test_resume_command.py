"""``lit-aux fit --ckpt_path last``: the same run goes on, and no other."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from lit_aux.cli import AuxiliaryCLI, main

FIXED = [
    *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.phase_store=false"),
    *("--trainer.enable_model_summary=false", "--trainer.limit_train_batches=2", "--seed_everything=5"),
    *("--model=lit_aux.modules.SingleTaskModule", "--model.backbone=lit_aux.models.TimmBackbone"),
    *("--model.backbone.name=test_resnet", "--data=lit_aux.data.DigitsDataModule", "--data.n_aux=64"),
    *("--data.n_test=40", "--model.settings.optimizer=torch.optim.SGD", "--model.settings.optimizer.lr=0.05"),
]


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    found = {"fit": AuxiliaryCLI.subcommands()["fit"]}  # building the other parsers takes a while
    monkeypatch.setattr(AuxiliaryCLI, "subcommands", staticmethod(lambda: found))
    monkeypatch.setattr("sys.argv", ["lit-aux"])  # lest Lightning warn of two command lines

    def run(*words: str) -> int:
        return main(["fit", *FIXED, f"--trainer.default_root_dir={tmp_path}", *words])

    return run


def row(folder: Path) -> dict[str, str]:
    with (folder / "results.csv").open(newline="") as file:
        (found,) = csv.DictReader(file)
    return found


def test_a_run_goes_on_with_larger_limits_and_with_nothing_else(
    fit: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("--data.n_main=40", "--trainer.max_epochs=1") == 0
    capsys.readouterr()
    assert fit("--data.n_main=20", "--trainer.max_epochs=1", "--ckpt_path=last") == 2
    (line,) = (text for text in capsys.readouterr().err.splitlines() if text.startswith("lit-aux: error:"))
    assert "--data.n_main 40" in line
    assert "this one has 20" in line
    assert [path.name for path in tmp_path.glob("version_*")] == ["version_0"]
    assert fit("--data.n_main=40", "--trainer.max_epochs=3", "--ckpt_path=last") == 0
    first, second = row(tmp_path / "version_0"), row(tmp_path / "version_1")
    assert (first["steps"], second["steps"]) == ("1", "3")
    assert first["run"] != second["run"]
    summary = json.loads((tmp_path / "version_1" / "summary.json").read_text())
    assert summary["phases"][0]["reason"] == "max_epochs: 3 reached"
    (place,) = summary["continued"]
    assert place["checkpoint"].endswith("version_0/checkpoints/train.ckpt")
    assert (place["epoch"], place["step"]) == (1, 1)
