"""Tensors that are kept while there is room."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

from torch import Tensor


class TensorCache:
    """The tensors used last, within a limit of memory; the same key gives the same object while it is kept.

    Args:
        limit: Bytes that the kept tensors may take together. The newest one is kept even if it takes more.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes that the kept tensors take."""
        return sum(tensor.nbytes for tensor in self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Return the tensor of ``key``, making it if it is not there; drops those not used for longest."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        tensor = self._kept[key] = make()
        while len(self._kept) > 1 and self.nbytes > self.limit:
            self._kept.popitem(last=False)
        return tensor
