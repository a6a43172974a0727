"""What a module has to offer so that callbacks can evaluate its tasks, and how they do so without a trace."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.data import extract_batch_size
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from lit_aux.callbacks._no_trace import attached, fixed_rng, forgetting, traceless
from lit_aux.callbacks.probe import transfer
from lit_aux.callbacks.task_data import labels_in
from lit_aux.errors import ConfigurationError
from lit_aux.functional.batchnorm import batchnorm_layers, reestimate_batchnorm, uncompiled
from lit_aux.trees import concatenated, form_of

Probe = Mapping[str, Any]
"""``{task: (x, y)}``."""
_BATCH = 256


class TaskModel(Protocol):
    """A module whose tasks can be evaluated one by one; all of the project's modules are such.

    Neither method may log, count or change anything. ``readout_parameters`` is needed only where no
    ``shared`` patterns are given; ``task_metrics(task)``, a dictionary of fresh torchmetrics, only by those
    who want other metrics than accuracy.

    Targets may be missing: NaN, and the class numbers -100 and the ``ignore_index`` of the module's losses.
    Examples without any target are left out. Modules whose missing targets look otherwise say so by
    ``task_labels(task, y)``, bool in the shape of y. A loss counts, beside those of other batches, by its
    number of targets; where that is not what it divides by, ``task_mean(task, outputs, y)`` returns the mean
    and what it divides by. ``task_score(task, metric, outputs, y)`` replaces ``metric.update(outputs, y)``.
    """

    def task_outputs(self, task: str, x: Any) -> Tensor:
        """Return the outputs (logits, for classification) of one task on inputs of a batch."""

    def task_loss(self, task: str, outputs: Tensor, y: Any) -> Tensor:
        """Return the loss of one task, a scalar: the mean over the batch."""

    def readout_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters that are no task's but its own: everything else is shared."""


def task_model(module: LightningModule, user: str) -> TaskModel:
    """Return a module as a :class:`TaskModel`.

    Args:
        module: The module of a fit.
        user: Who needs it, for the error.

    Raises:
        ConfigurationError: If it lacks a method, or its network is a student.
    """
    if getattr(module, "students", None) is not None:
        raise ConfigurationError(f"{user}: students train replicas, not tasks; leave this callback out")
    missing = [name for name in ("task_outputs", "task_loss") if not callable(getattr(module, name, None))]
    if missing:
        raise ConfigurationError(
            f"{user}: {type(module).__name__} has no {missing[0]}; give it task_outputs(task, x) and "
            "task_loss(task, outputs, y), see lit_aux.callbacks.TaskModel"
        )
    return cast(TaskModel, module)


def mean_loss(
    model: TaskModel, module: LightningModule, task: str, outputs: Tensor, y: Any
) -> tuple[float, float]:
    """Return the mean loss of a batch and what it is divided by."""
    own = getattr(model, "task_mean", None)
    if own is not None:
        mean, size = own(task, outputs, y)
        return float(mean), float(size)
    loss = float(model.task_loss(task, outputs, y).double())
    return loss, float(labels_in(module, y, task).sum()) if isinstance(y, Tensor) else len(y)


@contextmanager
def undisturbed(
    trainer: Trainer, module: LightningModule, model: TaskModel, probe: Probe | None = None
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
    device = trainer.strategy.root_device.type
    with (
        traceless(trainer, module),
        fixed_rng(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device, enabled=False),
    ):
        module.eval()
        if probe and getattr(module, "reestimate_batchnorm", False):
            _reestimate(trainer, module, model, probe)
        yield


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


def _reestimate(trainer: Trainer, module: LightningModule, model: TaskModel, probe: Probe) -> None:
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
            if alike and len({form_of(x) for x in parts.values()}) == 1:
                parts = {next(iter(parts)): concatenated(list(parts.values()))}
            yield parts

    def forward(batch: dict[str, Any]) -> int:
        for task, x in batch.items():
            with forgetting(module):
                model.task_outputs(task, x)
        return sum(extract_batch_size(x) for x in batch.values())

    samples = getattr(module, "batchnorm_samples", 1000)
    reestimate_batchnorm(module, batches(), forward, max_samples=samples)


def _reached(
    trainer: Trainer, module: LightningModule, model: TaskModel, task: str, batch: Any
) -> set[nn.Module]:
    """Return the batch-normalization layers that run for a task, from a pass on one example."""
    found: set[nn.Module] = set()
    if layers := batchnorm_layers(module):
        hooks = (layer.register_forward_pre_hook(lambda layer, _: found.add(layer)) for layer in layers)
        with attached(hooks), torch.no_grad(), uncompiled(), forgetting(module):
            model.task_outputs(task, on_device(trainer, module, batch, slice(0, 1))[0])
    return found
