"""Checkpoints: one file a phase, always the newest state; written whole or not at all, checked when read."""

import time
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch as pl
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.callbacks import Checkpoint
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lit_aux.phases.phased import phased
from lit_aux.phases.state import check_archive, load_plainly
from lit_aux.pickles import write_weights
from lit_aux.ranges import Range, check

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class SavedPhase:
    """A phase's file, as loggers that keep checkpoints (``log_model``) look at Lightning's ModelCheckpoint.

    Args:
        path: The file.
    """

    monitor = best_model_score = current_score = None
    mode, save_top_k, save_last, save_weights_only = "min", 1, True, False

    def __init__(self, path: str) -> None:
        self.best_model_path = self.last_model_path = path
        self.best_k_models: dict[str, Any] = {}


class _Held(NamedTuple):
    """A checkpoint that nobody has looked at yet, in memory."""

    trainer: pl.Trainer
    path: Path
    content: dict[str, Any]


_RATE = 2e8  # bytes a second that a disk takes, before it has been seen: a slow one's
_WAIT = 30.0  # seconds until the first file of a phase at the latest, once an epoch has ended
_MOST_HELD = 1 << 29  # bytes that are held in memory meanwhile


class PhaseCheckpoint(Checkpoint):
    """Writes ``<dirpath>/<phase>.ckpt`` as a phase goes on, and once more when it has ended.

    The file is replaced atomically at the end of an epoch, whenever saving costs less than ``budget`` of the
    time since the last save, or since the phase began: every epoch where epochs are long, less often where an
    epoch is one step. Until the first one is due, 30 seconds at most, the state of the first epoch's end is
    held in memory; an exception, a signal that Lightning handles and whoever reads ``best_model_path`` have
    it written. Of several processes, and of more than half a gigabyte, nothing is held: the first epoch is
    saved.

    Loggers are told of a file: W&B with ``log_model=True`` keeps the file of each phase's end, with ``"all"``
    every one that is written.

    Args:
        dirpath: Folder of the files; ``checkpoints`` in the run's folder by default.
        budget: Largest share of the training time that saving may take. 1 saves every epoch.

    Raises:
        ConfigurationError: If ``budget`` is not in (0, 1].
    """

    def __init__(self, dirpath: str | None = None, budget: float = 0.02) -> None:
        check("budget", budget, Range(above=0, most=1))
        self.dirpath, self.budget = dirpath, budget
        self._path = ""
        self._saved_at, self._cost = 0.0, 0.0
        self._begun = False  # whether a file of the phase has been written, or held
        self._held: _Held | None = None
        self._saved: SavedPhase | None = None

    @property
    def best_model_path(self) -> str:
        """The file of the phase, which is there from now on; empty where there is none yet."""
        self._write_held()
        return self._path

    @best_model_path.setter
    def best_model_path(self, path: str) -> None:
        """Take what Lightning brings from a process that it has started."""
        self._path = path

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget the path of the phase before."""
        if stage == "fit":
            self._path, self._held = "", None

    def path(self, trainer: pl.Trainer, phase: str) -> Path:
        """Return the file of a phase; to be called on every rank."""
        root = trainer.log_dir if self.dirpath is None else self.dirpath
        folder = Path(root or trainer.default_root_dir)
        return (folder / "checkpoints" if self.dirpath is None else folder) / f"{phase}.ckpt"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._saved_at, self._cost = time.monotonic(), 0.0
        self._begun, self._held = False, None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if it is cheap enough by now."""
        elapsed = time.monotonic() - self._saved_at
        hold = False
        if not self._begun and _can_hold(trainer):
            size = _size(trainer, pl_module)
            self._cost, hold = size / _RATE, size <= _MOST_HELD
        due = self._cost <= self.budget * elapsed or self.budget >= 1
        if self._held is not None:
            due = due or elapsed >= _WAIT
        # One rank's clock decides, since saving is a collective operation.
        if trainer.strategy.broadcast(due or not (self._begun or hold)):
            self.save(trainer, pl_module)
        elif hold:
            self._hold(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the phase's final state."""
        self.save(trainer, pl_module)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Write what is only held, so that the run can go on from there."""
        self._write_held()

    def save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the phase's file."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        start = time.monotonic()
        path = self._file(trainer, pl_module)
        trainer.save_checkpoint(path)
        self._tell(trainer, path)
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - start

    def _file(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Path:
        phase = phased(pl_module).phase
        return self.path(trainer, "last" if phase is None else phase.name)

    def _tell(self, trainer: pl.Trainer, path: Path) -> None:
        """Note that a file is there; tell the loggers."""
        self._begun, self._held, self._path = True, None, str(path)
        if self._saved is None or self._saved.best_model_path != str(path):
            self._saved = SavedPhase(str(path))
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(self._saved)  # type: ignore[arg-type]

    def _hold(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep a copy of what a file would hold: callbacks, module and data are asked as when it is saved."""
        content = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        self._begun, self._held = True, _Held(trainer, self._file(trainer, pl_module), content)
        try:
            self._held = self._held._replace(content=_copied(content))
        except Exception:  # pickle takes some objects that cannot be copied
            self._write_held()

    def _write_held(self) -> None:
        """Write what is held, if anything is."""
        if self._held is None:
            return
        trainer, path, content = self._held
        self._held = None
        trainer.strategy.save_checkpoint(content, path)
        self._tell(trainer, path)


def _can_hold(trainer: pl.Trainer) -> bool:
    """Whether this process alone writes a plain file, and is the one that hears of exceptions."""
    strategy = trainer.strategy
    plain = type(strategy._checkpoint_io) is WholeCheckpointIO and strategy.launcher is None
    return plain and trainer.world_size == 1 and not trainer.fast_dev_run  # type: ignore[attr-defined]


def _copied(content: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a checkpoint, its tensors on the CPU; tied weights stay tied."""
    by_place: dict[Any, Tensor] = {}
    memo: dict[int, Any] = {}

    def remember(tensor: Tensor) -> Tensor:
        place = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device
        if place not in by_place:
            by_place[place] = tensor.detach().to("cpu", copy=True)
        memo[id(tensor)] = by_place[place]
        return tensor

    apply_to_collection(content, Tensor, remember)
    return deepcopy(content, memo)


def _size(trainer: pl.Trainer, module: pl.LightningModule) -> int:
    """Return the bytes of weights and optimizers."""
    states = [state for optimizer in trainer.optimizers for state in optimizer.state.values()]
    values = (value for state in states for value in state.values())
    tensors = [*module.parameters(), *module.buffers(), *(v for v in values if isinstance(v, Tensor))]
    return sum(tensor.nbytes for tensor in tensors)


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a file beside the one that it replaces, and reads what is not damaged.

    Lightning's own writes where ``$TMPDIR`` is and copies from there, which a kill may cut off in the middle
    of the only file. Addresses such as ``s3://`` are left to Lightning.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; the file is as before until all of it is on the disk."""
        if storage_options is not None or not _is_local_file_protocol(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(str(path).removeprefix("file://"))
        target.parent.mkdir(parents=True, exist_ok=True)
        write_weights(target, checkpoint)

    def load_checkpoint(
        self, path: _PATH, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint on the CPU.

        Raises:
            ConfigurationError: If it is missing, damaged or no checkpoint, or would run code though nobody
                said ``weights_only=False``.
        """
        if not _is_local_file_protocol(path):
            return super().load_checkpoint(path, weights_only=weights_only)
        target = str(path).removeprefix("file://")
        if weights_only is False:
            check_archive(target, "ckpt_path")
            return super().load_checkpoint(target, weights_only=False)
        # not mapped: what is restored is changed in place, and outlives the file
        content: dict[str, Any] = load_plainly(target, mmap=False)
        return content


def write_checkpoints_atomically(trainer: "Trainer") -> None:
    """Let a Trainer write its checkpoints so, unless it or its strategy has a way of its own."""
    strategy = trainer.strategy
    if strategy._checkpoint_io is None:
        with suppress(NotImplementedError):  # DeepSpeed's and FSDP's shards are folders that they write
            strategy.checkpoint_io = WholeCheckpointIO()
