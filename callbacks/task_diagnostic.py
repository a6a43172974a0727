"""What callbacks that measure something of each task have in common."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass, fields
from typing import Any, TypeVar, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lit_aux.callbacks import _measurements as measurements
from lit_aux.callbacks._averages import Ran, which_weights
from lit_aux.callbacks._no_trace import forgetting, told
from lit_aux.callbacks._options import check_source, names_of
from lit_aux.callbacks._parameters import refuse_sparse, refuse_sparse_layers, shared_parameters
from lit_aux.callbacks._processes import Brought, total_over_processes
from lit_aux.callbacks._task_model import TaskModel, on_device, task_model, undisturbed
from lit_aux.callbacks.task_data import WHAT, TaskData, phase_tasks, task_probe
from lit_aux.errors import ConfigurationError, check_known
from lit_aux.ranges import WHOLE, check

Item = TypeVar("Item")


@dataclass(eq=False, repr=False, kw_only=True)
class TaskDiagnostic(measurements.Measuring):
    """Measures something of each task every so many epochs or steps, and leaves training as it was.

    Values are logged as ``{task}/{measure}`` after the module's ``log_prefix``. Examples are the first of
    each task's training set, without augmentation and in eval mode, the same for every run on these data;
    statistics of batch normalization are re-estimated for them where the module does so in its own
    evaluations (``reestimate_batchnorm``). Several processes share the work and end with the same values.

    Attributes:
        results: What was measured, in order, over all phases.

    Args:
        every_n_epochs: Period in epochs; measured at the end of the epoch.
        every_n_steps: Period in optimizer steps instead, as the Trainer counts them: of all optimizers.
        tasks: The tasks to measure; all that train by default.
        shared: Globs over the names of the parameters that tasks share, of tied ones over each; by default
            all but the readouts. Those count that train at the moment of a measurement.
        num_samples: Examples of each task; all of a smaller one.
        batch_size: Examples in a batch.
        data: Where examples come from, see :data:`~lit_aux.callbacks.task_data.TaskData`; by default the
            data module.

    Raises:
        ConfigurationError: For an option out of range; as training starts for an unknown task, a task without
            data, a module that is no :class:`~lit_aux.callbacks.TaskModel`, or sparse gradients.
    """

    every_n_steps: int | None = None
    tasks: Sequence[str] | None = None
    shared: Sequence[str] | None = None
    num_samples: int = 2048
    batch_size: int = 128
    data: TaskData = None

    results = Brought[list[measurements.TaskMeasurement]]()

    needs_shared = True
    """Whether it measures gradients of shared parameters."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source("data", self.data, WHAT)
        if self.every_n_epochs is not None and self.every_n_steps is not None:
            raise ConfigurationError(
                f"every_n_steps: {self.every_n_steps} is given beside every_n_epochs {self.every_n_epochs}; "
                "give one"
            )
        if self.every_n_epochs is None and self.every_n_steps is None:
            self.every_n_epochs = 1
        for option in ("every_n_steps", "num_samples", "batch_size"):
            check(option, getattr(self, option), WHOLE)
        self.tasks = names_of("tasks", self.tasks, "task")
        self.shared = names_of("shared", self.shared)

    # What subclasses say

    @abstractmethod
    def measure(self, trainer: Trainer, module: LightningModule) -> dict[str, dict[str, float]]:
        """Return ``{task: {measure: value}}``, the same on every process; called under ``undisturbed``."""

    # The fit

    def _forget(self) -> None:
        super()._forget()
        self.probe: dict[str, Any] = {}
        self._steps = self._kept = 0
        self._started = self._told = False

    def state_dict(self) -> dict[str, Any]:
        """Return the results so far."""
        return {"results": [astuple(row) for row in self.results], "epochs": self._epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        both = (measurements.TaskMeasurement, measurements.FailedMeasurement)
        kinds = {len(fields(kind)): kind for kind in both}
        self.results = [kinds[len(row)](*row) for row in state_dict["results"]]
        self._epochs = state_dict["epochs"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a module without the protocol before anything is loaded."""
        self.model(pl_module)
        if not self.needs_shared:
            return
        training = shared_parameters(pl_module, self.shared, self.user, tell=True)
        refuse_sparse_layers(self.user, pl_module, training.values())
        if not training:
            rank_zero_warn(
                f"{self.user}: shared: none of the shared parameters trains yet; nothing is measured until "
                "one does"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect the examples."""
        self._started = True
        chosen = phase_tasks(trainer, pl_module, self.data, self.user)
        if self.tasks is not None:
            phases = [] if getattr(pl_module, "phase", None) is None else cast(Any, pl_module).phases
            known = list(dict.fromkeys([*chosen, *(task for phase in phases for task in phase.tasks)]))
            for task in self.tasks:
                check_known(f"{self.user}: tasks", task, known)
            chosen = [task for task in self.tasks if task in chosen]  # the others have a phase of their own
        self._steps = trainer.global_step
        self.probe = task_probe(trainer, self.data, chosen, self.num_samples, self.user)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure every few steps."""
        before, self._steps = self._steps, trainer.global_step
        # Several optimizers, or steps of a stranger's own, may take more than one step in a batch.
        if (
            self.every_n_steps is not None
            and self._steps // self.every_n_steps > before // self.every_n_steps
        ):
            self.try_to_observe(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if nothing was measured, and free the memory."""
        if not self._kept:
            phase = measurements.phase_of(pl_module)
            where = f" in phase {phase}" if phase else ""
            say = rank_zero_info if self._started and not self.probe else rank_zero_warn
            say(f"{self.user} measured nothing{where}: {self.why_nothing(trainer)}.")
        self._forget()

    def why_nothing(self, trainer: Trainer) -> str:
        """Say why a fit ended without a measurement."""
        if not self._started:
            return "the fit trained no step"
        if not self.probe:
            return f"none of its tasks ({', '.join(self.tasks or [])}) trains there"
        if self.every_n_epochs is not None and self._epochs < self.every_n_epochs:
            return f"every_n_epochs is {self.every_n_epochs} and the fit had {self._epochs} epoch(s)"
        if self.every_n_steps is not None and not self._steps:
            return (
                "no optimizer step was seen (a module that optimizes by itself must step what "
                "self.optimizers() returns); measure by every_n_epochs"
            )
        if self.every_n_steps is not None and self._steps < self.every_n_steps:
            return f"every_n_steps is {self.every_n_steps} and the fit had {self._steps} step(s)"
        return "every measurement failed or gave no value"

    def try_to_observe(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure now; what goes wrong is a warning, since training is worth more."""
        try:
            self.observe(trainer, pl_module)
        except Exception as error:
            if isinstance(error, ConfigurationError) and not self._kept:
                raise  # refused as training begins: nothing is lost yet
            rank_zero_warn(f"{self.user} failed at step {trainer.global_step}: {told(error)}")
            self._note_failure(trainer, pl_module, told(error))

    def _note_failure(self, trainer: Trainer, module: LightningModule, why: str) -> None:
        """Keep rows without a value for what was measured before and was to be measured now."""
        phase = measurements.phase_of(module)
        known = dict.fromkeys((row.task, row.measure) for row in self.results if row.phase == phase)
        self.results += [
            measurements.FailedMeasurement(
                phase, self._epochs, trainer.global_step, task, measure, math.nan, why
            )
            for task, measure in known
        ]

    def observe(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure now, inside a fit; keep and log the values."""
        if not self.probe or (self.needs_shared and not self.parameters(pl_module)):
            return
        with self.looking(trainer, pl_module):
            values = self.measure(trainer, pl_module)
        self.keep(trainer, pl_module, values)

    @contextmanager
    def looking(self, trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
        """Leave no trace meanwhile, and say, the first time, which of several weights were looked at."""
        ran = None if self._told else Ran(pl_module)
        with undisturbed(trainer, pl_module, self.model(pl_module), self.probe), ExitStack() as stack:
            if ran is not None:
                stack.enter_context(ran.watching())
            yield
        weights = "" if ran is None else which_weights(trainer, self, ran)
        if weights:
            rank_zero_warn(f"{self.user}: {weights}")
        self._told = True

    def keep(
        self, trainer: Trainer, pl_module: LightningModule, values: Mapping[str, Mapping[str, float]]
    ) -> None:
        """Add values ``{task: {measure: value}}`` to the results and log them."""
        phase = measurements.phase_of(pl_module)
        self._kept += sum(map(len, values.values()))
        self.results += [
            measurements.TaskMeasurement(phase, self._epochs, trainer.global_step, task, name, float(value))
            for task, measures in values.items()
            for name, value in measures.items()
        ]
        flat = {f"{task}/{name}": float(v) for task, found in values.items() for name, v in found.items()}
        measurements.log_scalars(trainer, pl_module, flat)

    # For subclasses

    def model(self, module: LightningModule) -> TaskModel:
        """Return the module as one whose tasks can be evaluated."""
        return task_model(module, self.user)

    def parameters(self, module: LightningModule) -> dict[str, nn.Parameter]:
        """Return the shared parameters that train at the moment, by name."""
        return shared_parameters(module, self.shared, self.user)

    def gradient(self, module: LightningModule, loss: Tensor) -> list[Tensor]:
        """Return the gradient of a loss with respect to the shared parameters, in their order.

        Raises:
            ConfigurationError: If it is sparse.
        """
        shared = self.parameters(module)
        found = torch.autograd.grad(loss, list(shared.values()), allow_unused=True, materialize_grads=True)
        for name, part in zip(shared, found, strict=True):
            refuse_sparse(self.user, name, part)
        return list(found)

    def loss(self, trainer: Trainer, module: LightningModule, task: str, rows: Any) -> Tensor:
        """Return a task's loss on some rows of its examples."""
        x, y = on_device(trainer, module, self.probe[task], rows)
        model = self.model(module)
        with forgetting(module):
            return model.task_loss(task, model.task_outputs(task, x), y)

    @staticmethod
    def share(trainer: Trainer, items: Sequence[Item]) -> list[Item]:
        """Return this process's part of some work, which is dealt out in turn."""
        return list(items[trainer.global_rank :: trainer.world_size])

    @staticmethod
    def total(trainer: Trainer, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes, on the CPU; every process must call this."""
        return total_over_processes(trainer, tensor)

    def totals(self, trainer: Trainer, sums: Mapping[str, float]) -> dict[str, float]:
        """Return the sum over all processes of a number for each task; every process must call this."""
        found = self.total(trainer, torch.tensor([*sums.values()], dtype=torch.float64))
        return dict(zip(sums, found.tolist(), strict=True))
