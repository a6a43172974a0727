"""What ``test_arrays_two_processes.py`` runs: ``python two_process_arrays_script.py FOLDER [PROCESSES]``."""

import sys
from pathlib import Path
from typing import Any

import torch
from arrays_helpers import kinds
from lightning.pytorch import seed_everything

from lit_aux import PhaseSettings, PhaseTrainer
from lit_aux.data import ArraysDataModule
from lit_aux.modules import PretrainFinetuneModule

NAMES = ("regression", "tokens", "dict")


def run(name: str, processes: int, folder: Path) -> tuple[PhaseTrainer, PretrainFinetuneModule]:
    """Pretrain, rescale and finetune on tasks of a kind; the processes share each step's rows."""
    seed_everything(2)
    kind = kinds()[name]
    settings = PhaseSettings(max_epochs=2, optimizer=lambda p: torch.optim.SGD(p, lr=0.05))
    how: dict[str, Any] = {"pretrain_settings": settings, "finetune_settings": settings, "rescale": 0.5}
    module = PretrainFinetuneModule(kind.backbone(), kind.tasks, **how)
    # 5 of 59 validation rows, and training rows that two processes share evenly
    sizes = {"n_main": 32, "n_aux": 32, "n_val": 5, "n_test": 9, "seed": 0, "standardize": True}
    data = ArraysDataModule(kind.arrays, kind.tasks, batch_size=16 // processes, eval_batch_size=4, **sizes)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = PhaseTrainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        default_root_dir=folder / f"{name}-{processes}",
        phase_store=False,
        enable_checkpointing=False,
        **quiet,
    )
    trainer.fit(module, datamodule=data)
    return trainer, module


if __name__ == "__main__":
    for each in NAMES:
        done, trained = run(each, 2, Path(sys.argv[1]))
        found = {"metrics": [p.metrics for p in done.phase_results], "weights": trained.state_dict()}
        torch.save(found, Path(sys.argv[1]) / f"{each}-{done.global_rank}.pt")
