"""Which fits can be trained in a batch."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelSummary, ProgressBar
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from lit_aux.callbacks import RepresentationDimensionality, StopAtTrainingLoss, WeightRescaling
from lit_aux.identity.encoder import HOOKS, TENSOR_HOOKS
from lit_aux.modules import PretrainFinetuneModule, SingleTaskModule
from lit_aux.phases.callback_list import PhaseKeeper
from lit_aux.phases.checkpoint import PhaseCheckpoint

_CALLBACKS = (PhaseKeeper, PhaseCheckpoint, StopAtTrainingLoss, WeightRescaling, RepresentationDimensionality)
_SHOWN = (ModelSummary, ProgressBar, SaveConfigCallback)
_LOGGERS = (CSVLogger, TensorBoardLogger)  # others may have one run a process
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
    return _of_phase(trainer, module) or _of_network(module.net) or _of_tensors(module)


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
    for logger in trainer.loggers:
        if not isinstance(logger, _LOGGERS):
            return f"logger {type(logger).__name__}"
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
        if getattr(layer, "padding_idx", None) is not None and any(
            p.requires_grad for p in layer.parameters()
        ):
            return f"layer {name!r} has a padding_idx, whose gradient torch.func does not leave out"
        drops = "Drop" in type(layer).__name__ and max(_shares(layer), default=0.0) > 0
        if drops and layer.training:
            return f"layer {name!r} ({type(layer).__name__}) draws at random"
    return None


def _of_tensors(module: nn.Module) -> str | None:
    """Say which parameter or buffer is not for a batch."""
    net: Any = module.net
    own = {id(p) for p in net.parameters()}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and id(parameter) not in own:
            return f"{name!r} trains and is no part of the network"
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    memory: dict[int, str] = {}
    for name, tensor in tensors.items():
        if any(getattr(tensor, hooks, None) for hooks in TENSOR_HOOKS):
            return f"parameter {name!r} has hooks"
        if type(tensor) not in (nn.Parameter, Tensor) or tensor.layout != torch.strided:
            return f"{name!r} is no plain tensor"
        if tensor.numel() and (other := memory.setdefault(tensor.untyped_storage().data_ptr(), name)) != name:
            return f"{name!r} and {other!r} share memory"
        if any(stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)):
            return f"{name!r} has several elements in one place"
    return None


def _shares(layer: nn.Module) -> list[float]:
    given = [getattr(layer, option, 0) for option in ("p", "drop_prob")]
    return [float(share) for share in given if isinstance(share, int | float)]
