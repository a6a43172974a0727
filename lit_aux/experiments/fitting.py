"""One quiet fit of students, which tells how it gets on and hands over what has ended."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_aux.data import TeacherDataModule
from lit_aux.experiments.run import OnStep
from lit_aux.modules import AuxiliaryModule
from lit_aux.phases import PhaseTrainer

Ended = Callable[[dict[str, Any]], None]


def fit(
    module: AuxiliaryModule,
    data: TeacherDataModule,
    device: str,
    progress: OnStep,
    ended: Ended | None = None,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train a module on a device, quietly.

    Args:
        module: With students.
        data: Their data.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        progress: Told after every block how many replicas are under way, and how many gradients they have
            cost.
        ended: Given the results of each replica after the block in which it ended.
        callbacks: More of Lightning's.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    trainer = PhaseTrainer(
        accelerator="gpu" if kind == "cuda" else kind,
        devices=[int(number or 0)] if kind == "cuda" else 1,
        callbacks=[_Watch(progress, ended), *callbacks],
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        phase_store=False,
        test_after_phase=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data)
    module.cpu()


class _Watch(Callback):
    """Tells how a slice gets on."""

    def __init__(self, progress: OnStep, ended: Ended | None) -> None:
        self.progress, self.ended = progress, ended
        self._told = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count replicas under way and the gradients that they have cost; hand over those that have ended."""
        students = cast(AuxiliaryModule, pl_module).students
        if students is None or students.run is None or students.run.state is None:
            return
        state = students.run.state
        self.progress(len(state.rows), int(state.counts.evaluations.max()))
        if self.ended is not None:
            for row in students.results.get(students.run.phase.name, [])[self._told :]:
                self._told += 1
                self.ended(row)
