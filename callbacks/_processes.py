"""What processes tell each other: sums, and what callbacks measured in those that a strategy started."""

import os
import pickle
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar, cast
from weakref import WeakKeyDictionary, finalize

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from torch import Tensor

T = TypeVar("T")

# Beside the objects, not in them: a callback's attributes say what it does, and nothing of where it runs.
_TICKETS: "WeakKeyDictionary[Callback, tuple[int, str]]" = WeakKeyDictionary()


class Brought(Generic[T]):
    """An attribute of a :class:`BringsBack` that comes back."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> T:
        if instance is None:
            return cast(T, self)
        fetch(instance)
        if self.name not in vars(instance):
            raise AttributeError(f"{owner.__name__!r} object has no attribute {self.name!r}")
        return cast(T, vars(instance)[self.name])

    def __set__(self, instance: Any, value: T) -> None:
        vars(instance)[self.name] = value


class BringsBack(Callback):
    """A callback whose :class:`Brought` attributes are the same to whoever called ``fit``, wherever it ran.

    Strategies that spawn or fork (``ddp_spawn``, ``ddp_notebook``) train copies of all callbacks in other
    processes. There the first process writes the attributes to a file as the fit is torn down; the caller's
    callback reads them when they are next asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        path = str(Path(tempfile.gettempdir()) / f"lit_aux_{uuid.uuid4().hex}")
        _TICKETS[self] = (os.getpid(), path)
        finalize(self, _discard, os.getpid(), path)  # what nobody asked for

    def __getstate__(self) -> dict[str, Any]:
        """Send the way back along."""
        return {**vars(self), "_ticket": _TICKETS.get(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take it."""
        ticket = state.pop("_ticket", None)
        vars(self).update(state)
        if ticket is not None:
            _TICKETS[self] = ticket

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write down what is to come back."""
        home, path = _TICKETS.get(self, (os.getpid(), ""))
        started = isinstance(trainer.strategy.launcher, _MultiProcessingLauncher) and home != os.getpid()
        if stage == "fit" and started and trainer.is_global_zero:
            kind = type(self)
            write({n: v for n, v in vars(self).items() if isinstance(getattr(kind, n, None), Brought)}, path)


def fetch(callback: Callback) -> None:
    """Take what another process left for a callback of this one, if there is anything."""
    home, path = _TICKETS.get(callback, (0, ""))
    if home == os.getpid() and os.path.exists(path):
        vars(callback).update(read(path))


def _discard(home: int, path: str) -> None:
    """Remove what another process left, in the process that it was for."""
    if home == os.getpid():
        with suppress(OSError):
            os.unlink(path)


def write(content: Any, path: str) -> None:
    """Write a file that only its owner may read; it appears whole."""
    part = f"{path}.part"
    with suppress(FileNotFoundError):
        os.unlink(part)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        pickle.dump(content, file)
    os.replace(part, path)


def read(path: str) -> Any:
    """Read such a file and remove it."""
    with open(path, "rb") as file:
        content = pickle.load(file)
    os.unlink(path)
    return content


def total_over_processes(trainer: Trainer, tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes, on the CPU; every process must call this."""
    if trainer.world_size == 1:  # also where the device has no float64
        return tensor.detach().cpu()
    moved = tensor.detach().clone().to(trainer.strategy.root_device)  # which is summed in place
    return torch.as_tensor(trainer.strategy.reduce(moved, reduce_op="sum")).cpu()
