"""First phases that were trained before, found again by what went into them."""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import (
    Checkpoint,
    LearningRateMonitor,
    ModelSummary,
    ProgressBar,
)
from torch import Tensor

from lit_aux.files import whole
from lit_aux.phases.phase import Phase
from lit_aux.phases.state import read_checkpoint

_PRIMITIVE = (int, float, str, bool, type(None))
_WITHOUT_EFFECT = ("PhaseKeeper", "RepresentationDimensionality", "SaveConfigCallback")


class PhaseStore:
    """Finished phases in a folder, one file each, named by a hash of configuration, data and seed.

    Several processes may share the folder: one of those that ask for the same phase trains it, the others
    wait and load it.

    Args:
        root: The folder; made when the first phase is stored.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._lock: FileLock | None = None

    def path(self, key: str) -> Path:
        """Return the file in which the phase of this key is, or would be."""
        return self.root / f"{key}.ckpt"

    def claim(self, key: str) -> str:
        """Ask for a phase without waiting.

        Returns:
            ``"found"``: it is there. ``"claimed"``: it is this process's to train; call :meth:`release` in
            the end. ``"busy"``: another process trains it; ask again.
        """
        if self.path(key).is_file():
            return "found"
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / f"{key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return "busy"
        if self.path(key).is_file():  # stored between the look and the lock
            lock.release()
            return "found"
        self._lock = lock
        return "claimed"

    def release(self) -> None:
        """Let others train the phase that this process claimed, if it did not store it."""
        if self._lock is not None:
            # Whoever opened the file meanwhile and gets its lock looks for the phase again, or trains it too.
            with suppress(OSError):
                Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()
            self._lock = None
            with suppress(OSError):  # not empty: other phases are stored
                self.root.rmdir()

    def save(self, key: str, content: Mapping[str, Any]) -> None:
        """Store a finished phase, whole or not at all."""
        with whole(self.path(key)) as partial:
            torch.save(dict(content), partial)

    def load(self, key: str) -> dict[str, Any]:
        """Load a stored phase on the CPU."""
        return read_checkpoint(self.path(key), "phase_store")


def phase_key(trainer: pl.Trainer, module: pl.LightningModule, phase: Phase, seed: int, data: str) -> str:
    """Hash everything that decides how a phase ends.

    The weights at its start, the layers and their options, the optimizer and the schedule as built, the
    limits, the data, the seed, and the versions of the libraries. What concerns later phases only does not
    enter, so that all runs that differ in those share the phase.

    Args:
        trainer: In ``on_fit_start``: optimizers are built and limits set.
        module: At the start of the phase.
        phase: The phase.
        seed: The seed of the phase.
        data: A fingerprint of the phase's training data.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(trainer, module, phase):
        digest.update(repr(part).encode())
    digest.update(f"{seed} {data}".encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return a tensor's dtype, shape and values as bytes."""
    plain = tensor.detach().cpu().contiguous()
    head = f"{plain.dtype}{tuple(plain.shape)}".encode()
    return head + (plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")


def _parts(trainer: pl.Trainer, module: pl.LightningModule, phase: Phase) -> Iterable[object]:
    """Yield what is not a tensor."""
    import lightning

    import lit_aux

    yield lit_aux.__version__, torch.__version__, lightning.__version__
    later: frozenset[str] = getattr(module, "later_phase_options", frozenset())
    for name, layer in module.named_modules():
        options = _primitives(layer, later if layer is module else ())
        yield name, type(layer).__module__, type(layer).__qualname__, options
    yield _primitives(phase), phase.tasks, phase.trainable, phase.task_weights, phase.stop_on
    for optimizer in trainer.optimizers:
        groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
        yield type(optimizer).__qualname__, groups
    for config in trainer.lr_scheduler_configs:
        state = {k: v for k, v in config.scheduler.state_dict().items() if not callable(v)}
        yield type(config.scheduler).__qualname__, config.interval, config.frequency, state
    yield (trainer.fit_loop.max_epochs, trainer.fit_loop.min_epochs, trainer.max_steps, trainer.min_steps)
    yield (trainer.precision, trainer.world_size, trainer.accumulate_grad_batches, trainer.gradient_clip_val)
    yield (trainer.gradient_clip_algorithm, trainer.limit_train_batches)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        passive = isinstance(callback, Checkpoint | LearningRateMonitor | ModelSummary | ProgressBar)
        if not passive and type(callback).__name__ not in _WITHOUT_EFFECT:
            yield type(callback).__qualname__, _primitives(callback)


def _primitives(obj: object, skip: Iterable[str] = ()) -> list[tuple[str, object]]:
    """Return an object's public plain attributes; modes and counters of a fit are not configuration."""
    return sorted(
        (name, value)
        for name, value in vars(obj).items()
        if isinstance(value, _PRIMITIVE)
        and not name.startswith("_")
        and name not in skip
        and name != "training"
    )
