"""Why a phase ended, in words."""

from typing import TYPE_CHECKING

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, Timer

if TYPE_CHECKING:
    from lit_aux.phases.trainer import PhaseTrainer


def stop_reason(trainer: "PhaseTrainer") -> str:
    """Say what ended the fit that has just run.

    Modules and callbacks that have a ``stop_reason`` speak for themselves; Lightning's own and the Trainer's
    limits are recognized.
    """
    told = getattr(trainer.lightning_module, "stop_reason", None)
    if isinstance(told, str):
        return told
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        reason = getattr(callback, "stop_reason", None)
        if isinstance(reason, str):
            return reason
        if isinstance(callback, EarlyStopping) and callback.stopped_epoch > 0:
            return f"early stopping: {callback.monitor} did not improve for {callback.patience} checks"
        if isinstance(callback, Timer) and (callback.time_remaining() or 0.0) <= 0 and callback._duration:
            return f"max_time: {callback._duration:.0f} s passed"
    if trainer.max_steps >= 0 and trainer.global_step >= trainer.max_steps:
        return f"max_steps: {trainer.max_steps} reached"
    processed: int = trainer.current_epoch
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= processed:
        return f"max_epochs: {trainer.max_epochs} reached"
    return "stopped by a callback" if trainer.should_stop else "no training batches"
