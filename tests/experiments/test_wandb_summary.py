"""What a fit leaves in its W&B run, read from the run's own file."""

import csv
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import seed_everything
from toys import ToyData, toy_module, toy_trainer

from lit_aux import report
from lit_aux.experiments import ResultsTable
from lit_aux.results.from_wandb import add, converted
from lit_aux.runs.wandb_summary import log_rows

BLOCK, HEAD = 32768, 7


def records(path: Path) -> Iterator[Any]:
    """Yield the records of a run's file: LevelDB's log format, with protocol buffers in it."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts = path.read_bytes(), HEAD, b""  # W&B's own seven bytes come first
    while place + HEAD <= len(content):
        if BLOCK - place % BLOCK < HEAD:  # no room for a head: the block is filled up
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + HEAD : place + HEAD + length]
        place += HEAD + length
        if place > len(content):  # W&B is still at it
            return
        if kind in (1, 4):  # whole, or its last part
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def read_run(path: Path) -> Any:
    """Return config and summary as they are in a run's file, as ``wandb.Api`` would return the run."""
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    for record in records(path):
        for part in (record.run.config, record.config):
            config |= {
                item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in part.update
            }
        for item in record.summary.update:
            summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return SimpleNamespace(
        id="x", name="x", state="finished", tags=[], group=None, config=config, summary=summary
    )


def test_the_files_of_an_offline_run_give_the_same_rows(tmp_path: Path) -> None:
    import wandb

    seed_everything(3)
    trainer = toy_trainer(tmp_path / "runs", logger="wandb", phase_store=False)
    trainer.fit(toy_module(rescale=0.5), datamodule=ToyData())
    folder = report(trainer)
    wandb.finish()
    (path,) = (tmp_path / "runs").rglob("*.wandb")
    deadline = time.monotonic() + 30
    while "lit_aux_rows" not in (run := read_run(path)).summary:  # W&B's own process may still be writing
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with ResultsTable(tmp_path / "pulled" / "results.csv") as table:
        assert add(table, converted(run)) == "added"
    for name in ("results.csv", "measures.csv"):
        assert (tmp_path / "pulled" / name).read_bytes() == (folder / name).read_bytes()
    with (folder / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    places = {name: run.config[name] for name in ("setup", "seed", "rescale", "experiment")}
    assert places == {"setup": "PT+FT", "seed": 3, "rescale": 0.5, "experiment": "toydata-sequential"}
    assert run.summary["results/accuracy"] == float(row["accuracy"])
    assert run.summary["results/converged"] is False
    assert "results/error" not in run.summary


class FakeRun:
    """Keeps what is put into a run."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, Any]] = {"config": {}, "summary": {}}
        self.config = SimpleNamespace(update=lambda new, allow_val_change: self.values["config"].update(new))
        self.summary = SimpleNamespace(update=self.values["summary"].update)


def test_several_rows_agree_on_what_is_in_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch.loggers import CSVLogger, WandbLogger

    run = FakeRun()
    logger = WandbLogger.__new__(WandbLogger)
    monkeypatch.setattr(WandbLogger, "experiment", run)
    rows = [{"run": str(i), "setup": "STL", "seed": i, "n_main": 16, "loss_best": 0.5} for i in (0, 1)]
    log_rows([CSVLogger("nowhere"), logger], rows, [])
    assert run.values["config"] == {"setup": "STL", "n_main": 16}
    assert run.values["summary"]["results/rows"] == 2
    assert "results/loss_best" not in run.values["summary"]
    assert not Path("nowhere").exists()


def test_what_is_no_number_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch.loggers import WandbLogger

    run = FakeRun()
    monkeypatch.setattr(WandbLogger, "experiment", run)
    row = {"run": "a", "setup": "STL", "loss_final": float("inf"), "train_loss": float("nan"), "steps": 3}
    log_rows([WandbLogger.__new__(WandbLogger)], [row], [])
    assert {k: v for k, v in run.values["summary"].items() if k.startswith("results/")} == {
        "results/steps": 3
    }
