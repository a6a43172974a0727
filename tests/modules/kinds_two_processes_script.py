"""What ``test_kinds.py`` runs under two processes: ``python ... FOLDER``.

Lightning starts the second process by itself. Each process writes weights and metrics of each kind.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from kind_helpers import KINDS, arrays, module_of, trainer_of

from lit_aux.data import ArraysDataModule


def run(kind: str, folder: Path, processes: int) -> tuple[Any, dict[str, float]]:
    """Train both tasks on whole batches, so that every step is of the same examples however many share it."""
    found, tasks = arrays(kind)
    data = ArraysDataModule(
        found, tasks=tasks, seed=0, n=dict.fromkeys(tasks, 48), batch_size=48 // processes
    )
    several = {"devices": 2, "strategy": "ddp"} if processes > 1 else {}
    module = module_of("MTL", kind)
    trainer = trainer_of(folder / kind, **several)
    trainer.fit(module, datamodule=data)
    return module, dict(trainer.phase_results[-1].metrics)


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    for each in KINDS:
        trained, measures = run(each, target, 2)
        rank = trained.trainer.global_rank
        torch.save({"state": trained.state_dict(), "metrics": measures}, target / f"{each}-{rank}.pt")
