"""What ``test_several_processes.py`` runs: ``python several_processes_script.py FOLDER PROCESSES``.

Lightning starts the other processes by itself. Each writes what it ended with to ``FOLDER/<case>-<rank>.pt``.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_aux import PhaseSettings, PhaseTrainer
from lit_aux.callbacks import (
    GradientConflict,
    KMeansInertia,
    RepresentationDimensionality,
    StopAtTrainingLoss,
    TrajectoryLog,
)
from lit_aux.data import DigitsDataModule
from lit_aux.metrics import EffectiveSharedDimensions, ParticipationRatio
from lit_aux.modules import MultiTaskModule, PretrainFinetuneModule

BATCH = 12
"""Of all processes together."""
TASKS = {"main": 10, "aux": 10}


class Plain(nn.Sequential):
    """Two layers, nothing that ties the samples of a batch together."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh())


class Shares(pl.LightningDataModule):
    """Batches of two tasks whose labels are missing in places; each process takes its part of every batch.

    The last batch is smaller, and no number of processes above 1 divides it; in one batch the first process
    has labels of one task only, in another a task has none at all.
    """

    tasks = list(TASKS)

    def _loader(self, seed: int) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(seed)
        rank, processes = self.trainer.global_rank, self.trainer.world_size
        batches = []
        for number, size in enumerate((BATCH, BATCH, BATCH, 7)):
            x = torch.randn(size, 64, generator=generator)
            labels = {task: (x[:, place] > 0).long() + place for place, task in enumerate(TASKS)}
            labels["main"][:: 3 + number] = -100
            if number == 1:
                labels["aux"][::2] = -100
            if number == 2:
                labels["main"][:] = -100
            part = slice(rank, None, processes)
            batches.append({task: (x[part].clone(), y[part]) for task, y in labels.items()})
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(0)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(1)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader(2)


def digits(processes: int) -> DigitsDataModule:
    """Return digits: a last batch of training is smaller, and processes cannot share evaluations evenly.

    (Training sets that they cannot share evenly are padded, as everywhere, and so train on other batches.)
    """
    sizes = {"n_main": 24, "n_aux": 44, "n_val": 23, "n_test": 29}
    return DigitsDataModule(
        **sizes, size=8, channels=1, batch_size=BATCH // processes, eval_batch_size=7, seed=0
    )


def settings(**options: Any) -> PhaseSettings:
    given: dict[str, Any] = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9)}
    return PhaseSettings(**{**given, "max_epochs": 2, **options})


def pretrain_finetune() -> PretrainFinetuneModule:
    return PretrainFinetuneModule(
        Plain(),
        TASKS,
        finetune="probe_then_full",
        rescale=0.5,
        pretrain_settings=settings(),
        finetune_settings=settings(max_epochs=9, stop_at_training_loss=2.1),
    )


def joint(**options: Any) -> MultiTaskModule:
    return MultiTaskModule(Plain(), TASKS, settings=settings(), **options)


def callbacks(processes: int) -> list[Any]:
    small: dict[str, Any] = {"num_samples": 14, "batch_size": 4}
    return [
        TrajectoryLog(every_n_epochs=1),
        RepresentationDimensionality(picture=False, **small),
        KMeansInertia("net.backbone.1", [1, 2], every_n_epochs=1),
        GradientConflict(every_n_steps=2, num_samples=14, batch_size=BATCH),
        StopAtTrainingLoss(1e-9),
    ]


Case = tuple[Callable[[], Any], Callable[[int], Any], Callable[[int], list[Any]]]
CASES: dict[str, Case] = {
    "pretraining and finetuning": (pretrain_finetune, digits, callbacks),
    "several tasks": (joint, digits, callbacks),
    "published schedule": (lambda: joint(schedule="published"), digits, lambda n: []),
    "missing labels": (joint, lambda n: Shares(), lambda n: []),
}


def fit(folder: Path, name: str, processes: int) -> tuple[int, dict[str, Any]]:
    """Fit one case; return the rank, and the weights and numbers that it left."""
    build, data, watching = CASES[name]
    pl.seed_everything(0, verbose=False)
    module, acting = build(), watching(processes)
    trainer = PhaseTrainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        precision="64-true",
        default_root_dir=folder / "runs",
        callbacks=acting,
        phase_store=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=name != "missing labels",
    )
    trainer.fit(module, datamodule=data(processes))
    numbers = {}
    for phase in trainer.phase_results:
        numbers |= {f"{phase.name} {key}": value for key, value in phase.metrics.items()}
        numbers |= {f"{phase.name} steps": phase.steps, f"{phase.name} epochs": phase.epochs}
    for callback in acting:
        for place, row in enumerate(getattr(callback, "results", [])):
            for key, value in asdict(row).items():
                if isinstance(value, int | float):
                    numbers[f"{type(callback).__name__} {place} {key}"] = value
    return trainer.global_rank, {"weights": module.state_dict(), "numbers": numbers}


def activations() -> tuple[Tensor, Tensor]:
    """Return two sets of activations whose rows differ in size by up to 400 orders of magnitude."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 24, 5, generator=generator, dtype=torch.float64)
    sizes = torch.tensor([1e-200, 1e200, 1e199, 1.0], dtype=torch.float64).repeat_interleave(6)
    return x * sizes[:, None], y / sizes[:, None] ** 0.5


def metrics(rank: int, processes: int) -> dict[str, Tensor]:
    """Return metrics of activations of which a process has every so many batches, the last one none."""
    found = {}
    kinds = {"PR": ParticipationRatio(), "buffered PR": ParticipationRatio(num_samples=24)}
    kinds |= {
        f"ENSD {pairing}": EffectiveSharedDimensions(pairing=pairing) for pairing in ("feature", "sample")
    }
    sharing = max(1, processes - 1)
    for name, metric in kinds.items():
        for number, rows in enumerate(torch.arange(24).split(6)):
            if number % sharing == rank:
                parts = [part[rows] for part in activations()[: 1 + name.startswith("ENSD")]]
                metric.update(*parts, **({"ids": rows} if "buffered" in name else {}))
        found[name] = metric.compute()
    return found


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    target, number = Path(sys.argv[1]), int(sys.argv[2])
    for each in CASES:
        place, left = fit(target, each, number)
        torch.save(left, target / f"{each}-{place}.pt")
    torch.save(metrics(place, number), target / f"metrics-{place}.pt")
