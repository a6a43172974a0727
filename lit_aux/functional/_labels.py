"""Which targets are there and which are missing."""

import torch
from torch import Tensor

MISSING = -100
"""The class number that stands for no label, as in torch's losses."""


def known_labels(y: Tensor, ignore_index: int | None = None) -> Tensor:
    """Return which elements of targets are there, bool in the shape of ``y``.

    Missing are NaN among floats, and among whole numbers -100 and ``ignore_index``.
    """
    if y.is_floating_point():
        return ~y.isnan()
    known = torch.ones_like(y, dtype=torch.bool) if y.dtype == torch.bool else y != MISSING
    return known if ignore_index is None else known & (y != ignore_index)
