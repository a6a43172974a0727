"""Two gloo processes measure what one does, on whatever process the work is done."""

from dataclasses import astuple
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from callback_helpers import trainer
from task_helpers import TASKS, Stranger, data, examples
from torch.utils.data import DataLoader

from lit_aux.callbacks import FisherTrace, GradientCoherence, GradientConflict, Sharpness, TrajectoryLog

STEPS = 3


class Dealt(Stranger):
    """Batches of all processes together are those of one process."""

    def train_dataloader(self) -> Any:
        rank, world = self.trainer.global_rank, self.trainer.world_size
        rows = [slice(8 * i + rank * 8 // world, 8 * i + (rank + 1) * 8 // world) for i in range(STEPS)]
        batches = [{t: [half[part].clone() for half in examples(t)] for t in self.names} for part in rows]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def one_of_each() -> list[Any]:
    """Return the diagnostics; one small batch too few for two processes to have equal parts of the work."""
    options: dict[str, Any] = {"data": data(), "every_n_steps": 1, "num_samples": 35}
    return [
        Sharpness(5e-3, iterations=4, batch_size=7, **options),
        GradientCoherence(batch_size=7, **options),
        FisherTrace(batch_size=7, **options),
        GradientConflict(pairwise_every=1, batch_size=10, **options),
        TrajectoryLog(data=data()),
    ]


class Lonely(GradientCoherence):
    """The same callback under another name; of its three batches the second process has one."""


class Report(pl.Callback):
    """Writes what each process found to a file: spawned processes do not hand callbacks back."""

    def __init__(self, folder: Path, callbacks: list[Any]) -> None:
        self.folder, self.callbacks = folder, callbacks

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        content = {
            "weights": pl_module.state_dict(),
            "rows": {type(c).__name__: [astuple(row) for row in c.results] for c in self.callbacks},
            "probes": {type(c).__name__: c.probe for c in self.callbacks},
        }
        torch.save(content, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


def run(folder: Path, devices: int) -> None:
    lonely = Lonely(batch_size=10, num_batches=3, data=data(), every_n_steps=1)
    callbacks = [*one_of_each(), lonely]
    options: dict[str, Any] = {"precision": "64-true", "use_distributed_sampler": False, "max_epochs": 1}
    if devices == 2:
        options["strategy"] = "ddp_spawn"
    report = Report(folder, callbacks)
    trainer(folder, *callbacks, report, devices=devices, **options).fit(Dealt())


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("diagnostics")
    run(folder, 1)
    run(folder, 2)
    return {name: torch.load(folder / f"{name}.pt", weights_only=False) for name in ("1-0", "2-0", "2-1")}


def test_probes_are_the_same_on_every_process(reports: dict[str, Any]) -> None:
    for report in reports.values():
        for name, probe in report["probes"].items():
            assert list(probe) == list(TASKS)
            for task, (x, y) in probe.items():
                n = 40 if name in ("Lonely", "TrajectoryLog") else 35
                assert torch.equal(x, examples(task)[0][:n])
                assert torch.equal(y, examples(task)[1][:n])


def test_values_are_those_of_one_process_and_equal_on_both(reports: dict[str, Any]) -> None:
    one, first, second = (reports[name]["rows"] for name in ("1-0", "2-0", "2-1"))
    assert first == second
    for name, rows in one.items():
        assert len(rows) == len(first[name]) >= 3 * len(TASKS)
        for row, other in zip(rows, first[name], strict=True):
            assert row[:-1] == other[:-1]
            assert other[-1] == pytest.approx(row[-1], rel=1e-6)
            assert row[-1] != 0


def test_training_is_that_of_one_process(reports: dict[str, Any]) -> None:
    for name, weight in reports["1-0"]["weights"].items():
        torch.testing.assert_close(reports["2-0"]["weights"][name], weight, rtol=1e-9, atol=1e-12)
        assert torch.equal(reports["2-0"]["weights"][name], reports["2-1"]["weights"][name])
