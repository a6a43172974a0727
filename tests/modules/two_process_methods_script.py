"""What ``test_methods_two_processes.py`` runs under two processes: ``python ... FOLDER``.

Lightning starts the second process by itself. Each process writes its weights to ``FOLDER/<run>-<rank>.pt``.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from method_helpers import TASKS, Batch, Batches, batches, module_of, trainer_of

from lit_aux import PhaseSettings
from lit_aux.callbacks import StopAtTrainingLoss


def weighted(classes: int) -> nn.Module:
    return nn.CrossEntropyLoss(torch.tensor([0.5, 2.0, 1.5][:classes], dtype=torch.float64))


RUNS: dict[str, dict[str, Any]] = {
    "PCGrad": {"aggregator": "PCGrad"},
    "UPGrad": {"aggregator": "UPGrad"},
    "GradDrop": {"aggregator": "GradDrop"},
    "uncertainty": {"weighting": "uncertainty"},
    "random": {"weighting": "random"},
    "gradnorm": {"weighting": "gradnorm"},
    "GeometricMean": {"weighting": "GeometricMean"},
    # with labels missing
    "hollow": {},
    "hollow-weights": {"losses": {t: weighted(n) for t, n in TASKS.items()}},
    "hollow-PCGrad": {"aggregator": "PCGrad"},
    "hollow-uncertainty": {"weighting": "uncertainty"},
    "hollow-gradnorm": {"weighting": "gradnorm"},
}


def hollow(served: list[Batch]) -> list[Batch]:
    """Take labels away: unlike many of each process, all of one's, and in one batch all of a task's."""
    for number, batch in enumerate(served):
        for place, (_, y) in enumerate(batch.values()):
            y[: 3 * place + number] = -100
    served[1]["a"][1][::2] = -100  # the first process has none
    served[2]["b"][1][:] = -100
    for _, y in served[3].values():
        y[1::2] = -100  # the second process has nothing at all
    return served


def run(name: str, folder: Path, processes: int) -> Any:
    """Train a module on four batches, two a step, clipped; return it and its Trainer."""
    module = module_of(lr=0.3, **RUNS[name])
    served = hollow(batches(4, size=12)) if name.startswith("hollow") else batches(4, size=12)
    several = {"devices": 2, "strategy": "ddp"} if processes > 1 else {}
    trainer = trainer_of(folder, accumulate_grad_batches=2, gradient_clip_val=0.5, **several)
    trainer.fit(module, datamodule=Batches(served, processes))
    return module, trainer


def stopped(folder: Path, processes: int) -> str | None:
    """Train one task at a rate of 0; return why StopAtTrainingLoss ended it, with the loss it saw."""
    callback = StopAtTrainingLoss(100.0)
    settings = PhaseSettings(optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    module = module_of({"a": 2}, settings=settings, losses=weighted(2))
    served = [{"a": batch["a"]} for batch in hollow(batches(4, size=12))]
    several = {"devices": 2, "strategy": "ddp"} if processes > 1 else {}
    trainer = trainer_of(folder, accumulate_grad_batches=2, callbacks=[callback], **several)
    trainer.fit(module, datamodule=Batches(served, processes))
    return callback.stop_reason


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    for each in RUNS:
        trained, fit = run(each, target, 2)
        assert fit.world_size == 2
        torch.save(trained.state_dict(), target / f"{each}-{fit.global_rank}.pt")
    (target / f"stopped-{fit.global_rank}.txt").write_text(str(stopped(target, 2)))
