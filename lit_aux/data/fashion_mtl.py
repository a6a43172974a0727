"""Fashion-MNIST as three tasks on the same kinds of clothing."""

from typing import Any

import torch
from torch import Tensor

from lit_aux.data.fashion_mnist import FashionMNISTDataModule
from lit_aux.errors import ConfigurationError

_PERMUTATION = (3, 7, 0, 9, 1, 8, 4, 2, 5, 6)


class FashionMTLDataModule(FashionMNISTDataModule):
    """Fashion-MNIST in two halves, each a task of all ten classes, and a third task with permuted labels.

    After Mueller et al. (arXiv 2408.14677). A half has 35,000 images, every class equally often: 25,000
    train, 5,000 validate (both of the standard training set) and 5,000 test. The halves, ``first`` and
    ``second``, are the images of even and odd number within their class, and so never change. ``permuted``
    has the images of the first half with its classes in another order: the same features serve, through
    another readout. With ``label_noise: {permuted: 0.9}`` its labels say nothing of the images.

    The model chooses which tasks train: ``MultiTaskModule(train_tasks=["first", "second"])``.

    Args:
        n_val: Validation images of each task.
        **kwargs: As for :class:`FashionMNISTDataModule`, but for ``classes``, which are settled.

    Raises:
        ConfigurationError: If ``classes`` are given.
    """

    short_name = "fashion-mtl"

    def __init__(self, n_val: int | None = 5000, **kwargs: Any) -> None:
        if "classes" in kwargs:
            raise ConfigurationError("--data.classes: FashionMTLDataModule has its own; leave them out")
        tasks: dict[str, list[int | str]] = {
            "first": [*range(10)],
            "second": [*range(10, 20)],
            "permuted": [20 + kind for kind in _PERMUTATION],
        }
        super().__init__(classes=tasks, n_val=n_val, **kwargs)

    @property
    def class_names(self) -> list[str]:
        """The kinds of clothing, three times."""
        kinds = super().class_names
        return [f"{kind} ({task})" for task in ("first", "second", "permuted") for kind in kinds]

    def pool_counts(self) -> list[int]:
        """Return the number of pool images of every class."""
        return [3000] * 30

    def load_pool(self) -> tuple[Tensor, Tensor]:
        """Return the training images, those of the first half twice."""
        return _halves(*super().load_pool())

    def load_test(self) -> tuple[Tensor, Tensor]:
        """Return the test images, likewise."""
        return _halves(*super().load_test())


def _halves(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Number the classes of the second half from 10 on, and append the first half with classes from 20 on."""
    second = torch.zeros(len(labels), dtype=torch.bool)
    for kind in range(10):
        second[(labels == kind).nonzero().flatten()[1::2]] = True
    return (torch.cat([images, images[~second]]), torch.cat([labels + 10 * second, labels[~second] + 20]))
