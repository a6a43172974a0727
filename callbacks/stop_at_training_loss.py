"""Stop a fit once the training loss is small enough."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor

from lit_aux.callbacks._processes import BringsBack, Brought
from lit_aux.callbacks.task_data import labels_in
from lit_aux.errors import ConfigurationError, check_known
from lit_aux.ranges import POSITIVE, check

_TARGETS = ("labels", "label", "targets", "target", "y")


class StopAtTrainingLoss(BringsBack):
    """Stops a fit at the end of the first epoch whose mean training loss is below a threshold.

    The mean is over samples (each step's ``outputs["loss"]`` weighted by its batch size) and over processes,
    with the losses as they were during the epoch, and costs no synchronisation with the device until the
    epoch ends. The Trainer's ``min_epochs`` and ``min_steps`` come first: a loss below the threshold in an
    earlier epoch does not count.

    Where a batch is ``(x, y)``, or has its targets under ``labels``, ``label``, ``targets``, ``target`` or
    ``y``, a step weighs as many targets as are there: NaN is missing, and so are the class numbers -100 and
    the ``ignore_index`` of the module's losses. A module may say it itself: its attribute ``step_loss``, the
    mean loss of the latest step and what that weighs, takes the place of both.

    Attributes:
        stop_reason: Why the fit was stopped, for people; None if this callback did not stop it.

    Args:
        threshold: Stop below this loss; finite and above 0.
        monitor: Names of logged metrics to compare instead of the mean loss, all of which must be below; they
            must be logged in training or validation steps.

    Raises:
        ConfigurationError: For a bad threshold; at the end of the first epoch for a metric nobody logs, or
            when the training step returns no loss.
    """

    stop_reason: Brought[str | None] = Brought()

    def __init__(self, threshold: float, *, monitor: str | list[str] | None = None) -> None:
        super().__init__()
        check("threshold", [threshold], POSITIVE)  # None is no threshold
        if monitor is not None and not monitor:
            raise ConfigurationError(
                f"monitor: {monitor!r} names no metric; leave it out for the training loss"
            )
        self.threshold = float(threshold)
        self.monitor = [monitor] if isinstance(monitor, str) else monitor
        self._reset()

    def _reset(self) -> None:
        """Forget everything about earlier fits."""
        self.stop_reason = None
        self._epochs = 0
        self._reset_epoch()

    def _reset_epoch(self) -> None:
        """Forget the losses so far."""
        self._total: Tensor | None = None
        self._size: Tensor | float = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch's sums so far (of this process), the epoch count and the reason."""
        total = 0.0 if self._total is None else float(self._total)
        size = float(self._size)
        return {"epochs": self._epochs, "reason": self.stop_reason, "total": total, "size": size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self._epochs, self.stop_reason = state_dict["epochs"], state_dict["reason"]
        self._total, self._size = None, state_dict["size"]
        if self._size:
            self._total = torch.tensor(state_dict["total"], dtype=torch.float64)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start afresh in every fit; a resume restores the state after this."""
        if stage == "fit":
            self._reset()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop again at once if the checkpoint was written by a run that had just been stopped."""
        if self.stop_reason is not None:
            trainer.should_stop = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the step's loss, on the device."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if self.monitor is not None or not isinstance(loss, Tensor):
            return
        # Lightning divides the loss of automatic optimization by the number of accumulated batches.
        mean = loss.detach() * (trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1)
        size: Tensor | float = _targets_in(batch, pl_module)
        own = getattr(pl_module, "step_loss", None)
        if isinstance(own, tuple) and len(own) == 2:
            mean, size = own
        term = mean.detach().to(_dtype(loss.device)) * size
        if isinstance(size, Tensor):
            term = torch.where(size > 0, term, 0)  # the mean over nothing is NaN
        self._total = term if self._total is None else self._total.to(term) + term
        self._size = self._size + size

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, on every process alike."""
        self._epochs += 1
        values = self._monitored(trainer) if self.monitor is not None else self._mean_loss(trainer)
        self._reset_epoch()
        if not all(value < self.threshold for value in values.values()) or not _may_stop(trainer):
            return
        found = ", ".join(f"{name} {_below(value, self.threshold)}" for name, value in values.items())
        epochs = f"{self._epochs} epoch{'s' if self._epochs > 1 else ''}"
        self.stop_reason = f"{found} < {self.threshold:g} after {epochs}"
        trainer.should_stop = True

    def _mean_loss(self, trainer: Trainer) -> dict[str, float]:
        """Return the epoch's mean loss over samples and processes."""
        device = trainer.strategy.root_device
        sums = torch.zeros(2, device=device, dtype=_dtype(device))
        sums[0], sums[1] = 0.0 if self._total is None else self._total.to(sums), self._size
        loss, size = torch.as_tensor(trainer.strategy.reduce(sums, reduce_op="sum")).tolist()
        if not size:
            raise ConfigurationError(
                "threshold: training_step returned no loss in a whole epoch; name logged metrics with monitor"
            )
        return {"training loss": loss / size}

    def _monitored(self, trainer: Trainer) -> dict[str, float]:
        """Return the monitored metrics, averaged over processes where they differ."""
        metrics = trainer.callback_metrics
        for name in self.monitor or []:
            check_known("monitor", name, metrics)
        # One process must not stop alone because its own value is below.
        device = trainer.strategy.root_device
        values = [metrics[name].detach().to(device, _dtype(device)) for name in self.monitor or []]
        mean = trainer.strategy.reduce(torch.stack(values), reduce_op="mean")
        return dict(zip(self.monitor or [], torch.as_tensor(mean).tolist(), strict=True))


def _targets_in(batch: Any, module: LightningModule) -> Tensor | float:
    """Return the number of targets in a batch that are there; its size where it is not known to have any."""
    found: Any = None
    if isinstance(batch, Mapping):
        found = next((batch[name] for name in _TARGETS if name in batch), None)
    elif isinstance(batch, tuple | list) and len(batch) == 2:
        found = batch[1]
    if not isinstance(found, Tensor) or not found.ndim:
        return extract_batch_size(batch)
    return labels_in(module, found).sum()


def _below(value: float, threshold: float) -> str:
    """Write a value with three digits, or as many as it takes to see that it is below the threshold."""
    texts = (f"{value:.{digits}g}" for digits in range(3, 18))
    return next((text for text in texts if float(text) < threshold), repr(value))


def _dtype(device: torch.device) -> torch.dtype:
    """Return the widest floating type of a device."""
    return torch.float32 if device.type == "mps" else torch.float64


def _may_stop(trainer: Trainer) -> bool:
    """Whether the Trainer has done the epochs and steps it was asked to do at least."""
    epochs = trainer.current_epoch + 1 >= (trainer.min_epochs or 0)
    return epochs and trainer.global_step >= (trainer.min_steps or 0)
