"""Small arrays of every kind of task, and networks for them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_aux.models import MLP
from lit_aux.tasks import Task

ROWS = 60


class Tokens(nn.Module):
    """Embeds tokens: features (B, T, F)."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.mixing = nn.Sequential(nn.Linear(8, 8), nn.ReLU())

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the features of each token."""
        x = self.mixing(self.embedding(tokens))
        return x if attention_mask is None else x * attention_mask.unsqueeze(-1)


class Pixels(nn.Sequential):
    """A convolution: features (B, F, H/2, W/2)."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.ReLU())


class Two(nn.Module):
    """Takes two arguments."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 8), nn.Linear(2, 8)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the features of both."""
        return torch.relu(self.left(left) + self.right(right))


@dataclass
class Kind:
    """A task ``main`` of one kind, some of its targets missing, beside a classification ``aux``."""

    arrays: dict[str, tuple[Any, Any]]
    tasks: dict[str, Task]
    backbone: Callable[[], nn.Module]
    metrics: tuple[str, ...]


def holes(y: Tensor, value: float) -> Tensor:
    """Take out a fifth of the targets."""
    there = torch.rand(y.shape, generator=torch.Generator().manual_seed(5)) > 0.2
    return torch.where(there, y, torch.full_like(y, value))


def kinds() -> dict[str, Kind]:
    """Return every kind of task by name; with inputs in dicts and tuples, too."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(ROWS, 5, generator=generator)
    tokens = torch.randint(0, 10, (ROWS, 7), generator=generator)
    images = torch.randn(ROWS, 1, 8, 8, generator=generator)
    classes = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    labels = x[:, :3] > 0
    mask = torch.arange(7) < torch.randint(3, 8, (ROWS, 1), generator=generator)
    of_tokens = torch.where(mask, tokens % 3, -100)
    values = holes(torch.stack([x[:, 0] + x[:, 1], x[:, 2]], 1), torch.nan)
    aux = x[:, 3] > 0
    parts = (x[:, :3], x[:, 3:])
    named = {"left": parts[0], "right": parts[1]}
    texts = {"tokens": tokens, "attention_mask": mask}

    def mlp() -> nn.Module:
        return MLP(5, width=8)

    return {
        "classification": Kind(
            {"main": (x, holes(classes, -100)), "aux": (x, aux)},
            {"main": Task(3), "aux": Task(2)},
            mlp,
            ("accuracy",),
        ),
        "multilabel": Kind(
            {"main": (x, holes(labels.long(), -100)), "aux": (x, aux)},
            {"main": Task(3, kind="multilabel"), "aux": Task(2)},
            mlp,
            ("f1",),
        ),
        "regression": Kind(
            {"main": (x, values), "aux": (x, aux)},
            {"main": Task(2, kind="regression"), "aux": Task(2)},
            mlp,
            ("r2", "mae"),
        ),
        "tokens": Kind(
            {"main": (texts, of_tokens), "aux": (texts, tokens.sum(1) % 2)},
            {"main": Task(3, kind="tokens"), "aux": Task(2)},
            Tokens,
            ("accuracy",),
        ),
        "dense": Kind(
            {
                "main": (images, holes((images[:, 0] > 0).long(), -100)),
                "aux": (images, images.sum((1, 2, 3)) > 0),
            },
            {"main": Task(2, kind="dense"), "aux": Task(2)},
            Pixels,
            ("iou", "accuracy"),
        ),
        "dict": Kind(
            {"main": (named, x[:, :2]), "aux": (named, aux)},
            {"main": Task(2, kind="regression"), "aux": Task(2)},
            Two,
            ("r2", "mae"),
        ),
        "tuple": Kind(
            {"main": (parts, classes), "aux": (parts, aux)},
            {"main": Task(3), "aux": Task(2)},
            Two,
            ("accuracy",),
        ),
    }
