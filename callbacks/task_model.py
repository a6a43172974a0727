"""What a module has to offer so that callbacks can compute the loss of one of its tasks."""

from collections.abc import Iterable
from typing import Any, Protocol, cast

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lit_aux.callbacks._parameters import by_first_name, chosen_by, integer_names, listed
from lit_aux.errors import ConfigurationError


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


def shared_parameters(
    module: LightningModule,
    patterns: list[str] | None,
    user: str,
    *,
    frozen: bool = False,
    tell: bool = False,
) -> dict[str, nn.Parameter]:
    """Return the shared parameters by name; tied ones once, for whichever of their names was meant.

    Args:
        module: The module of a fit.
        patterns: Globs over parameter names; by default all but the module's ``readout_parameters()``.
        user: Who needs them, for the error.
        frozen: Whether those that do not train at the moment are wanted, too: they may later.
        tell: Whether integer and quantised parameters, which never train, are named in an info line.

    Raises:
        ConfigurationError: If a pattern matches nothing, there is nothing that could train, or there are
            neither patterns nor ``readout_parameters``.
    """
    if patterns is not None:
        shared = chosen_by(f"{user}: shared", patterns, module)
    elif callable(readout := getattr(module, "readout_parameters", None)):
        own = {id(parameter) for parameter in readout()}
        shared = {name: p for name, p in by_first_name(module).items() if id(p) not in own}
    else:
        raise ConfigurationError(
            f"{user}: shared: name the parameters that tasks share, as ['backbone.*'], or give "
            f"{type(module).__name__} a readout_parameters()"
        )
    integers = integer_names({name: p for name, p in shared.items() if not is_lazy(p)})
    if integers and tell:
        rank_zero_info(f"{user}: skipped what is integer or quantised: {listed(integers.values())}")
    shared = {name: p for name, p in shared.items() if name not in integers}
    if not shared:
        raise ConfigurationError(f"{user}: shared: none of the shared parameters can train")
    return {name: p for name, p in shared.items() if frozen or p.requires_grad}
