"""Scans of handwritten digits that come with scikit-learn."""

import torch
from torch import Tensor

from lit_aux.data.base import TaskDataModule


class DigitsDataModule(TaskDataModule):
    """1,797 gray scans of handwritten digits, 8 x 8 pixels, in ten classes: scikit-learn's ``load_digits``.

    Nothing is downloaded. Every fifth image of a class is a test image, always the same ones; the others are
    the pool that training and validation images are drawn from. Images are resized to 16 x 16 by default.
    The options are those of :class:`TaskDataModule`.

    Example:
        >>> from lit_aux.data import DigitsDataModule
        >>> data = DigitsDataModule(classes={"main": 2, "aux": 8}, n_main=20, n_aux=100)
        >>> data.num_classes
        {'main': 2, 'aux': 8}
        >>> data.prepare_data()
        >>> data.setup("fit")
        >>> x, y = next(iter(data.train_dataloader()))["main"]
        >>> x.shape
        torch.Size([20, 3, 16, 16])
    """

    default_size = 16

    @property
    def class_names(self) -> list[str]:
        """The digits."""
        return [str(digit) for digit in range(10)]

    def pool_counts(self) -> list[int]:
        """Return the number of pool images of every digit."""
        return [143, 146, 142, 147, 145, 146, 145, 144, 140, 144]

    def load_pool(self) -> tuple[Tensor, Tensor]:
        """Return four of five images."""
        return self._load(test=False)

    def load_test(self) -> tuple[Tensor, Tensor]:
        """Return every fifth image of a class."""
        return self._load(test=True)

    @staticmethod
    def _load(test: bool) -> tuple[Tensor, Tensor]:
        from sklearn.datasets import load_digits

        data = load_digits()
        images = torch.from_numpy(data.images).mul(255 / 16).round().byte().unsqueeze(1)
        labels = torch.from_numpy(data.target).long()
        is_test = torch.zeros(len(labels), dtype=torch.bool)
        for digit in range(10):
            is_test[(labels == digit).nonzero().flatten()[4::5]] = True
        chosen = is_test if test else ~is_test
        return images[chosen], labels[chosen]
