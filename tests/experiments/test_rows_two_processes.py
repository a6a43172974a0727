"""A fit in two processes writes one row."""

import csv
import os
import subprocess
import sys
from pathlib import Path

WORDS = ["fit", "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"]
WORDS += ["--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1", "--trainer.max_epochs=1"]
WORDS += [f"--trainer.enable_{name}=false" for name in ("progress_bar", "model_summary", "checkpointing")]
WORDS += ["--trainer.phase_store=false", "--model=lit_aux.modules.SingleTaskModule"]
WORDS += ["--model.backbone=lit_aux.models.TimmBackbone", "--model.backbone.name=test_resnet"]
WORDS += ["--data=lit_aux.data.DigitsDataModule", "--data.n_main=20", "--data.n_test=20", "--data.n_val=8"]


def test_the_first_process_writes_the_row_and_both_end_well() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lit_aux.cli", *WORDS],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (folder,) = Path("runs").glob("version_*")
    with (folder / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["setup"], row["n_main"], row["seed"], row["error"]) == ("STL", "20", "0", "")
    assert 0 <= float(row["accuracy"]) <= 1
    assert done.stdout.count("results: ") == 1
