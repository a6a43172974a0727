"""What ``test_text_training.py`` runs under two processes: ``python ... FOLDER``.

Lightning starts the second process by itself. Each process writes the weights of each network.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "models")]
from text_toys import TASKS, settings, text, trainer_in
from transformers_models import config

from lit_aux.data import ArraysDataModule
from lit_aux.models import TransformersBackbone
from lit_aux.modules import MultiTaskModule

SHAPES = {"wav2vec2": ("input_values", (3000,)), "dinov2": ("pixel_values", (3, 16, 16))}


def arrays(name: str) -> dict[str, Any]:
    """Return both tasks."""
    found = {task: text(32, place, size) for place, (task, size) in enumerate(TASKS.items())}
    if name not in SHAPES:
        return found
    key, shape = SHAPES[name]
    draw = torch.Generator().manual_seed(0)
    return {task: ({key: torch.randn(32, *shape, generator=draw)}, y) for task, (_, y) in found.items()}


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    for name in ("bert", "wav2vec2", "dinov2"):
        torch.manual_seed(0)
        module = MultiTaskModule(TransformersBackbone(config(name)), dict(TASKS), settings=settings(2))
        data = ArraysDataModule(arrays(name), tasks=dict(TASKS), batch_size=4, seed=0)
        trainer = trainer_in(target / name, devices=2, strategy="ddp")
        trainer.fit(module, datamodule=data)
        weights = dict(module.net.named_parameters())
        torch.save({k: v.detach() for k, v in weights.items()}, target / f"{name}-{trainer.global_rank}.pt")
