"""What ``test_lora_two_processes.py`` runs under two processes: ``python two_process_lora_script.py FOLDER``.

Lightning starts the second process by itself. Each process writes what it saw to ``FOLDER/<rank>.pt``.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from two_process_script import Backbone, Record, data, settings

from lit_aux import PhaseTrainer
from lit_aux.callbacks import L2SP, RepresentationDimensionality
from lit_aux.models import LoRA
from lit_aux.modules import PretrainFinetuneModule


def build() -> PretrainFinetuneModule:
    """Pretrain, rescale, and finetune low-rank updates of the only convolution."""
    return PretrainFinetuneModule(
        Backbone(),
        {"main": 2, "aux": 8},
        finetune="lora",
        lora=LoRA(r=2),
        rescale=0.5,
        pretrain_settings=settings(),
        finetune_settings=settings(),
        finetune_callbacks=[L2SP()],
    )


def main(folder: Path) -> None:
    """Train on two gloo processes, and again from the middle of the last phase."""
    rank = int(os.environ.get("LOCAL_RANK", 0))
    found: dict[str, Any] = {}
    for name, epochs in (("whole", 2), ("cut", 1), ("resumed", 2)):
        seed_everything(3)
        record = Record()
        module = build()
        module.phases[-1].max_epochs = epochs
        trainer = PhaseTrainer(
            accelerator="cpu",
            devices=2,
            strategy="ddp",
            default_root_dir=str(folder / ("whole" if name == "whole" else "cut")),
            phase_store=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[
                record,
                RepresentationDimensionality(["net.backbone.0"], num_samples=10, picture=False),
            ],
        )
        trainer.fit(module, datamodule=data(), ckpt_path="last" if name == "resumed" else None)
        found[name] = {
            "phases": record.phases,
            "steps": [result.steps for result in trainer.phase_results],
            "metrics": {k: float(v) for k, v in trainer.callback_metrics.items() if "test" in k},
            "state": {k: v.clone() for k, v in module.state_dict().items()},
            "trains": sorted(n for n, p in module.named_parameters() if p.requires_grad),
        }
    torch.save(found, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
