"""The images and labels of one task in one split, and labels that are wrong on purpose."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from lit_aux.data.files import FileLoader, ImageFiles
from lit_aux.data.loader import InMemoryLoader, TaskLoader, generator_for
from lit_aux.data.transforms import InputFormat
from lit_aux.errors import ConfigurationError, check_known
from lit_aux.ranges import Range

Images = Tensor | ImageFiles
_OPTION = "--data.label_noise"


@dataclass
class Samples:
    """Images of one task.

    Attributes:
        images: uint8 (N, C, H, W), or files to be read when they are needed.
        labels: int64 (N,), local to the task.
        names: The name of each image, where they have some.
    """

    images: Images
    labels: Tensor
    names: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def pick(
        cls, images: Images, labels: Tensor, indices: Tensor, classes: list[int], view: InputFormat
    ) -> "Samples":
        """Take the samples ``indices`` and number their classes from 0."""
        chosen = numbered_within(labels[indices], classes)
        if isinstance(images, ImageFiles):
            return cls(images.select(indices), chosen)
        return cls(view.resize(images[indices]), chosen)

    def to(self, device: torch.device) -> "Samples":
        """Move to a device what lies in memory; nothing is copied where it is there already."""
        if isinstance(self.images, ImageFiles):
            return self
        return Samples(self.images.to(device), self.labels.to(device), self.names)

    def loader(self, transform: Any, **options: Any) -> TaskLoader:
        """Return the loader of these samples; see ``TaskLoader`` for the options."""
        loader: TaskLoader
        if isinstance(self.images, ImageFiles):
            loader = FileLoader(self.images, self.labels, transform, **options)
        else:
            transform = transform.to(self.images.device)
            loader = InMemoryLoader(self.images, self.labels, transform, **options)
        loader.names = self.names
        return loader

    def digest(self) -> str:
        """Return a hash of the labels and images (of files: path, size and time of change)."""
        hashed = blake2b(self.labels.cpu().numpy().tobytes(), digest_size=16)
        if isinstance(self.images, ImageFiles):
            hashed.update(self.images.digest().encode())
        else:
            hashed.update(repr(tuple(self.images.shape)).encode())
            hashed.update(self.images.cpu().contiguous().numpy().data)
        return hashed.hexdigest()


def numbered_within(labels: Tensor, classes: Sequence[int]) -> Tensor:
    """Return the numbers of classes within a task, int64 (N,), by their place among its classes."""
    local = torch.full((max(classes) + 1,), -1, dtype=torch.int64)
    local[torch.tensor(classes)] = torch.arange(len(classes))
    return local[labels]


def check_noise(noise: Mapping[str, float] | None, tasks: Collection[str]) -> dict[str, float]:
    """Return the share of wrong labels of each task that has any.

    Raises:
        ConfigurationError: For an unknown task, or a share that is not between 0 and 1.
    """
    if noise is not None and not isinstance(noise, Mapping):
        raise ConfigurationError(f"{_OPTION} {noise!r}: is no mapping of tasks to shares, as {{main: 0.1}}")
    for task, share in (noise or {}).items():
        check_known(_OPTION, task, tasks)
        if share not in Range(least=0, most=1):
            raise ConfigurationError(f"{_OPTION}.{task} {share}: must be between 0 and 1")
    return dict(noise or {})


def noisy_labels(labels: Tensor, classes: int, share: float, seed: int, task: str) -> Tensor:
    """Give a share of the labels another class, drawn uniformly from all the others.

    Which labels, and which classes they get, depends on seed and task. A label that is wrong for one share is
    wrong in the same way for every larger one. With c classes, a share of 1 - 1 / c leaves labels that say
    nothing of the images.

    Args:
        labels: int64 (N,), local to the task.
        classes: Number of classes.
        share: Probability with which a label becomes wrong.
        seed: Of the data.
        task: The task's name.
    """
    generator = generator_for(seed, "noise", task)
    wrong = torch.rand(len(labels), generator=generator) < share
    shift = torch.randint(1, classes, (len(labels),), generator=generator)
    return torch.where(wrong, (labels + shift) % classes, labels)
