"""Looking at a network in the middle of its training without leaving a trace."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.data import extract_batch_size
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from lit_aux.callbacks._traceless import traceless
from lit_aux.callbacks.probe import fixed_rng, transfer
from lit_aux.callbacks.task_model import TaskModel
from lit_aux.functional.batchnorm import batchnorm_layers, reestimate_batchnorm, uncompiled

_BATCH = 256


@contextmanager
def undisturbed(
    trainer: Trainer, module: LightningModule, model: TaskModel, probe: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Put a module in eval mode, in its weights' own precision and with gradients; then put all back.

    Modes, buffers (running statistics), attributes (counters, states of metrics), random states and gradients
    are afterwards what they were, bit for bit, also after an error; what is logged meanwhile is dropped. The
    caller must not call ``backward``, but ``torch.autograd.grad``, and must
    put back the weights that it changes.

    Args:
        trainer: The Trainer, inside a fit.
        module: Its module.
        model: The same, as one whose tasks can be evaluated.
        probe: Examples ``{task: (x, y)}`` from which statistics of batch normalization are estimated anew,
            where the module's ``reestimate_batchnorm`` is true; running averages lag behind the weights.
    """
    modes = [(layer, layer.training) for layer in module.modules()]
    device = trainer.strategy.root_device.type
    module.eval()
    try:
        with (
            traceless(trainer, module),
            fixed_rng(),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device, enabled=False),
        ):
            if probe and getattr(module, "reestimate_batchnorm", False):
                _reestimate(trainer, module, model, probe)
            yield
    finally:
        for layer, mode in modes:
            layer.training = mode


def on_device(trainer: Trainer, module: LightningModule, batch: Any, rows: Any = None) -> Any:
    """Bring a batch, or some rows of it, to the device and precision of the module.

    The module's batch transfer hooks are applied as in evaluation, so that whoever augments there does not.

    Args:
        trainer: The Trainer, inside a fit.
        module: Its module.
        batch: ``(x, y)`` in CPU memory.
        rows: An index of the first dimension: a slice or an index tensor; all rows by default.
    """
    if rows is not None:
        batch = apply_to_collection(batch, Tensor, lambda tensor: tensor[rows])
    stage = trainer.state.stage
    trainer.validating = True
    try:
        return transfer(trainer, module, batch)
    finally:
        trainer.state.stage = stage


def _reestimate(
    trainer: Trainer, module: LightningModule, model: TaskModel, probe: Mapping[str, Any]
) -> None:
    """Estimate statistics from batches that mix the tasks in equal shares, as training batches do.

    Tasks take passes of their own where some layers are one task's alone, or where inputs differ in shape.
    """
    sizes = {task: len(y) for task, (_, y) in probe.items()}
    share = max(2, _BATCH // len(probe))
    reached = {task: _reached(trainer, module, model, task, batch) for task, batch in probe.items()}
    alike = len({frozenset(layers) for layers in reached.values()}) == 1

    def batches() -> Iterator[dict[str, Any]]:
        for start in range(0, max(sizes.values()), share):
            parts = {
                task: on_device(trainer, module, batch, slice(start, start + share))[0]
                for task, batch in probe.items()
                if start < sizes[task]
            }
            tensors = [x for x in parts.values() if isinstance(x, Tensor)]
            if alike and len(tensors) == len(parts) and len({x.shape[1:] for x in tensors}) == 1:
                parts = {next(iter(parts)): torch.cat(tensors)}
            yield parts

    def forward(batch: dict[str, Any]) -> int:
        for task, x in batch.items():
            model.task_outputs(task, x)
        return sum(extract_batch_size(x) for x in batch.values())

    samples = getattr(module, "batchnorm_samples", 1000)
    reestimate_batchnorm(module, batches(), forward, max_samples=samples)


def _reached(
    trainer: Trainer, module: LightningModule, model: TaskModel, task: str, batch: Any
) -> set[nn.Module]:
    """Return the batch-normalization layers that run for a task, from a pass on one example."""
    found: set[nn.Module] = set()
    hooks = [
        layer.register_forward_pre_hook(lambda layer, _: found.add(layer))
        for layer in batchnorm_layers(module)
    ]
    try:
        if hooks:
            with torch.no_grad(), uncompiled():
                model.task_outputs(task, on_device(trainer, module, batch, slice(0, 1))[0])
    finally:
        for hook in hooks:
            hook.remove()
    return found
