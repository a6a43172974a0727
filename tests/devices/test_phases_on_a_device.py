"""Whole runs on a device: pretraining and finetuning, several tasks, resumes and the phase store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from device_runs import TASKS, Backbone, assert_equal, both, digits, fit, pretrain_finetune, settings
from fake_device import MixedDevicesError
from torch import Tensor
from torch.utils.data import DataLoader

import lit_aux.callbacks
from lit_aux.callbacks import (
    FisherTrace,
    GradientCoherence,
    GradientConflict,
    KMeansInertia,
    RepresentationDimensionality,
    Sharpness,
    StopAtTrainingLoss,
    TrajectoryLog,
)
from lit_aux.modules import MultiTaskModule

SMALL: dict[str, Any] = {"num_samples": 8, "batch_size": 4}
CALLBACKS: dict[str, Callable[[], Any]] = {
    "TrajectoryLog": lambda: TrajectoryLog(every_n_epochs=1),
    "RepresentationDimensionality": lambda: RepresentationDimensionality(picture=False, **SMALL),
    "Sharpness": lambda: Sharpness(5e-3, iterations=3, start="random", **SMALL),
    "FisherTrace": lambda: FisherTrace(**SMALL),
    "GradientCoherence": lambda: GradientCoherence(**SMALL),
    "GradientConflict": lambda: GradientConflict(every_n_steps=2, **SMALL),
    "KMeansInertia": lambda: KMeansInertia(
        "net.backbone.5", [1, 2], unit_weights="contribution", readout="net.readout"
    ),
    "StopAtTrainingLoss": lambda: StopAtTrainingLoss(1.0),
}
IN_PHASES = {"L2SP", "WiSEFT", "WeightRescaling"}
"""Callbacks that the module of the first run has by itself."""
OF_STUDENTS = {"StudentNorms", "FeatureAlignment"}
BASES = {"LayerDimensionality", "MixingMeasurement", "TaskMeasurement", "WeightMeasurement"}
BASES |= {"TaskDiagnostic", "TaskModel", "verdict"}


def test_every_callback_is_here() -> None:
    assert {*lit_aux.callbacks.__all__} == {*CALLBACKS} | IN_PHASES | OF_STUDENTS | BASES


def test_pretraining_and_finetuning(tmp_path: Path) -> None:
    """One run with every callback, and a second one that finds its first phase in the CPU's store."""

    def callbacks() -> list[Any]:
        return [build() for build in CALLBACKS.values()]

    store = {"phase_store": str(tmp_path / "store")}
    expected = fit(tmp_path / "cpu", False, pretrain_finetune, digits, callbacks, **store)
    found = fit(tmp_path / "device", True, pretrain_finetune, digits, callbacks)
    assert_equal(found, expected)
    assert [phase["name"] for phase in found.phases] == ["pretrain", "probe", "finetune"]
    for (rows, known), name in zip(found.results, [*CALLBACKS, "L2SP", "WiSEFT"], strict=True):
        assert rows or known.get("stop_reason") or name == "L2SP", name
    assert {row[1] for row in found.results[-1][0]} == {0.0, 0.5, 1.0}
    # the store's key does not depend on where the run was trained
    plain = fit(tmp_path / "x", False, pretrain_finetune, digits, **store)
    again = fit(tmp_path / "y", True, pretrain_finetune, digits, **store)
    assert [phase["reused"] for phase in again.phases] == [True, False, False]
    torch.testing.assert_close(again.weights, plain.weights, rtol=0, atol=0)


class Stops(pl.Callback):
    """Ends the process, as far as the run can tell, in its last phase."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if pl_module.phase.name == "finetune" and trainer.current_epoch == 1:
            raise ZeroDivisionError


def test_a_resume_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", False, pretrain_finetune, digits)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "stopped", True, pretrain_finetune, digits, lambda: [Stops()])
    rest = fit(tmp_path / "stopped", True, pretrain_finetune, digits, ckpt_path="last")
    torch.testing.assert_close(rest.weights, whole.weights, rtol=0, atol=0)


# What mixes devices does not pass


class Shifts(Backbone):
    """A backbone whose table stays where it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.linspace(0, 1, 8)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = super().forward(x) + self.table
        return features


class Averages(pl.Callback):
    """Adds each step's loss to a sum on the CPU."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.sums = torch.zeros(1)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.sums += outputs["loss"].detach()[None]


def test_a_backbone_that_mixes_devices_is_caught(tmp_path: Path) -> None:
    def build() -> Any:
        return pretrain_finetune(Shifts())

    fit(tmp_path, False, build, digits)
    with pytest.raises(MixedDevicesError, match=r"aten\.add"):
        fit(tmp_path, True, build, digits)


def test_a_callback_that_mixes_devices_is_caught(tmp_path: Path) -> None:
    fit(tmp_path, False, pretrain_finetune, digits, lambda: [Averages()])
    with pytest.raises(MixedDevicesError, match=r"aten\.add_"):
        fit(tmp_path, True, pretrain_finetune, digits, lambda: [Averages()])


# Several tasks


class Classes(pl.LightningDataModule):
    """Batches of two tasks in one loader; of some images the class is not known."""

    tasks = list(TASKS)

    def __init__(self, missing: bool = False) -> None:
        super().__init__()
        self.missing = missing

    def _loader(self, seed: int) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(seed)
        batches = []
        for _ in range(3):
            x = torch.randn(5, 1, 8, 8, generator=generator)
            labels = {task: (x[:, 0, 0, 0] > 0).long() + place for place, task in enumerate(TASKS)}
            for y in labels.values():
                y[1 if self.missing else 5 :: 3] = -100
            batches.append({task: (x.clone(), y) for task, y in labels.items()})
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(0)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(1)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader(2)


METHODS: dict[str, dict[str, Any]] = {
    "sum": {},
    "published": {"schedule": "published"},
    "uncertainty": {"weighting": "uncertainty"},
    "random": {"weighting": "random"},
    "gradnorm": {"weighting": "gradnorm"},
    "scalarization": {"weighting": "GeometricMean"},
    "PCGrad": {"aggregator": "PCGrad"},
    "MGDA": {"aggregator": "MGDA"},
}


def joint(**options: Any) -> MultiTaskModule:
    backbone = Backbone()
    return MultiTaskModule(backbone, TASKS, settings=settings(1), **options)


@pytest.mark.parametrize("name", METHODS)
def test_several_tasks(name: str, tmp_path: Path) -> None:
    if name[:2] in ("sc", "PC", "MG"):
        pytest.importorskip("torchjd")
    data = digits if name == "published" else Classes
    both(tmp_path, lambda: joint(**METHODS[name]), data)


def test_missing_labels(tmp_path: Path) -> None:
    both(tmp_path, joint, lambda: Classes(missing=True))


def test_waiting_does_not_grow_with_the_steps(tmp_path: Path) -> None:
    """A step more waits for the device once, to know whether a target is missing."""

    def build() -> Any:
        return pretrain_finetune(finetune="full", pretrain_tasks=[], rescale=None)

    def run(images: int) -> tuple[int, int]:
        found = fit(tmp_path / str(images), True, build, lambda: digits(n_main=images))
        return found.noted.syncs, sum(phase["steps"] for phase in found.phases)

    (few, steps), (many, more) = run(12), run(60)
    assert (many - few) / (more - steps) <= 1
