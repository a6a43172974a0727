"""Several tasks at once."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from lit_aux.errors import ConfigurationError
from lit_aux.modules.base import AuxiliaryModule
from lit_aux.modules.losses import JointLosses
from lit_aux.modules.methods.lookup import method_of
from lit_aux.modules.methods.task_method import TaskMethod
from lit_aux.phases.phase import Phase, PhaseSettings
from lit_aux.tasks import Task


class MultiTaskModule(AuxiliaryModule):
    """Trains all tasks together on shared features (MTL).

    With an ``aggregator`` the tasks' gradients of the shared parameters are combined, with a ``weighting``
    their losses; a phase of one task trains plainly whatever is given. Weights are logged as
    ``{phase}/{task}/weight``, the mean over an epoch.

    Args:
        backbone: A network that returns features (batch, features), or the name of a timm network.
        tasks: What each task is, or its number of classes; the command line takes it from the data.
        train_tasks: The tasks that train; all by default.
        task_weights: Weight of each task's loss; 1 by default.
        reduction: Whether the loss is the ``"sum"`` or the ``"mean"`` of the tasks' weighted losses; with the
            mean, a learning rate means the same for one task and for many.
        schedule: ``"interleaved"``: every step holds a batch of every task, tasks with fewer images are
            reshuffled and cycled, and the phase stops when every task's loss is below the threshold.
            ``"published"`` (Lippl & Lindsey 2023, CIFAR-100): each epoch all main batches, then all
            auxiliary ones weighted so that both have the same say; the phase stops on the first task's loss
            alone, which leaves the others under-trained.
        settings: Optimizer, schedule and limits.
        aggregator: Combines the tasks' gradients: an aggregator of TorchJD (``PCGrad``, ``MGDA``, ``UPGrad``,
            ``CAGrad``, ``NashMTL``, ...) by its name or class path, or any module that maps a matrix (tasks,
            parameters) to a vector. TorchJD comes with the extra ``aggregators``.
        weighting: Weighs the tasks' losses: ``"constant"`` (``task_weights`` alone), ``"uncertainty"``,
            ``"random"``, ``"gradnorm"``, one of these classes with options, or a scalarizer of TorchJD.
        **kwargs: As for :class:`AuxiliaryModule`.

    Raises:
        ConfigurationError: If tasks, schedule and method do not fit together.
    """

    def __init__(
        self,
        backbone: nn.Module | str,
        tasks: Mapping[str, int | Task] | None = None,
        *,
        train_tasks: list[str] | None = None,
        task_weights: dict[str, float] | None = None,
        reduction: Literal["sum", "mean"] = "sum",
        schedule: Literal["interleaved", "published"] = "interleaved",
        settings: PhaseSettings | None = None,
        aggregator: nn.Module | str | None = None,
        weighting: nn.Module | str | None = None,
        **kwargs: Any,
    ) -> None:
        self.train_tasks, self.task_weights = train_tasks, task_weights
        self.reduction, self.schedule = reduction, schedule
        self._settings = settings or PhaseSettings()
        super().__init__(backbone, tasks, **kwargs)
        several = [phase for phase in self.phases if len(phase.tasks) > 1]
        method = method_of(aggregator, weighting)
        self.task_method = method if several else TaskMethod()
        self._check(several)
        names = list(dict.fromkeys(task for phase in several for task in phase.tasks))
        self.task_method.configure(names, {task: self.evaluation.loss(task) for task in names})

    def _check(self, phases: list[Phase]) -> None:
        """Refuse a method for students, and where a step holds one task."""
        if type(self.task_method) is TaskMethod:
            return
        option, name = self.task_method.option, self.task_method.name
        if self.trains_itself:
            raise ConfigurationError(f"{option}: {name} is for deep networks, not for students; leave it out")
        if any(phase.order == "sequential" for phase in phases):
            how = "schedule: published" if self._given_phases is None else "order: sequential"
            raise ConfigurationError(
                f"{option}: {name} combines the tasks of a step, and with {how} a step holds one task; use "
                "interleaved"
            )

    def default_phases(self) -> list[Phase]:
        """Return the one phase on all tasks."""
        tasks = self.train_tasks or list(self.tasks)
        settings = dict(vars(self._settings))
        published = self.schedule == "published"
        if published and settings["stop_on"] is None:
            settings["stop_on"] = tasks[:1]
        settings |= {"order": "sequential" if published else "interleaved", "balance_tasks": published}
        return [Phase(name="train", tasks=tasks, task_weights=self._constant_weights(tasks), **settings)]

    def _constant_weights(self, tasks: list[str]) -> dict[str, float] | None:
        given = self.task_weights or {}
        if self.reduction == "sum" or any(task not in tasks for task in given):  # which Phase refuses
            return self.task_weights
        return {task: given.get(task, 1.0) / len(tasks) for task in tasks}

    # The method

    @property
    def method(self) -> str:
        """STL with one task, else the aggregator or weighting by its name, else MTL."""
        own = super().method
        return own if own == "STL" else self.task_method.name

    @property
    def combines(self) -> bool:
        """Whether the phase has several tasks for the method to combine."""
        return self.phase is not None and len(self.phase.tasks) > 1

    def logged(self, phase: Phase) -> dict[str, bool | None]:
        """Return the metrics of a phase, the weights of several tasks among them."""
        weights = {f"{task}/weight": None for task in phase.tasks if len(phase.tasks) > 1}
        return super().logged(phase) | weights

    def readout_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the readout, and those of a weighting: none is shared by the tasks."""
        return [*super().readout_parameters(), *self.task_method.parameters()]

    def enter_phase(self, phase: Phase) -> None:
        """Prepare the phase; what a weighting learns trains whenever there is something to weigh."""
        super().enter_phase(phase)
        for parameter in self.task_method.parameters():
            parameter.requires_grad_(self.combines)

    def on_fit_start(self) -> None:
        """Refuse a Trainer with which the method cannot work, before data are loaded."""
        if self.combines:
            self.task_method.check(self.trainer)

    def on_train_start(self) -> None:
        """Work out the constant weights, and start the method."""
        super().on_train_start()
        if self.combines:
            self.task_method.begin(self.trainer, self)

    def on_unfreeze(self) -> None:
        """Let the method find the parameters that train now."""
        if self.combines:
            self.task_method.begin(self.trainer, self)

    def training_outputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return each task's logits, in passes of their own where that makes the tasks' gradients cheap."""
        if self.combines and self.task_method.separate:
            return {task: self.net(x, task) for task, x in inputs.items()}
        return super().training_outputs(inputs)

    def combine_labelled(self, joint: JointLosses) -> Tensor:
        """Return the loss of a batch; the method sees only tasks of which there is a label."""
        if not self.combines:
            return super().combine_labelled(joint)
        weighted = joint.weighted(self._weights)
        labelled = joint.labelled()
        rest = [value for task, value in weighted.items() if task not in labelled]
        if labelled:
            rest.append(self.combine({task: value for task, value in weighted.items() if task in labelled}))
        else:  # data-parallel training waits for every parameter
            rest += [(parameter * 0).sum() for parameter in self.task_method.parameters()]
        return sum(rest[1:], rest[0])

    def combine(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a batch from the weighted losses of its tasks."""
        return self.task_method.combine(losses, self.trainer) if self.combines else super().combine(losses)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute gradients, task by task where the method needs them."""
        if self.combines:
            self.task_method.backward(loss, self.trainer, *args, **kwargs)
        else:
            super().backward(loss, *args, **kwargs)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Complete the gradients, after callbacks have added theirs and before they are clipped."""
        if self.combines:
            self.task_method.before_step(self.trainer)
        super().on_before_optimizer_step(optimizer)

    def on_train_epoch_end(self) -> None:
        """Log the mean weight of each task."""
        super().on_train_epoch_end()
        if not self.combines:
            return
        for task, weight in self.task_method.mean_weights().items():
            self.log(f"{self.log_prefix}{task}/weight", weight, sync_dist=True)
        self.task_method.epoch_end()

    def on_train_end(self) -> None:
        """Bring batch-normalization statistics up to date, and end the method."""
        super().on_train_end()
        if self.combines:
            self.task_method.end(self.trainer)
