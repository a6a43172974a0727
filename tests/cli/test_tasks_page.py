"""The configuration on the page about tasks trains as it is printed."""

import csv
import re
from pathlib import Path

import pytest

from lit_aux.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "tasks.md"
WORDS = [
    *("--data=lit_aux.data.DigitsDataModule", "--data.size=28", "--data.channels=1", "--data.n_main=40"),
    *("--data.n_aux=80", "--data.n_test=40", "--model.settings.max_epochs=1", "--trainer.accelerator=cpu"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
]


def test_losses_metrics_and_heads_by_task(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    Path("tasks.yaml").write_text(block)
    assert main(["fit", "--config", "tasks.yaml", *WORDS]) == 0, capsys.readouterr().err
    saved = Path("runs/version_0/config.yaml").read_text()
    assert re.search(r"weight:\s+- 1\b.*\s+- 5\b", saved)
    with Path("runs/version_0/measures.csv").open() as file:
        measured = {row["measure"] for row in csv.DictReader(file)}
    assert "main/test_f1" in measured
    assert "main/test_accuracy" not in measured
    assert "aux/test_accuracy" in measured
    assert main(["fit", "--config", "tasks.yaml", *WORDS, "--model.losses.main.init_args.weight=five"]) != 0
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "weight" in error
    assert "five" in error
