"""The optimizer of a phase, and what each task's loss weighs in it."""

from typing import TYPE_CHECKING, Any

from lit_aux.modules.layer_decay import layer_groups
from lit_aux.phases.phase import Phase

if TYPE_CHECKING:
    from lit_aux.modules.base import AuxiliaryModule


def build_optimizer(phase: Phase, module: "AuxiliaryModule") -> Any:
    """Return a phase's optimizer over what trains and its schedule, as Lightning takes them."""
    parameters: list[Any] = [p for p in module.parameters() if p.requires_grad]
    if phase.layer_decay is not None:
        parameters = layer_groups(module.net, parameters, phase.layer_decay)
    optimizer = phase.build_optimizer(parameters)
    if phase.lr_scheduler is None:
        return optimizer
    scheduler = phase.build_scheduler(optimizer)
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
