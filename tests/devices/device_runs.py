"""Small runs of every kind, each on the CPU and on the device, and what they leave."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import astuple, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import lightning.pytorch as pl
import torch
from fake_device import NAME, Ledger, back, fake_device
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from lit_aux import PhaseSettings, PhaseTrainer
from lit_aux.callbacks import L2SP, WiSEFT
from lit_aux.data import DigitsDataModule, RandomCropFlip
from lit_aux.modules import PretrainFinetuneModule


class Outcome(NamedTuple):
    """What a run left: weights, measurements of phases, results of callbacks, and what the device noted."""

    weights: dict[str, Tensor]
    phases: list[dict[str, Any]]
    results: list[Any]
    noted: Ledger


class FakeAccelerator(Accelerator):
    """What a Trainer asks of the device."""

    def setup_device(self, device: torch.device) -> None:
        assert device.type == NAME

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    def teardown(self) -> None:
        """Nothing is held."""

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device(NAME, 0)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return NAME


def trainer_of(root: Path, on_device: bool, *callbacks: pl.Callback, **options: Any) -> PhaseTrainer:
    where: dict[str, Any] = {"accelerator": "cpu", "devices": 1}
    if on_device:
        where = {"strategy": SingleDeviceStrategy(f"{NAME}:0", accelerator=FakeAccelerator())}
    return PhaseTrainer(
        **where,
        callbacks=list(callbacks),
        default_root_dir=str(root),
        inference_mode=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"phase_store": False, **options},
    )


def unfused() -> Any:
    """Let optimizers step as on a device that has no fused kernels, whose numbers are others to rounding."""
    return patch("lit_aux.modules.optimization._has_fused_step", lambda *_: False)


def fit(
    root: Path,
    on_device: bool,
    build: Callable[[], Any],
    data: Callable[[], Any],
    callbacks: Callable[[], list[Any]] = list,
    ckpt_path: str | None = None,
    **options: Any,
) -> Outcome:
    """Fit a module from a fixed seed; with ``on_device``, on the device."""
    with unfused(), fake_device() if on_device else nullcontext(Ledger()) as noted:
        pl.seed_everything(3, verbose=False)
        module, acting = build(), callbacks()
        trainer = trainer_of(root, on_device, *acting, **options)
        trainer.fit(module, datamodule=data(), ckpt_path=ckpt_path)
        weights = back(dict(module.state_dict()))
        operations, syncs = noted.operations, noted.syncs
    phases = [{**result.asdict(), "seconds": 0, "checkpoint": None} for result in trainer.phase_results]
    acting = [*acting, *getattr(module, "_finetune_callbacks", [])]
    return Outcome(
        weights, phases, [left_by(callback) for callback in acting], Ledger(False, operations, syncs)
    )


def left_by(callback: Any) -> Any:
    """Return what a callback knows after a fit."""
    found = getattr(callback, "results", None)
    rows = found.values() if isinstance(found, Mapping) else found or []
    known = [plain(row) for row in rows]
    names = ("best", "stop_reason", "norm_before", "norm_after")
    return [known, {name: getattr(callback, name) for name in names if hasattr(callback, name)}]


def plain(row: Any) -> Any:
    return astuple(row) if is_dataclass(row) and not isinstance(row, type) else row


def assert_equal(found: Outcome, expected: Outcome) -> None:
    """The device's run is the CPU's, to the last bit."""
    assert found.noted.operations
    torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=0, equal_nan=True)
    assert found.phases == expected.phases
    assert repr(found.results) == repr(expected.results)


def both(tmp_path: Path, *args: Any, **options: Any) -> tuple[Outcome, Outcome]:
    """Fit on the CPU and on the device, compare, and return both."""
    expected = fit(tmp_path / "cpu", False, *args, **options)
    found = fit(tmp_path / "device", True, *args, **options)
    assert_equal(found, expected)
    return expected, found


class Backbone(nn.Sequential):
    """Convolution, batch normalization, dropout and a layer of units."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3, stride=2),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(36, 8),
        )


def digits(**options: Any) -> DigitsDataModule:
    given: dict[str, Any] = {"n_main": 14, "n_aux": 24, "n_val": 8, "n_test": 11, "size": 8, "channels": 1}
    given |= {
        "batch_size": 6,
        "augment": RandomCropFlip(1),
        "seed": 0,
        "balanced": False,
        "classes": {"main": 2, "aux": 3},
    }
    return DigitsDataModule(**{**given, **options})


def settings(epochs: int = 2, **options: Any) -> PhaseSettings:
    given: dict[str, Any] = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)}
    return PhaseSettings(**{**given, "max_epochs": epochs, **options})


TASKS = {"main": 2, "aux": 3}


def pretrain_finetune(backbone: nn.Module | None = None, **options: Any) -> PretrainFinetuneModule:
    """Pretraining, a probe, and finetuning that starts from rescaled weights."""
    given: dict[str, Any] = {
        "finetune": "probe_then_full",
        "rescale": 0.5,
        "readout": "reset",
        "pretrain_settings": settings(),
        "finetune_settings": settings(stop_at_training_loss=1e-3),
        "finetune_callbacks": [L2SP(), WiSEFT(mixing=[0, 0.5, 1], num_samples=8)],
    }
    return PretrainFinetuneModule(backbone or Backbone(), TASKS, **{**given, **options})
