"""Images of noise, as many as a benchmark needs, without any file."""

from typing import Any

import torch
from torch import Tensor

from lit_aux.data.base import TaskDataModule

CLASSES = 10


class RandomImagesDataModule(TaskDataModule):
    """Ten classes, in one task unless they are divided; 32 x 32 pixels, three channels.

    Args:
        images: Number of training images of each task.
        classes: Number of classes of each task.
        **kwargs: See ``TaskDataModule``.
    """

    def __init__(self, images: int = 1280, classes: dict[str, int] | None = None, **kwargs: Any) -> None:
        classes = classes or {"main": CLASSES}
        self.images = images * len(classes)
        super().__init__(classes=classes, n_val=0, n=dict.fromkeys(classes, images), **kwargs)

    @property
    def class_names(self) -> list[str]:
        return [str(index) for index in range(CLASSES)]

    def load_pool(self) -> tuple[Tensor, Tensor]:
        return self._draw(2 * self.images, 0)

    def load_test(self) -> tuple[Tensor, Tensor]:
        return self._draw(512, 1)

    @staticmethod
    def _draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return images, torch.arange(count) % CLASSES
