"""Digits pasted on a canvas: which pixel is of which digit, beside how many there are."""

from pathlib import Path

import torch
from kind_helpers import trainer_of
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lit_aux import PhaseSettings, Task
from lit_aux.callbacks import RepresentationDimensionality
from lit_aux.data import ArraysDataModule
from lit_aux.modules import MultiTaskModule, PretrainFinetuneModule

CELL, CELLS = 8, 2
TASKS: dict[str, Task | int] = {"main": Task(3, "dense"), "aux": Task(1, "regression")}


def canvases(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return images (n, 1, 16, 16), the class of each pixel (background, 0 or 1), and the digits on each."""
    found = load_digits()
    draw = torch.Generator().manual_seed(0)
    images = torch.tensor(found.images[found.target < 2] / 16, dtype=torch.float)
    classes = torch.tensor(found.target[found.target < 2]) + 1
    x, labels = torch.zeros(n, CELL * CELLS, CELL * CELLS), torch.zeros(n, CELL * CELLS, CELL * CELLS).long()
    counts = torch.randint(0, 5, (n,), generator=draw)
    for number, count in enumerate(counts.tolist()):
        for cell in torch.randperm(CELLS**2, generator=draw)[:count].tolist():
            chosen = int(torch.randint(len(images), (1,), generator=draw))
            rows, columns = (slice(CELL * at, CELL * at + CELL) for at in divmod(cell, CELLS))
            x[number, rows, columns] = images[chosen]
            labels[number, rows, columns] = torch.where(images[chosen] > 0.2, classes[chosen], 0)
    return x.unsqueeze(1), labels, counts.float() / 2


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 24, 5, stride=2, padding=2), nn.ReLU()
    )


def settings(epochs: int) -> PhaseSettings:
    return PhaseSettings(optimizer=lambda p: torch.optim.Adam(p, lr=0.01), max_epochs=epochs)


def test_pixels_beside_a_count(tmp_path: Path) -> None:
    x, labels, counts = canvases(200)
    data = ArraysDataModule({"main": (x, labels), "aux": (x, counts)}, tasks=TASKS, seed=0, batch_size=32)
    both = MultiTaskModule(network(), TASKS, num_features=24, settings=settings(14))
    trainer = trainer_of(tmp_path / "both")
    trainer.fit(both, datamodule=data)
    found = trainer.phase_results[-1].metrics
    assert found["main/test_iou"] > 0.5
    assert found["aux/test_r2"] > 0.8


def test_pixels_after_a_count(tmp_path: Path) -> None:
    x, labels, counts = canvases(120)
    data = ArraysDataModule(
        {"main": (x, labels), "aux": (x, counts)}, tasks=TASKS, seed=0, batch_size=16, n_main=16, n_val=0
    )
    measured = RepresentationDimensionality(["*backbone.2"])
    phases = {"pretrain_settings": settings(4), "finetune_settings": settings(40)}
    module = PretrainFinetuneModule(network(), TASKS, num_features=24, rescale=0.5, **phases)
    trainer = trainer_of(tmp_path, callbacks=[measured])
    trainer.fit(module, datamodule=data)
    found = trainer.phase_results[-1].metrics
    assert found["main/test_iou"] > 1 / 3  # a third is background alone
    (row,) = [row for row in measured.results if row.phase == "finetune"]
    assert 1 <= row.pr_after <= 24
