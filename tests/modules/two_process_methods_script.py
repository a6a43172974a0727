"""What ``test_methods_two_processes.py`` runs under two processes: ``python ... FOLDER``.

Lightning starts the second process by itself. Each process writes its weights to ``FOLDER/<run>-<rank>.pt``.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from method_helpers import Batches, batches, module_of, trainer_of

RUNS: dict[str, dict[str, Any]] = {
    "PCGrad": {"aggregator": "PCGrad"},
    "UPGrad": {"aggregator": "UPGrad"},
    "GradDrop": {"aggregator": "GradDrop"},
    "uncertainty": {"weighting": "uncertainty"},
    "random": {"weighting": "random"},
    "gradnorm": {"weighting": "gradnorm"},
    "GeometricMean": {"weighting": "GeometricMean"},
}


def run(name: str, folder: Path, processes: int) -> Any:
    """Train a module on four batches, two a step, clipped; return it and its Trainer."""
    module = module_of(lr=0.3, **RUNS[name])
    several = {"devices": 2, "strategy": "ddp"} if processes > 1 else {}
    trainer = trainer_of(folder, accumulate_grad_batches=2, gradient_clip_val=0.5, **several)
    trainer.fit(module, datamodule=Batches(batches(4, size=12), processes))
    return module, trainer


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    for each in RUNS:
        trained, fit = run(each, target, 2)
        assert fit.world_size == 2
        torch.save(trained.state_dict(), target / f"{each}-{fit.global_rank}.pt")
