"""Which fits can be trained in a batch."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelSummary, ProgressBar
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from lit_aux.callbacks import RepresentationDimensionality, StopAtTrainingLoss, WeightRescaling
from lit_aux.identity.encoder import HOOKS
from lit_aux.modules import PretrainFinetuneModule, SingleTaskModule
from lit_aux.phases.callback_list import PhaseKeeper
from lit_aux.phases.checkpoint import PhaseCheckpoint

_CALLBACKS = (PhaseKeeper, PhaseCheckpoint, StopAtTrainingLoss, WeightRescaling, RepresentationDimensionality)
_SHOWN = (ModelSummary, ProgressBar, SaveConfigCallback)
_TRANSFERS = ("on_before_batch_transfer", "on_after_batch_transfer", "transfer_batch_to_device")


def why_alone(trainer: Trainer) -> str | None:
    """Say why the phase of a fit that has begun cannot be trained in a batch; None where nothing is known.

    Args:
        trainer: The Trainer, before the first step of its last phase.
    """
    module: Any = trainer.lightning_module
    if type(module) not in (PretrainFinetuneModule, SingleTaskModule) or module.trains_itself:
        return f"{type(module).__name__} of this network is not trained in a batch"
    if not isinstance(trainer.strategy, SingleDeviceStrategy):
        return f"{type(trainer.strategy).__name__} is no strategy of one device"
    if trainer.precision not in ("32-true", "64-true"):
        return f"precision {trainer.precision}"
    if trainer.accumulate_grad_batches != 1:
        return f"accumulate_grad_batches {trainer.accumulate_grad_batches}"
    if trainer.fit_loop.epoch_progress.current.ready:
        return "it goes on from a checkpoint"
    return _of_phase(trainer, module) or _of_network(module.net)


def _of_phase(trainer: Trainer, module: Any) -> str | None:
    """Say what in the phase's options is not for a batch."""
    phase = module.phase
    for option in ("unfreeze", "lora", "restore_best"):
        if getattr(phase, option) is not None:
            return option
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if type(callback) not in _CALLBACKS and not isinstance(callback, _SHOWN):
            return f"callback {type(callback).__name__}"
    for optimizer in trainer.optimizers:
        if type(optimizer) not in (SGD, Adam, AdamW):
            return f"optimizer {type(optimizer).__name__}"
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    for hook in _TRANSFERS:
        if data is not None and is_overridden(hook, data):
            return f"data: {hook} of {type(data).__name__}"
    return None


def _of_network(net: nn.Module) -> str | None:
    """Say which part of a network is not for a batch."""
    for name, layer in net.named_modules():
        if layer._compiled_call_impl is not None or hasattr(layer, "_orig_mod"):
            return "the network is compiled"
        if any(getattr(layer, hooks, None) for hooks in HOOKS):
            return f"layer {name!r} has hooks"
        held = [key for key, value in vars(layer).items() if isinstance(value, Tensor)]
        if held:
            return f"layer {name!r} holds a tensor that is no buffer: {held[0]}"
        drops = "Drop" in type(layer).__name__ and max(_shares(layer), default=0.0) > 0
        if drops and layer.training:
            return f"layer {name!r} ({type(layer).__name__}) draws at random"
    return None


def _shares(layer: nn.Module) -> list[float]:
    given = [getattr(layer, option, 0) for option in ("p", "drop_prob")]
    return [float(share) for share in given if isinstance(share, int | float)]
