"""The LightningModule that all of the project's modules are."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from inspect import currentframe
from pathlib import Path
from types import FrameType
from typing import Any, Self, cast

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from lit_aux.errors import ConfigurationError
from lit_aux.models import MultiHeadNet, StudentNet, TimmBackbone
from lit_aux.models.low_rank import KEY as LORA_KEY
from lit_aux.models.low_rank import check_installed, described, merge, merge_checkpoint
from lit_aux.models.pretrained_weights import reads
from lit_aux.modules.deep_training import Batch, DeepTraining, evaluate
from lit_aux.modules.evaluation import Stage, TaskEvaluation
from lit_aux.modules.exporting import export
from lit_aux.modules.loading import digest_of, start_from
from lit_aux.modules.losses import JointLosses
from lit_aux.modules.optimization import (
    check_layer_decay,
    check_unfreezing,
    task_weights,
    trainable_names,
)
from lit_aux.modules.rebuilding import KEY, arguments_in, from_checkpoint, told
from lit_aux.modules.student_training import StudentTraining
from lit_aux.modules.training import Training
from lit_aux.phases.answers import Answers
from lit_aux.phases.phase import Phase, check_phases
from lit_aux.phases.phased import check_phased_data
from lit_aux.phases.state import check_fit
from lit_aux.ranges import Range, check
from lit_aux.tasks import Task, outputs_of


class AuxiliaryModule(LightningModule, ABC):
    """A network with one readout per task, trained phase by phase.

    Subclasses say which phases by :meth:`default_phases`. A batch is ``{task: (x, y)}`` and holds only the
    tasks of its step, so that one training step serves every phase: the sum over its tasks of weight times
    loss. Logged are ``{phase}/{task}/{train,val,test}_{loss,accuracy,...}``, of the targets that are there:
    -100 (and the loss's ``ignore_index``) stands for a missing class, NaN for a missing value.

    Args:
        backbone: A network that returns features (batch, features), the name of a timm network, or a
            :class:`~lit_aux.models.StudentNet`, whose replicas all train at once on a teacher's data.
        tasks: What each task is, a :class:`~lit_aux.Task`, or its number of classes; the command line takes
            it from the data.
        losses: A loss for every task, or one by task; by default that of the task's kind, cross-entropy for
            classes.
        metrics: torchmetrics by name, the same for every task, or such by task. Each is copied. By default
            those of the task's kind: accuracy for classes. A number of outputs whose loss is no loss of
            classes has accuracy of each output (``BCEWithLogitsLoss``), or ``mae`` (``MSELoss``).
        heads: What maps features to outputs, by task, in place of the linear readout.
        phases: Phases in place of the module's own.
        num_features: Number of features that the backbone returns; needed where it has no attribute of this
            name.
        reestimate_batchnorm: Re-estimate batch-normalization statistics on the phase's training data before
            each evaluation and at the end of a phase. After a few steps the running averages lag so far
            behind the weights that a network which fits its training data can test at chance. False is what
            is published for CIFAR-100.
        batchnorm_samples: Training images that the statistics are re-estimated from.
        compile: Whether ``torch.compile`` compiles the network.
        pretrained: A file to start from: a checkpoint of one of these modules, or weights of the backbone in
            anybody's Lightning checkpoint or file of torchvision, timm or transformers (``.ckpt``, ``.pth``,
            ``.pt``, ``.bin``, ``.safetensors``). All of the backbone must be there; a classifier is left out.
        pretrained_prefix: What stands before the backbone's names in that file (``"encoder."``), or new
            beginnings of names by old ones (``{"old.": "new."}``). By default the one prefix with which all
            names fit.

    Raises:
        ConfigurationError: If the tasks, phases, losses or metrics do not fit together.
    """

    finetunes = False
    """Whether it finetunes what a phase before, ``pretrained`` or the backbone has learned."""
    later_phase_options: frozenset[str] = frozenset({"pretrained", "pretrained_prefix", "pretrained_content"})
    """Attributes that concern later phases only: a first phase is shared by runs that differ in them."""
    pretrained: str | None = None
    pretrained_prefix: dict[str, str] | str | None = None
    pretrained_content: str | None = None
    """A digest of that file: runs that start from different ones are different runs."""
    running_state = frozenset({"built_with", "students", "way", "_phases", "_given_phases", "_weights"})
    """Attributes that a fit changes: they do not tell one run from another."""

    def __init__(
        self,
        backbone: nn.Module | str,
        tasks: Mapping[str, int | Task] | None = None,
        *,
        losses: nn.Module | dict[str, nn.Module] | None = None,
        metrics: dict[str, Metric] | dict[str, dict[str, Metric]] | None = None,
        heads: dict[str, nn.Module] | None = None,
        phases: list[Phase] | None = None,
        num_features: int | None = None,
        reestimate_batchnorm: bool = True,
        batchnorm_samples: int = 1000,
        compile: bool = False,
        pretrained: str | None = None,
        pretrained_prefix: dict[str, str] | str | None = None,
    ) -> None:
        super().__init__()
        self.built_with = arguments_in(cast(FrameType, currentframe()))
        if not tasks:
            raise ConfigurationError(
                "tasks: name the tasks and their numbers of outputs, as {main: 2, aux: 8}"
            )
        check("batchnorm_samples", batchnorm_samples, Range(least=2))
        self.backbone_is_given = isinstance(backbone, nn.Module)
        self.net: Any
        self.way: Training
        self.students: StudentTraining | None = None
        if isinstance(backbone, StudentNet):
            self.net = backbone
            self.way = self.students = StudentTraining(
                self, outputs_of(tasks), losses or metrics or heads or compile
            )
            losses, metrics = nn.MSELoss(), {}
            self.automatic_optimization = False
        else:
            network = backbone if isinstance(backbone, nn.Module) else _by_name(backbone)
            self.net = MultiHeadNet(network, tasks, num_features=num_features, heads=heads)
            self.way = DeepTraining(self)
        self.tasks = outputs_of(tasks)
        self.evaluation = TaskEvaluation(tasks, losses, metrics)
        self.reestimate_batchnorm = reestimate_batchnorm
        self.batchnorm_samples = batchnorm_samples
        self._given_phases = phases
        self._phases: list[Phase] | None = None
        self._unlabelled: set[str] = set()
        self._weights: dict[str, float] = {}
        self.step_loss: tuple[Tensor, Tensor | float] | None = None
        self._start(pretrained, pretrained_prefix)
        if compile:
            self.net.compile()

    def _start(self, file: str | None, prefix: dict[str, str] | str | None) -> None:
        """Take the weights of a file, if one is given; attributes tell which, and so one run from another."""
        if file is None:
            if prefix is not None:
                raise ConfigurationError(f"pretrained_prefix: {prefix!r} needs a file, option pretrained")
            return
        self.pretrained = file
        if prefix is not None:
            self.pretrained_prefix = prefix
        if not reads():
            return
        own = start_from(self, file, prefix)
        if not (own and self.finetunes):  # such runs have been there before, without this
            self.pretrained_content = digest_of(file)

    @abstractmethod
    def default_phases(self) -> list[Phase]:
        """Return the phases of this way of training."""

    @property
    def phases(self) -> list[Phase]:
        """The phases of a run, in order."""
        if self._phases is None:
            phases = self.default_phases() if self._given_phases is None else self._given_phases
            check_phases(phases, self.tasks)
            self.way.check_phases(phases)
            check_layer_decay(phases, self.net)
            check_unfreezing(phases, self)
            self._phases = list(phases)
        return self._phases

    @property
    def phase(self) -> Phase | None:
        """The phase that it is in; None before the first."""
        return self.way.phase

    @phase.setter
    def phase(self, phase: Phase) -> None:
        """Say which phase it is in; the weights stay as they are."""
        self.way.phase = phase

    @property
    def log_prefix(self) -> str:
        """What precedes the names that this phase logs, such as ``"finetune/"``."""
        return self.way.log_prefix

    @property
    def method(self) -> str:
        """What runs like this one are called where methods are compared: STL with one task, else MTL."""
        return "STL" if len((self.phase or self.phases[-1]).tasks) == 1 else "MTL"

    @property
    def starts_untrained(self) -> bool:
        """Whether the phase starts from weights that nothing has trained, as far as is known.

        That is so in the first phase, unless the backbone came pretrained, or the run finetunes what it is
        given.
        """
        first = self.phase is None or self.phase is self.phases[0]
        backbone = getattr(self.net, "backbone", self.net)
        finetunes = self.finetunes and all(p.name != "pretrain" for p in self.phases)
        finetunes = finetunes or self.pretrained is not None
        return first and not finetunes and not getattr(backbone, "pretrained", False)

    @property
    def backbone(self) -> nn.Module:
        """The network's backbone, which Lightning's ``BackboneFinetuning`` looks for here."""
        own = self._modules.get("backbone")  # of a subclass
        return self.net.backbone if own is None else own

    @property
    def data_config(self) -> Any:
        """The mean, deviation and input size that a pretrained backbone expects; None otherwise."""
        return getattr(getattr(self.net, "backbone", None), "data_config", None)

    @property
    def trains_itself(self) -> bool:
        """Whether it moves its weights itself, in this process: students do."""
        return self.way.trains_itself

    @property
    def stop_reason(self) -> str | None:
        """How students ended; None for other networks and while they are under way."""
        return self.way.stop_reason

    # Phases

    def enter_phase(self, phase: Phase) -> None:
        """Prepare the weights and what trains; a PhaseTrainer calls this before the phase's fit."""
        self.way.enter_phase(phase)
        self._unlabelled.clear()
        self.step_loss = None
        self.evaluation.reset()
        self.train()  # a phase before may have frozen layers into eval mode
        if phase.readout == "reset":
            self.net.reset_readout(phase.readout_scale, phase.tasks)
        chosen = trainable_names(self, phase, epoch=0)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in chosen)

    def attach_data(self, data: Any, processes: int = 1) -> None:
        """Refuse data that cannot tell phases apart; take one replica for each of the data's (students)."""
        check_phased_data(self, data)
        if any(phase.lora is not None for phase in self.phases):
            check_installed()
        self.way.attach(data, processes, self.phases)

    def configure_model(self) -> None:
        """Bring students to the size of the data before a checkpoint is loaded."""
        self.way.attach(self.trainer.datamodule, 1, self.phases)  # type: ignore[attr-defined]

    def setup(self, stage: str) -> None:
        """Refuse several phases on a Trainer that would run only one fit."""
        if stage != "fit" or hasattr(self.trainer, "phase_results"):
            return
        if len(self.phases) > 1:
            names = ", ".join(phase.name for phase in self.phases)
            raise ConfigurationError(
                f"{type(self).__name__} has several phases ({names}), which a plain Trainer cannot run; use "
                "lit_aux.PhaseTrainer in its place"
            )
        if self.phases[0].restore_best is not None:
            raise ConfigurationError(
                "restore_best: a plain Trainer knows nothing of it; use lit_aux.PhaseTrainer"
            )
        self.enter_phase(self.phases[0])

    def configure_callbacks(self) -> Sequence[Callback]:
        """Return the only phase's callbacks where a plain Trainer runs it."""
        plain = not hasattr(self.trainer, "phase_results")
        return self.phases[0].callbacks if plain and len(self.phases) == 1 else []

    def configure_optimizers(self) -> Any:
        """Build the phase's optimizer over what trains, and its schedule."""
        phase = self.phase or self.phases[0]
        return self.way.optimizer(phase, trainable_names(self, phase))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write down how the module was built."""
        checkpoint[KEY] = told(self)
        if adapters := described(self):
            checkpoint[LORA_KEY] = adapters

    def prepare_checkpoint(self, checkpoint: dict[str, Any], *, training: bool) -> None:
        """Merge the low-rank adapters of network and checkpoint, unless training goes on with them."""
        if not training:
            merge(self.net)
            merge_checkpoint(checkpoint, "ckpt_path: the checkpoint")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another network in one line."""
        trainer = self._trainer
        path = None if trainer is None else trainer.ckpt_path
        training = trainer is not None and trainer.state.fn == TrainerFn.FITTING
        self.prepare_checkpoint(checkpoint, training=training)
        check_fit(self.state_dict(), checkpoint["state_dict"], "ckpt_path", path)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        hparams_file: None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Return the module of a checkpoint, whichever Trainer wrote it; nothing in the file is run.

        A run of the command line is built from the configuration in its checkpoint. In Python, what are no
        plain values (a backbone, losses, ...) must be given again.

        Args:
            checkpoint_path: The file.
            map_location: The device of the module; the CPU by default.
            hparams_file: Not known here.
            strict: Whether all names must fit; by default they must.
            weights_only: Always so.
            **kwargs: Arguments in place of those that the file tells, and those that it does not.

        Raises:
            ConfigurationError: If the file is none of such a module, or an argument is lacking.
        """
        if hparams_file is not None:
            raise ConfigurationError(f"hparams_file: {hparams_file!r} is not read; give arguments by name")
        return from_checkpoint(cls, checkpoint_path, map_location, strict, kwargs)

    # Training

    def on_train_start(self) -> None:
        """Work out the weight of each task's loss."""
        assert self.phase is not None
        self._weights = task_weights(self.phase, self.trainer.datamodule)  # type: ignore[attr-defined]
        # A run that goes on in the middle of an epoch does not start it again.
        progress: Any = self.trainer.fit_loop.epoch_progress.current
        self.way.begin_epoch(max(0, progress.started - 1))

    def on_train_epoch_start(self) -> None:
        """Let train what is unfrozen by now; keep the rest in eval mode, lest its statistics move."""
        if self.way.begin_epoch(self.trainer.current_epoch):
            self.on_unfreeze()

    def on_unfreeze(self) -> None:
        """Take note that other parameters train from this epoch on."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """Return the weighted sum of the losses of the batch's tasks; students take the step themselves."""
        joint = self.way.step(batch, self.training_outputs)
        if joint is None:
            return None
        self.step_loss = joint.mean(self._weights)
        return self.combine_labelled(joint)

    def combine_labelled(self, joint: JointLosses) -> Tensor:
        """Return the loss of a batch; that of a task without a label is 0, and reaches every output."""
        return self.combine(joint.weighted(self._weights))

    def training_outputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return each task's logits on its own inputs, in one pass through the network."""
        return self.net.forward_tasks(inputs)  # type: ignore[no-any-return]

    def combine(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a batch from the weighted losses of its tasks: their sum."""
        return sum(list(losses.values())[1:], next(iter(losses.values())))

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Prepare the step."""
        self.way.before_step(optimizer)

    def on_train_epoch_end(self) -> None:
        """Say which tasks had no label in the epoch."""
        self.way.end_epoch(self._unlabelled)

    # Evaluation

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the validation measures of its tasks."""
        evaluate(self.net, self.evaluation, "val", batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the test measures of its tasks; test students."""
        self.way.test(batch)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Return the logits of each task in the batch, or of every task for a bare tensor."""
        return self.way.predict(batch)

    def answers(self, task: str, outputs: Tensor, y: Any = None) -> Answers:
        """Return what a task's outputs say: predictions and, where they are likelihoods, probabilities.

        Args:
            task: Its name.
            outputs: Its logits, (B, C, ...).
            y: Its targets, as in a batch, where there are some.

        Raises:
            ConfigurationError: If its loss does not take such targets.
        """
        return self.evaluation.answers(task, outputs, y)

    def on_validation_epoch_end(self) -> None:
        """Log the validation measures."""
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Log the test measures."""
        self._log_evaluation("test")

    def _log_evaluation(self, stage: Stage) -> None:
        # Every process computes every task's measures, also one whose shard held nothing of a task: computing
        # is a collective operation. Only those that anybody has seen are logged.
        for task, values in self.evaluation.compute(stage).items():
            for name, value in values.items():
                # Equal on every process already: the maximum leaves it as it is.
                self.log(f"{self.log_prefix}{task}/{stage}_{name}", value, sync_dist=True, reduce_fx="max")

    def on_validation_model_eval(self) -> None:
        """Bring batch-normalization statistics up to date before a validation during training."""
        self.refresh_batchnorm()
        super().on_validation_model_eval()

    def on_train_end(self) -> None:
        """Bring batch-normalization statistics up to date at the end."""
        self.refresh_batchnorm()

    def refresh_batchnorm(self) -> None:
        """Bring the statistics of the batch-normalization layers that train up to date."""
        self.way.refresh_batchnorm(self.batchnorm_samples if self.reestimate_batchnorm else None)

    def logged(self, phase: Phase) -> dict[str, bool | None]:
        """Return the metrics of a phase without its prefix, and whether more is better, where that is known.

        Args:
            phase: The phase.
        """
        return {
            f"{task}/{stage}_{name}": more
            for stage in ("train", "val")
            for task in phase.tasks
            for name, more in self.evaluation.directions(task).items()
        }

    # What callbacks ask of the tasks, one by one: see lit_aux.callbacks.TaskModel

    def forward(self, x: Tensor, task: str | None = None) -> Tensor | dict[str, Tensor]:
        """Return the logits of one task, or of every task by name."""
        return self.net(x, task)  # type: ignore[no-any-return]

    def task_outputs(self, task: str, x: Tensor) -> Tensor:
        """Return the logits of one task, past any data-parallel wrapper."""
        return self.net(x, task)  # type: ignore[no-any-return]

    def task_loss(self, task: str, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the unweighted loss of one task on a batch; nothing is counted or logged."""
        return self.evaluation.measure(task, outputs, y).value

    def task_mean(self, task: str, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return the mean loss over the labels of a batch, detached, and what it weighs beside others."""
        loss = self.evaluation.measure(task, outputs, y)
        return loss.mean, loss.count

    def task_labels(self, task: str, y: Tensor) -> Tensor:
        """Return which targets are there, bool in the shape of ``y``."""
        return self.evaluation.labels(task, y)

    def task_score(self, task: str, metric: Metric, outputs: Tensor, y: Tensor) -> None:
        """Add the labels of a batch to one of ``task_metrics``."""
        self.evaluation.score(metric, task, outputs, y)

    def task_metrics(self, task: str) -> dict[str, Metric]:
        """Return a copy of a task's metrics by name, empty."""
        found = cast(nn.ModuleDict, self.evaluation.measures[f"val/{task}"])
        copies = {name: deepcopy(cast(Metric, metric)) for name, metric in found.items()}
        for metric in copies.values():
            metric.reset()
        return copies

    def readout_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters of the readout; all others are shared by the tasks."""
        return list(self.net.readout_parameters())

    # Export

    def export(
        self,
        path: str | Path,
        *,
        task: str | None = None,
        ckpt_path: str | Path | None = None,
        data: Any = None,
    ) -> None:
        """Write plain timm weights, or the folder of a network of transformers.

        Args:
            path: File to write: ``.safetensors``, or anything that ``torch.load`` reads. For a
                :class:`~lit_aux.models.TransformersBackbone`, the folder that ``from_pretrained`` will read.
            task: The task whose readout becomes the classifier of timm or transformers; None leaves the
                classifier out.
            ckpt_path: Checkpoint to read the weights from first; by default those of the module as it is.
            data: A data module, whose ``tokenizer`` and names of classes go into such a folder.

        Raises:
            ConfigurationError: If the checkpoint does not fit, the task is unknown, or the path is the
                checkpoint's or another kind of file or folder.
        """
        self.way.check_export()
        export(self, path, task, ckpt_path, data)


def _by_name(backbone: str) -> TimmBackbone:
    """Return a network of timm's."""
    try:
        return TimmBackbone(backbone)
    except ConfigurationError as error:
        raise ConfigurationError(str(error).replace("name: ", "backbone: ", 1)) from error
