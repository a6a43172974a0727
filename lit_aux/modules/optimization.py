"""The optimizer of a phase, and what each task's loss weighs in it."""

from typing import Any

import torch
from torch import nn

from lit_aux.phases.phase import Phase


def build_optimizer(phase: Phase, parameters: list[nn.Parameter]) -> Any:
    """Return a phase's optimizer over what trains and its schedule, as Lightning takes them."""
    optimizer = phase.optimizer(parameters) if phase.optimizer else torch.optim.Adam(parameters)
    if phase.lr_scheduler is None:
        return optimizer
    scheduler = phase.lr_scheduler(optimizer)
    config = {"scheduler": scheduler, "interval": phase.lr_interval}
    monitor = getattr(scheduler, "monitor", None)
    return {"optimizer": optimizer, "lr_scheduler": config | ({"monitor": monitor} if monitor else {})}


def task_weights(phase: Phase, data: Any) -> dict[str, float]:
    """Return the weight of each task's loss: the phase's own, times its balance in sequential order."""
    balance = {task: 1.0 for task in phase.tasks}
    if phase.balance_tasks:
        sizes = {task: data.train_size(task) for task in phase.tasks}
        batches = {task: size / min(size, data.batch_size) for task, size in sizes.items()}
        first = batches[phase.tasks[0]]
        balance = {task: first / count for task, count in batches.items()}
    return {task: phase.weight(task) * share for task, share in balance.items()}
