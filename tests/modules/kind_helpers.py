"""Small data and networks for a task of each kind, beside a classification from the same inputs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lit_aux import PhaseSettings, PhaseTrainer, Task
from lit_aux.callbacks import RepresentationDimensionality
from lit_aux.data import ArraysDataModule
from lit_aux.modules import MultiTaskModule, PretrainFinetuneModule, SingleTaskModule

KINDS = ("classification", "multilabel", "regression", "tokens", "dense")
METRIC = {
    "classification": "accuracy",
    "multilabel": "f1",
    "regression": "r2",
    "tokens": "accuracy",
    "dense": "iou",
}
N, WIDTH = 96, 8


class Vectors(nn.Module):
    """Features of vectors."""

    num_features = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 16)
        self.last = nn.Linear(16, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.last(self.layer(x).relu()).relu())


class Tokens(nn.Module):
    """Features of each token, which see its neighbours."""

    num_features = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 16)
        self.last = nn.Conv1d(16, WIDTH, 3, padding=1)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        features = self.embedding(ids) * attention_mask.unsqueeze(-1)
        return cast(Tensor, self.last(features.transpose(1, 2)).relu().transpose(1, 2))


class Maps(nn.Module):
    """A map of features, half as wide and high as the image."""

    num_features = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 16, 3, padding=1)
        self.last = nn.Conv2d(16, WIDTH, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.last(self.layer(x).relu()).relu())


def backbone(kind: str) -> nn.Module:
    """Return an untrained network for a kind, the same at each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return {"tokens": Tokens, "dense": Maps}.get(kind, Vectors)()


def arrays(kind: str) -> tuple[dict[str, Any], dict[str, Task | int]]:
    """Return inputs and targets of ``main``, of the kind, and of ``aux``; some targets are missing."""
    draw = torch.Generator().manual_seed(5)
    x: Any = torch.randn(N, 5, generator=draw)
    group = (x[:, 1] > 0).long()
    task = Task(2)
    y: Tensor = (x[:, 0] > 0).long()
    if kind == "multilabel":
        task, y = Task(3, "multilabel", class_weights=[1.0, 2.0, 1.0]), (x[:, :3] > 0).float()
        y[::7, 1] = torch.nan
    elif kind == "regression":
        task, y = Task(2, "regression"), x[:, :2] * 0.5 + 0.2
        y[::9, 0] = torch.nan
    elif kind == "tokens":
        ids = torch.randint(1, 11, (N, 6), generator=draw)
        mask = (torch.arange(6) < torch.randint(3, 7, (N, 1), generator=draw)).long()
        x = {"ids": ids * mask, "attention_mask": mask}
        task, y = Task(3, "tokens"), torch.where(mask == 1, ids % 3, -100)
        group = ids[:, 0] % 2
    elif kind == "dense":
        x = torch.rand(N, 1, 6, 6, generator=draw)
        task, y = Task(2, "dense", ignore=255), (x[:, 0] > 0.5).long()
        y[:, 0, 0] = 255
        group = (x.mean((1, 2, 3)) > 0.5).long()
    else:
        y[::8] = -100
    return {"main": (x, y), "aux": (x, group)}, {"main": task, "aux": 2}


class KindData(ArraysDataModule):
    """Data of a kind, by its name."""

    def __init__(self, kind: str = "regression", seed: int = 0, n_main: int | None = None) -> None:
        found, tasks = arrays(kind)
        super().__init__(found, tasks=tasks, seed=seed, n_main=n_main, batch_size=16)


class KindNet(nn.Module):
    """A network for inputs of all kinds."""

    num_features = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.vectors, self.tokens, self.maps = Vectors(), Tokens(), Maps()

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        if kwargs:
            return cast(Tensor, self.tokens(**kwargs))
        return cast(Tensor, self.maps(*args) if args[0].ndim == 4 else self.vectors(*args))


SETTINGS = {"optimizer": lambda p: torch.optim.Adam(p, lr=0.02), "max_epochs": 4}


def settings(**options: Any) -> PhaseSettings:
    return PhaseSettings(**{**SETTINGS, **options})


def module_of(setup: str, kind: str, **options: Any) -> Any:
    """Return a module of a setup over the tasks of a kind."""
    tasks = arrays(kind)[1]
    torch.manual_seed(1)
    if setup == "STL":
        return SingleTaskModule(backbone(kind), tasks, settings=settings(), **options)
    if setup == "MTL":
        return MultiTaskModule(backbone(kind), tasks, settings=settings(), **options)
    both = {"pretrain_settings": settings(), "finetune_settings": settings()}
    finetune: dict[str, Any] = {"finetune": "probe"} if setup == "LP" else {"rescale": 0.5}
    return PretrainFinetuneModule(backbone(kind), tasks, **both, **finetune, **options)


def trainer_of(folder: Path, **options: Any) -> PhaseTrainer:
    """Return a quiet Trainer."""
    how: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "default_root_dir": str(folder)}
    how |= {"enable_progress_bar": False, "enable_model_summary": False}
    return PhaseTrainer(**{**how, **options})


def fitted(
    folder: Path, setup: str, kind: str, callbacks: Sequence[Any] = (), **options: Any
) -> tuple[Any, PhaseTrainer]:
    """Fit and return the module and its Trainer."""
    module, data = module_of(setup, kind, **options.pop("of_module", {})), KindData(kind)
    trainer = trainer_of(folder, callbacks=list(callbacks), **options)
    trainer.fit(module, datamodule=data)
    return module, trainer


def dimensionality() -> RepresentationDimensionality:
    return RepresentationDimensionality(["*last"])
