"""Training of a deep network by the batches of its tasks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torchmetrics import Metric

from lit_aux.callbacks._parameters import uncompiled
from lit_aux.callbacks._processes import total_over_processes
from lit_aux.callbacks.probe import training_batches, transfer
from lit_aux.errors import ConfigurationError
from lit_aux.functional.batchnorm import batchnorm_layers, reestimate_batchnorm
from lit_aux.models import TransformersBackbone
from lit_aux.models.low_rank import inject, merge, targets
from lit_aux.modules.evaluation import Stage, TaskEvaluation
from lit_aux.modules.losses import BatchLoss, JointLosses
from lit_aux.modules.optimization import build_optimizer, choose_step, leaves_steps_to_us
from lit_aux.modules.training import Outputs, Training
from lit_aux.modules.unfreezing import Unfreezing
from lit_aux.phases.phase import Phase
from lit_aux.phases.phased import phased_data
from lit_aux.trees import count_rows

Batch = Mapping[str, tuple[Tensor, Tensor]]


def present(batch: Any) -> Batch:
    """Return the tasks of a batch that have one: combined loaders give None for those that are exhausted.

    Raises:
        ConfigurationError: If it is no batch of tasks.
    """
    if not isinstance(batch, Mapping):
        raise ConfigurationError(f"data: a batch is a {type(batch).__name__}; it must be {{task: (x, y)}}")
    found = {task: pair for task, pair in batch.items() if pair is not None}
    for task, pair in found.items():
        if not (isinstance(pair, list | tuple) and len(pair) == 2):
            raise ConfigurationError(
                f"data: a batch of task {task!r} is a {type(pair).__name__}; it must be a pair (x, y)"
            )
    return found


def check_tasks(batch: Batch, phase: Phase | None) -> None:
    """Refuse a training batch of other tasks than those of the phase.

    Raises:
        ConfigurationError: Naming the task.
    """
    if not batch:
        raise ConfigurationError("the training data gave a batch without any task")
    for task in batch:
        if phase is not None and task not in phase.tasks:
            raise ConfigurationError(
                f"data: a training batch holds task {task!r}, which phase {phase.name!r} does not train; "
                f"give batches of {', '.join(phase.tasks)} alone, as a data module with set_phase does"
            )


def evaluate(net: Any, evaluation: TaskEvaluation, stage: Stage, batch: Any) -> None:
    """Add a batch to the measures of its tasks.

    Args:
        net: The network.
        evaluation: Its measures.
        stage: Which of them.
        batch: ``{task: (x, y)}``.
    """
    batch = present(batch)
    outputs = net.forward_tasks({task: x for task, (x, _) in batch.items()})
    for task, (_, y) in batch.items():
        evaluation.update(stage, task, outputs[task], y)


class DeepTraining(Training):
    """Losses of batches of tasks, which Lightning differentiates, and an optimizer of torch."""

    def __init__(self, module: LightningModule) -> None:
        super().__init__(module)
        self._logged: set[str] = set()
        self._refreshed_at = -1
        self._chooses_steps = False
        self._unfreezing = Unfreezing(module)

    @property
    def _evaluation(self) -> TaskEvaluation:
        """The module's losses and metrics."""
        return cast(TaskEvaluation, self._module.evaluation)

    def enter_phase(self, phase: Phase) -> None:
        """Begin a phase, with statistics of batch normalization that may be out of date.

        What low-rank adapters of a phase before have learned is merged into the weights.
        """
        super().enter_phase(phase)
        merge(self.net)
        if phase.lora is not None:
            inject(self.net, phase.lora)
        self._refreshed_at = -1
        self._logged.clear()
        self._unfreezing.begin()

    def begin_epoch(self, epoch: int) -> bool:
        """Let train what is unfrozen by an epoch; keep the layers of what is frozen in eval mode.

        Of batch normalization, low-rank finetuning says which mode it has.
        """
        changed = self._unfreezing.begin_epoch(self.phase, epoch)
        if self.phase is not None and self.phase.lora is not None:
            for layer in batchnorm_layers(self.net):
                layer.train(not self._keeps_statistics)
        return changed

    def check_phases(self, phases: Sequence[Phase]) -> None:
        """Refuse what is one number for each replica, and low-rank updates of what cannot have them."""
        for phase in phases:
            if isinstance(phase.readout_scale, list):
                raise ConfigurationError(
                    f"readout_scale: {phase.readout_scale} must be one number; students alone take one "
                    "for each replica"
                )
            if phase.lora is not None:
                targets(self.net, phase.lora)

    def attach(self, data: Any, processes: int, phases: Sequence[Phase]) -> None:
        """Refuse data of replicas."""
        if hasattr(data, "replicas"):
            raise ConfigurationError(
                f"data: {type(data).__name__} is for students; give the model a DiagonalNet or ReLUNet as "
                "its backbone, or other data"
            )
        backbone = uncompiled(uncompiled(self.net).backbone)
        if isinstance(backbone, TransformersBackbone):
            backbone.check_vocabulary(phased_data(data).vocab_size)

    def optimizer(self, phase: Phase, names: set[str]) -> Any:
        """Return an optimizer of torch, and its schedule."""
        self._unfreezing.check_strategy()
        built = build_optimizer(phase, self._module)
        self._chooses_steps = leaves_steps_to_us(built["optimizer"] if isinstance(built, dict) else built)
        return built

    def before_step(self, optimizer: Optimizer) -> None:
        """Let torch fuse the step where it can and nobody has said otherwise."""
        if self._chooses_steps:
            choose_step(optimizer, self._module.trainer)

    def step(self, batch: Any, outputs: Outputs) -> JointLosses:
        """Return the losses of the batch's tasks."""
        batch = present(batch)
        check_tasks(batch, self.phase)
        found = outputs({task: x for task, (x, _) in batch.items()})
        losses: dict[str, BatchLoss] = {}
        for task, (_, y) in batch.items():
            losses[task] = self._evaluation.train_step(task, found[task], y)
            self._log_training(task)
        return JointLosses(losses, self._evaluation.tasks, self._module.trainer)

    def _log_training(self, task: str) -> None:
        """Log a task's measures once an epoch: they add up by themselves, and each logging costs time."""
        if task not in self._logged:
            self._logged.add(task)
            for name, measure in self._evaluation.training_measures(task).items():
                name = f"{task}/train_{name}"
                if not self._log_again(name, measure):
                    self.log(name, measure, on_step=False, on_epoch=True)

    def _log_again(self, name: str, measure: Metric) -> bool:
        """Log a measure that was logged so in an epoch before; return whether that is so.

        ``self.log`` looks everything up and copies anew what it knows of the entry: a millisecond each time.
        """
        module: Any = self._module
        if "log" in vars(module) or type(module).log is not LightningModule.log:
            return False
        trainer: Any = module._trainer
        results = None if trainer is None else trainer._results
        key = f"{module._current_fx_name}.{self.log_prefix}{name}"
        if results is None or key not in results or results[key].value is not measure:
            return False
        results.update_metrics(key, measure, 1)
        return True

    def end_epoch(self, unlabelled: set[str]) -> None:
        """Say once of each task that no process has seen a label of it in the epoch."""
        self._logged.clear()
        if self.phase is None:
            return
        module = self._module
        counts: Tensor = torch.stack([self._evaluation.training_count(task) for task in self.phase.tasks])
        if module.trainer.world_size > 1:
            counts = module.trainer.strategy.reduce(counts.to(module.device), reduce_op="sum")
        for task, count in zip(self.phase.tasks, counts.tolist(), strict=True):
            if count == 0 and task not in unlabelled:
                unlabelled.add(task)
                rank_zero_warn(
                    f"task {task!r} had no label in epoch {module.trainer.current_epoch}: its training "
                    "measures of such an epoch say nothing"
                )

    def test(self, batch: Any) -> None:
        """Add a batch to the test measures of its tasks."""
        evaluate(self.net, self._evaluation, "test", batch)

    def predict(self, batch: Any) -> Any:
        """Return the logits of each task in the batch, or of every task for a bare tensor."""
        if isinstance(batch, Mapping):
            return self.net.forward_tasks({task: x for task, (x, _) in present(batch).items()})
        return self._module(batch[0] if isinstance(batch, list | tuple) else batch)

    def check_export(self) -> None:
        """Leave it to the export, which names what is no network of timm's."""

    @property
    def _keeps_statistics(self) -> bool:
        """Whether batch normalization stays as the phase found it, whatever trains."""
        lora = None if self.phase is None else self.phase.lora
        return lora is not None and lora.batchnorm == "eval"

    def refresh_batchnorm(self, samples: int | None) -> None:
        """Re-estimate the statistics of the batch-normalization layers that train, once for given weights."""
        trainer = self._module.trainer
        layers = [] if self._keeps_statistics else moving_layers(self.net)
        training = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not (training and layers) or trainer.global_step == self._refreshed_at:
            return
        if samples is None:
            share(trainer, layers)
        else:
            self._reestimate(trainer, layers, max(2, samples // trainer.world_size))
        self._refreshed_at = trainer.global_step

    @torch.no_grad()
    def _reestimate(self, trainer: Trainer, layers: list[_BatchNorm], samples: int) -> None:
        """Re-estimate the statistics of layers on so many of the phase's training data in each process."""
        tasks = [] if self.phase is None else self.phase.tasks

        def forward(batch: Any) -> int:
            inputs = {t: x for t, (x, _) in present(transfer(trainer, self._module, batch)).items()}
            with trainer.precision_plugin.forward_context():
                self.net.forward_tasks(inputs)
            return sum(count_rows(x) for x in inputs.values())

        with isolate_rng():
            batches = of_all_tasks(training_batches(trainer), tasks, samples)
            how: dict[str, Any] = {"max_samples": samples, "reduce": partial(total_over_processes, trainer)}
            reestimate_batchnorm(self.net, batches, forward, layers=layers, **how)


def moving_layers(net: nn.Module) -> list[_BatchNorm]:
    """Return the batch-normalization layers whose statistics move in this phase."""
    layers = batchnorm_layers(net)
    return [one for one in layers if one.training or any(p.requires_grad for p in one.parameters())]


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
            seen[task] = seen.get(task, 0) + count_rows(x)


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
