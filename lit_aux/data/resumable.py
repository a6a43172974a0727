"""Loaders whose position can be saved and restored."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Generic, Self, TypeVar

from lit_aux.errors import ConfigurationError

Batch = TypeVar("Batch")


class ResumableLoader(ABC, Generic[Batch]):
    """An iterable over batches that knows its epoch and its position in it.

    Lightning leaves iterables that are no ``DataLoader`` as they are, calls
    ``loader.sampler.set_epoch(epoch)`` before each training epoch and keeps ``state_dict()`` in its
    checkpoints, so that a run goes on in the middle of an epoch with the very batches that were left.
    Lightning creates the iterator *before* it says which epoch it is: nothing here is looked up until the
    first batch is asked for.

    Outside of Lightning each pass is one epoch: iterating again moves on to the next one.
    """

    batch_sampler: None = None
    """Lightning looks for it wherever there is a ``sampler``."""

    def __init__(self) -> None:
        self._epoch = 0
        self._position = 0
        self._pending = True  # the next pass begins at (_epoch, _position) instead of at the next epoch

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of batches per epoch on this process."""

    @abstractmethod
    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the batches of ``epoch`` from number ``start`` on."""

    @property
    def sampler(self) -> Self:
        """The object whose ``set_epoch`` Lightning calls: the loader itself."""
        return self

    @property
    def epoch(self) -> int:
        """The epoch of the present pass, or of the next one when none has begun."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass is; keeps a position that was just restored for that same epoch."""
        if epoch != self._epoch or not self._pending:
            self._epoch, self._position, self._pending = epoch, 0, True

    def __iter__(self) -> Iterator[Batch]:
        if not self._pending:
            self._epoch, self._position = self._epoch + 1, 0
        self._pending = False
        start = self._position
        for number, batch in enumerate(self._batches(self._epoch, start), start + 1):
            self._position = number
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return epoch, number of batches handed out in it, and number of batches per epoch."""
        return {"epoch": self._epoch, "position": self._position, "length": len(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            ConfigurationError: If the state is of the middle of an epoch with another number of batches.
        """
        position, length = int(state["position"]), int(state["length"])
        if 0 < position < length and length != len(self):
            raise ConfigurationError(
                f"--ckpt_path: it was saved after batch {position} of {length}, but an epoch now has "
                f"{len(self)} batches; resume with the same data options, or from the end of an epoch"
            )
        self._epoch, self._position, self._pending = int(state["epoch"]), min(position, len(self)), True
