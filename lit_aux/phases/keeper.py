"""The callback that keeps a phase: its checkpoints' contents, its random state, its losses finite."""

from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lit_aux.errors import NonFiniteLossError
from lit_aux.phases.brought_back import bring_back
from lit_aux.phases.state import CHECKPOINT_KEY, random_state, restore_random_state

if TYPE_CHECKING:
    from lit_aux.phases.loop import PhaseLoop
    from lit_aux.phases.trainer import PhaseTrainer


class PhaseKeeper(Callback):
    """First of the callbacks in every fit of a :class:`~lit_aux.PhaseTrainer`; users never build one."""

    changes_training = False

    def __init__(self) -> None:
        self.trained = False
        self._random_state: dict[str, Any] | None = None
        self._bad: Tensor | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give each ModelCheckpoint a folder of the phase's own."""
        if stage != "fit":
            return
        self.trained, self._bad = False, None
        phase = cast("PhaseTrainer", trainer).phase_name
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ModelCheckpoint):
                root = trainer.log_dir or trainer.default_root_dir
                callback.dirpath = f"{callback.dirpath or f'{root}/checkpoints'}/{phase}"

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the phase from the store where it was trained before; see that a resumed run is the same."""
        phased = cast("PhaseTrainer", trainer)
        phased.check_resumed()
        phased.look_up_phase(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on from the random state of the checkpoint, after all that start-up has drawn."""
        self.trained = True
        if self._random_state is not None:
            restore_random_state(self._random_state)
            self._random_state = None
            if not cast("PhaseLoop", trainer.fit_loop).at_end:  # else no epoch begins, which would draw one
                self._restart_loaders(trainer)

    @staticmethod
    def _restart_loaders(trainer: pl.Trainer) -> None:
        """Let shuffling loaders draw their order from the restored state: they have drawn one at start-up."""
        loop = trainer.fit_loop
        loaders: Any = getattr(loop._combined_loader, "flattened", [])
        if loop._data_fetcher is not None and not all(hasattr(dl, "load_state_dict") for dl in loaders):
            iter(loop._data_fetcher)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note a loss that is not finite; look at once on the CPU, now and then where looking is slow."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            return
        bad = loss.detach().isfinite().logical_not()
        self._bad = bad if self._bad is None else self._bad | bad
        every = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if loss.device.type == "cpu" or trainer.global_step % every == 0:
            self._check(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look before anything is saved at the end of a validation."""
        self._check(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look before the epoch's checkpoint is saved."""
        self._check(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Settle the phase's ending and the network's statistics before anything is measured or saved."""
        cast("PhaseTrainer", trainer).settle_phase()
        refresh = getattr(pl_module, "refresh_batchnorm", None)
        if refresh is not None:
            refresh()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let the process that waits for this one know how the fit went."""
        if stage == "fit":
            bring_back(cast("PhaseTrainer", trainer))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write the phase and the random state; refuse to save weights that are not finite."""
        for name, parameter in pl_module.named_parameters():
            if not bool(parameter.detach().isfinite().all()):
                raise NonFiniteLossError(self._message(trainer, f"the weights {name!r} are not finite"))
        info = cast("PhaseTrainer", trainer).phase_info()
        checkpoint[CHECKPOINT_KEY] = {**info, "random_state": random_state()}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the random state, to be set when training starts, and whether training was to stop."""
        if trainer.training:
            self._random_state = checkpoint[CHECKPOINT_KEY]["random_state"]
            if checkpoint[CHECKPOINT_KEY].get("should_stop"):
                trainer.should_stop = True

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on from the random state of a checkpoint of the phase's end."""
        if self._random_state is not None and not self.trained:
            restore_random_state(self._random_state)
            self._random_state = None

    def _check(self, trainer: pl.Trainer) -> None:
        if self._bad is not None and bool(self._bad.item()):
            raise NonFiniteLossError(self._message(trainer, "the training loss is NaN or infinite"))
        self._bad = None

    def _message(self, trainer: pl.Trainer, what: str) -> str:
        phased = cast("PhaseTrainer", trainer)
        kept = phased.newest_checkpoint()
        remedy = "lower the learning rate or clip the gradients (--trainer.gradient_clip_val)"
        return (
            f"phase {phased.phase_name!r}, epoch {trainer.current_epoch}, step {trainer.global_step}: {what}"
            f"; {remedy}; last good checkpoint: {kept or 'none'}"
        )
