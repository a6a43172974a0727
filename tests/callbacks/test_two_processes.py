"""Two gloo processes on CPU do what one does."""

from dataclasses import astuple
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from callback_helpers import Foreign, images, network, trainer, val_loader
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from lit_aux.callbacks import RepresentationDimensionality, StopAtTrainingLoss, WeightRescaling


class Shards(IterableDataset):
    """Deals inputs to the processes itself, so that nothing but iterating tells who has what."""

    def __iter__(self) -> Any:
        rank, size = 0, 1
        if torch.distributed.is_initialized():
            rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        data = images(13, seed=1)
        return iter([data[i] for i in range(rank, 13, size)])


class Report(pl.Callback):
    """Writes what each process saw to a file: spawned processes do not hand callbacks back."""

    def __init__(self, folder: Path, callbacks: list[Any]) -> None:
        self.folder, self.callbacks = folder, callbacks
        self.losses: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = {name: value.clone() for name, value in pl_module.state_dict().items()}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.losses.append(float(trainer.callback_metrics["loss"]))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        rescale, default, sharded, stop = self.callbacks
        content = {
            "start": self.start,
            "end": pl_module.state_dict(),
            "norms": (rescale.norm_before, rescale.norm_after),
            "default": [astuple(row) for row in default.results],
            "sharded": [astuple(row) for row in sharded.results],
            "pieces": [[x for piece in c._pieces for x in piece.args] for c in (default, sharded)],
            "epochs": trainer.current_epoch,
            "reason": stop.stop_reason,
            "losses": self.losses,
        }
        torch.save(content, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


class Sharded(RepresentationDimensionality):
    """The same callback under another name: a Trainer takes one of each."""


class Aside(torch.nn.Module):
    """Batch normalization that nothing depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.norm(x)
        return x


class NoDropout(Foreign):
    """Batches of all processes together are those of one process, so the runs agree to rounding."""

    def __init__(self) -> None:
        net = network()
        net[1], net[4] = torch.nn.Identity(), torch.nn.Identity()
        net.add_module("aside", Aside())
        super().__init__(net)

    def train_dataloader(self) -> Any:
        world, rank = self.trainer.world_size, self.trainer.global_rank
        sampler = DistributedSampler(images(24), num_replicas=world, rank=rank, shuffle=False)
        return DataLoader(images(24), batch_size=12 // world, sampler=sampler)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch[0]))
        return loss


def run(folder: Path, devices: int) -> None:
    rescale = WeightRescaling(0.5, reestimate_batchnorm=True)
    default = RepresentationDimensionality(["net.0", "net.5"], num_samples=17, picture=False)
    sharded = Sharded(["net.0", "net.5"], probe=DataLoader(Shards(), batch_size=2), picture=False)
    stop = StopAtTrainingLoss(1.07)
    callbacks = [rescale, default, sharded, stop]
    options: dict[str, Any] = {"strategy": "ddp_spawn"} if devices == 2 else {}
    fit = trainer(folder, *callbacks, Report(folder, callbacks), devices=devices, max_epochs=40, **options)
    fit.fit(NoDropout(), val_dataloaders=val_loader())


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("ddp")
    run(folder, 1)
    run(folder, 2)
    return {name: torch.load(folder / f"{name}.pt", weights_only=False) for name in ("1-0", "2-0", "2-1")}


def test_every_process_rescales_and_reestimates_alike(reports: dict[str, Any]) -> None:
    one, first, second = (reports[name]["start"] for name in ("1-0", "2-0", "2-1"))
    for name, value in first.items():
        assert torch.equal(value, second[name])
        # A batch's variance is the unbiased one, which depends on how many samples the batch has.
        torch.testing.assert_close(value, one[name], rtol=0.2 if "var" in name else 1e-5, atol=1e-6)
    assert not torch.isclose(first["net.aside.norm.running_var"], torch.ones(3)).any()
    assert reports["2-0"]["norms"] == reports["2-1"]["norms"] == reports["1-0"]["norms"]


def test_every_process_runs_the_whole_probe(reports: dict[str, Any]) -> None:
    whole, dealt = images(20, seed=1).tensors[0][:17], images(13, seed=1).tensors[0]
    for report in reports.values():
        (default,), sharded = report["pieces"]
        assert torch.equal(default, whole)
        assert torch.equal(torch.cat(sharded), dealt)
    for kind in ("default", "sharded"):
        assert reports["2-0"][kind] == reports["2-1"][kind]
        for row, single in zip(reports["2-0"][kind], reports["1-0"][kind], strict=True):
            assert row[:2] == single[:2]
            assert row[2:7] == pytest.approx(single[2:7], rel=1e-4)


def test_processes_stop_together_where_one_alone_stops(reports: dict[str, Any]) -> None:
    assert 1 < reports["1-0"]["epochs"] < 40
    assert {report["epochs"] for report in reports.values()} == {reports["1-0"]["epochs"]}
    assert len({report["reason"] for report in reports.values()}) == 1
    assert reports["2-0"]["losses"] == pytest.approx(reports["1-0"]["losses"], rel=1e-5)
    assert all(
        torch.equal(value, reports["2-1"]["end"][name]) for name, value in reports["2-0"]["end"].items()
    )
