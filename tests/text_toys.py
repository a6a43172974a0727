"""Two toy tasks on padded text, and a tiny network of transformers."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_aux import PhaseSettings, PhaseTrainer
from lit_aux.data import ArraysDataModule
from lit_aux.models import TransformersBackbone

TINY = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
    "max_position_embeddings": 16,
}
TASKS = {"main": 2, "aux": 3}


def text(n: int, seed: int, classes: int, length: int = 8) -> tuple[dict[str, Tensor], Tensor]:
    """Return sentences of different lengths, and which class of tokens is first."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 50, (n, length), generator=generator)
    lengths = torch.randint(2, length + 1, (n, 1), generator=generator)
    mask = (torch.arange(length) < lengths).long()
    return {"input_ids": ids * mask, "attention_mask": mask}, ids[:, 0] % classes


class TextToys(ArraysDataModule):
    """Tasks ``main`` and ``aux`` of made-up sentences."""

    def __init__(self, n: int = 48, batch_size: int = 16, seed: int = 0) -> None:
        arrays = {task: text(n, place, size) for place, (task, size) in enumerate(TASKS.items())}
        super().__init__(
            arrays,
            tasks=dict(TASKS),
            batch_size=batch_size,
            seed=seed,
            n_val=8,
            n=dict.fromkeys(TASKS, n - 20),
        )


class NamedToys(TextToys):
    """The same with names of classes and a tokenizer."""

    vocab_size = 50

    @property
    def tokenizer(self) -> Any:
        """A tokenizer of words."""
        from tokenizers import Tokenizer, models, pre_tokenizers

        words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2} | {f"w{i}": i for i in range(3, 50)}
        found: Any = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
        found.pre_tokenizer = pre_tokenizers.Whitespace()
        return found

    def names_of_classes(self, task: str) -> list[str]:
        """Name the classes."""
        return [f"{task} {i}" for i in range(TASKS[task])]


def backbone(**options: Any) -> TransformersBackbone:
    """Return the tiny network, the same each time."""
    torch.manual_seed(3)
    return TransformersBackbone(dict(TINY), **options)


def settings(epochs: int = 2, **options: Any) -> PhaseSettings:
    """Return how a phase goes."""
    return PhaseSettings(max_epochs=epochs, optimizer=lambda p: torch.optim.AdamW(p, lr=3e-3), **options)


def trainer_in(root: Path, **options: Any) -> PhaseTrainer:
    """Return a quiet Trainer on one CPU."""
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return PhaseTrainer(
        **{"accelerator": "cpu", "devices": 1, "default_root_dir": str(root), **quiet, **options}
    )
