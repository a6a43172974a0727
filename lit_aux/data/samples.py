"""The images and labels of one task in one split."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from lit_aux.data.files import FileLoader, ImageFiles
from lit_aux.data.input_format import InputFormat
from lit_aux.data.label_noise import noisy_labels
from lit_aux.data.loader import InMemoryLoader, TaskLoader

Images = Tensor | ImageFiles


@dataclass
class Samples:
    """Images of one task.

    Attributes:
        images: uint8 (N, C, H, W), or files to be read when they are needed.
        labels: int64 (N,), local to the task.
    """

    images: Images
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def pick(
        cls, images: Images, labels: Tensor, indices: Tensor, classes: list[int], view: InputFormat
    ) -> "Samples":
        """Take the samples ``indices`` and number their classes from 0."""
        local = torch.full((max(int(labels.max()), *classes) + 1,), -1, dtype=torch.int64)
        local[torch.tensor(classes)] = torch.arange(len(classes))
        picked: Images = (
            images.select(indices) if isinstance(images, ImageFiles) else view.resize(images[indices])
        )
        return cls(picked, local[labels[indices]])

    def to(self, device: torch.device) -> "Samples":
        """Move to a device what lies in memory; nothing is copied where it is there already."""
        if isinstance(self.images, ImageFiles):
            return self
        return Samples(self.images.to(device), self.labels.to(device))

    def loader(self, transform: Any, **options: Any) -> TaskLoader:
        """Return the loader of these samples; see ``TaskLoader`` for the options."""
        if isinstance(self.images, ImageFiles):
            return FileLoader(self.images, self.labels, transform, **options)
        return InMemoryLoader(self.images, self.labels, transform.to(self.images.device), **options)

    def add_noise(self, classes: int, share: float, seed: int, task: str) -> None:
        """Make a share of the labels wrong; see :func:`~lit_aux.data.label_noise.noisy_labels`."""
        if share:
            self.labels = noisy_labels(self.labels, classes, share, seed, task)

    def digest(self) -> str:
        """Return a hash of the labels and images (of files: path, size and time of change)."""
        hashed = blake2b(self.labels.cpu().numpy().tobytes(), digest_size=16)
        if isinstance(self.images, ImageFiles):
            hashed.update(self.images.digest().encode())
        else:
            hashed.update(repr(tuple(self.images.shape)).encode())
            hashed.update(self.images.cpu().contiguous().numpy().data)
        return hashed.hexdigest()
