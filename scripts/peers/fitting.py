"""What is compared: ``lit-aux fit`` in this process, on digits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from benchmarks.training import StepClock

from .comparison import Clock

RESNET18 = {"class_path": "lit_aux.models.TimmBackbone", "init_args": {"name": "resnet18"}}


def fit(folder: Path, kind: str, model: Mapping[str, Any], data: Mapping[str, Any], **trainer: Any) -> None:
    """Run the command with its own log, progress bar, metrics and checkpoints; `StepClock` notes the steps.

    Args:
        folder: Of the run.
        kind: The module's class.
        model: Its options beside the backbone, a ResNet-18.
        data: Options of the digits.
        trainer: Options of the Trainer beside the processor and the folder.

    Raises:
        RuntimeError: If it fails.
    """
    from lit_aux.cli import main

    config = {
        "trainer": {
            "accelerator": "cpu",
            "default_root_dir": str(folder),
            "callbacks": [{"class_path": "benchmarks.training.StepClock"}],
            **trainer,
        },
        "model": {"class_path": f"lit_aux.modules.{kind}", "init_args": {"backbone": RESNET18, **model}},
        "data": {"class_path": "lit_aux.data.DigitsDataModule", "init_args": dict(data)},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    if main(["fit", "--config", str(path)]):
        raise RuntimeError("the fit failed")


def settings(optimizer: str, options: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """Return the settings of a phase: one of torch's optimizers, and how many epochs."""
    return {
        "optimizer": {"class_path": f"torch.optim.{optimizer}", "init_args": dict(options)},
        "max_epochs": epochs,
    }


def use(clock: Clock) -> None:
    """Let every `StepClock` tell the time by a clock."""
    StepClock.clock = staticmethod(clock)


def mean_step(times: Sequence[float]) -> float:
    """Return how long a step took from the first to the last."""
    return (times[-1] - times[0]) / (len(times) - 1)
