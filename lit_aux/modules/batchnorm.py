"""Batch-normalization statistics that belong to the weights as they are, on every process."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lit_aux.callbacks._processes import total_over_processes
from lit_aux.callbacks.probe import training_batches, transfer
from lit_aux.functional.batchnorm import batchnorm_layers, reestimate_batchnorm
from lit_aux.modules.evaluation_steps import present


def moving_layers(net: nn.Module) -> list[_BatchNorm]:
    """Return the batch-normalization layers whose statistics move in this phase."""
    return [
        layer
        for layer in batchnorm_layers(net)
        if layer.training or any(p.requires_grad for p in layer.parameters())
    ]


@torch.no_grad()
def reestimate(trainer: Trainer, module: Any, layers: list[_BatchNorm], samples: int) -> None:
    """Re-estimate the statistics of layers on the phase's training data.

    Args:
        trainer: In a fit.
        module: Its module, with ``net``.
        layers: The layers.
        samples: Training images to use, over all processes.
    """
    tasks = [] if module.phase is None else list(module.phase.tasks)
    each = max(2, samples // trainer.world_size)

    def forward(batch: Any) -> int:
        inputs = {task: x for task, (x, _) in present(transfer(trainer, module, batch)).items()}
        with trainer.precision_plugin.forward_context():
            module.net.forward_tasks(inputs)
        return sum(len(x) for x in inputs.values())

    with isolate_rng():
        reestimate_batchnorm(
            module.net,
            of_all_tasks(training_batches(trainer), tasks, each),
            forward,
            layers=layers,
            max_samples=each,
            reduce=partial(total_over_processes, trainer),
        )


def of_all_tasks(
    batches: Iterable[Mapping[str, Any]], tasks: Sequence[str], samples: int
) -> Iterator[Mapping[str, Any]]:
    """Yield batches such that no task uses up all samples: some orders bring one task after the other.

    A batch whose tasks all had their equal share already is passed over, while another task is still to come.

    Args:
        batches: Of ``{task: (x, y)}``.
        tasks: The tasks of the phase.
        samples: How many will be used.
    """
    seen = dict.fromkeys(tasks, 0)
    for batch in batches:
        there = present(batch) if isinstance(batch, Mapping) else {}
        full = bool(there) and all(seen.get(task, 0) * len(tasks) >= samples for task in there)
        if full and not all(seen.values()):
            continue
        yield batch
        for task, (x, _) in there.items():
            seen[task] = seen.get(task, 0) + len(x)


@torch.no_grad()
def share(trainer: Trainer, layers: list[_BatchNorm]) -> None:
    """Give every process the running averages of the first, as data-parallel training does before each step.

    Without this the processes would evaluate different networks, of which only the first one's is saved.
    """
    if trainer.world_size == 1 or not torch.distributed.is_initialized():
        return
    for layer in layers:
        for buffer in layer.buffers():
            torch.distributed.broadcast(buffer, 0)
