"""One checkpoint file a phase, always the newest state."""

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from lit_aux.errors import ConfigurationError


class PhaseCheckpoint(Checkpoint):
    """Writes ``<dirpath>/<phase>.ckpt`` as a phase goes on, and once more when it has ended.

    The file is replaced atomically at the end of an epoch, whenever saving has cost less than ``budget`` of
    the time since the last save: every epoch where epochs are long, less often where an epoch is one step.

    Args:
        dirpath: Folder of the files; ``checkpoints`` in the run's folder by default.
        budget: Largest share of the training time that saving may take. 1 saves every epoch.

    Raises:
        ConfigurationError: If ``budget`` is not in (0, 1].
    """

    def __init__(self, dirpath: str | None = None, budget: float = 0.02) -> None:
        if not 0 < budget <= 1:
            raise ConfigurationError(f"budget: {budget} must be above 0 and at most 1")
        self.dirpath = dirpath
        self.budget = budget
        self.best_model_path = ""
        self._saved_at = 0.0
        self._cost = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget the path of the phase before."""
        if stage == "fit":
            self.best_model_path = ""

    def path(self, trainer: pl.Trainer, phase: str) -> Path:
        """Return the file of a phase; to be called on every rank."""
        root = trainer.log_dir if self.dirpath is None else self.dirpath
        folder = Path(root or trainer.default_root_dir)
        return (folder / "checkpoints" if self.dirpath is None else folder) / f"{phase}.ckpt"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._saved_at, self._cost = time.monotonic(), 0.0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if it is cheap enough by now."""
        elapsed = time.monotonic() - self._saved_at
        # One rank's clock decides, since saving is a collective operation.
        if trainer.strategy.broadcast(self._cost <= self.budget * elapsed or self.budget >= 1):
            self.save(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the phase's final state."""
        self.save(trainer, pl_module)

    def save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the phase's file."""
        if getattr(trainer, "fast_dev_run", False):
            return
        start = time.monotonic()
        phase: Any = getattr(pl_module, "phase", None)
        path = self.path(trainer, "last" if phase is None else phase.name)
        trainer.save_checkpoint(path)
        self.best_model_path = str(path)
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - start
