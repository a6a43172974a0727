"""What all data modules have in common that hold training, validation and test samples of tasks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from lightning import LightningDataModule
from torch import Tensor

from lit_aux.data import tasks as of_tasks
from lit_aux.data.loader import TaskLoader, derive_seed
from lit_aux.data.multi_task_loader import MultiTaskLoader, Order, phase_tasks
from lit_aux.errors import ConfigurationError, check_known
from lit_aux.functional._labels import MISSING
from lit_aux.tasks import described, tasks_of


class TaskSamples(Protocol):
    """The samples of one task in one split.

    Attributes:
        labels: The targets, with a row a sample.
    """

    labels: Tensor

    def __len__(self) -> int:
        """Return the number of samples."""

    def to(self, device: torch.device) -> Self:
        """Move to a device what lies in memory."""

    def loader(self, transform: Any, **options: Any) -> TaskLoader:
        """Return the loader of these samples."""

    def digest(self) -> str:
        """Return a hash of inputs and targets."""


Held = TypeVar("Held", bound=TaskSamples)


class SplitsDataModule(LightningDataModule, ABC, Generic[Held]):
    """Tasks with samples of their own, in splits; a batch is ``{task: (x, y)}``.

    Batches are index look-ups in what is held in memory, on the GPU where the trainer has one. Everything
    that is drawn depends on the seed alone, and each task's draw on that task alone. Loaders know their
    place, so that a run goes on where it ended, and share samples between processes.

    Subclasses say what there is: ``num_classes``, ``fingerprint``, and what the methods under "What
    subclasses say" return.

    Args:
        n_val: Validation samples of each task.
        n_test: Test samples of each task at most; all by default.
        batch_size: Training samples of a task per step and process.
        eval_batch_size: The same in validation, test and prediction.
        seed: Of all draws and the order of batches; by default that of ``seed_everything``, else 0.
        balanced: Draw classes in turn.
        balance_batches: Draw training batches such that every class of a task is equally likely; true for
            all tasks, or the names of some.

    Attributes:
        balance_batches: Of which tasks; None where it is not said of any.

    Raises:
        ConfigurationError: For options that cannot be satisfied.
    """

    balance_batches: bool | list[str] | None = None

    def __init__(
        self,
        *,
        n_val: int | None,
        n_test: int | None,
        batch_size: int,
        eval_batch_size: int,
        seed: int | None,
        balanced: bool,
        balance_batches: bool | list[str] | None = None,
    ) -> None:
        super().__init__()
        of_tasks.at_least("--data.n_val", n_val, 0)
        sizes = {"n_test": n_test, "batch_size": batch_size, "eval_batch_size": eval_batch_size}
        for option, value in sizes.items():
            of_tasks.at_least(f"--data.{option}", value, 1)
        self.seed = of_tasks.resolve_seed(seed)
        self.n: dict[str, int | None] = {}
        self.n_val, self.n_test, self.balanced = n_val, n_test, balanced
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        if balance_batches is not None and balance_batches is not False:
            self.balance_batches = balance_batches  # else there is no such option, as before
        # a process without test samples still takes part in the evaluation
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self._phase: tuple[list[str], Order, int] | None = None
        self._sets: dict[str, dict[str, Held]] = {}

    # What subclasses say

    @property
    @abstractmethod
    def num_classes(self) -> Mapping[str, int]:
        """Number of outputs of each task."""

    @abstractmethod
    def fingerprint(self, tasks: Sequence[str], order: Order = "interleaved") -> str:
        """Return a hash of all that training on ``tasks`` depends on, and on nothing else."""

    @abstractmethod
    def _draw_pool(self) -> tuple[dict[str, Held], dict[str, Held]]:
        """Return the training and the validation samples of each task."""

    @abstractmethod
    def _draw_test(self) -> dict[str, Held]:
        """Return the test samples of each task."""

    @abstractmethod
    def _transform(self, training: bool) -> Any:
        """Return what makes a network's inputs of those that are held."""

    # What there is

    @property
    def tasks(self) -> list[str]:
        """All tasks, in the order in which they are given."""
        return list(self.num_classes)

    def samples(self, split: str, task: str) -> Held:
        """Return the inputs and targets of ``task`` in ``split``: ``train``, ``val`` or ``test``."""
        check_known("task", task, self.tasks)
        if split not in self._sets:
            self.setup("test" if split == "test" else "fit")
        return self._sets[split][task]

    def has_validation(self, task: str) -> bool:
        """Whether a task has validation samples."""
        return len(self.samples("val", task)) > 0

    def validation_fingerprint(self, tasks: Sequence[str]) -> str:
        """Return a hash of the validation samples of tasks."""
        text = repr([(task, self.samples("val", task).digest()) for task in tasks])
        return blake2b(text.encode(), digest_size=16).hexdigest()

    def train_size(self, task: str) -> int:
        """Return the number of training samples of a task, over all processes."""
        return len(self.samples("train", task))

    def batches_per_epoch(self, task: str) -> int:
        """Return the number of training batches in one pass over a task, on this process."""
        return len(self._loader("train", [task]))

    def task_batches(self, split: str, task: str) -> TaskLoader:
        """Return all samples of a task in a split (``train``, ``val``, ``test``): what diagnostics evaluate.

        Batches are (x, y) as networks take them, but not augmented. The order is random, for samples may lie
        sorted by class and the first batches are to be like all others, but the same at every call and on
        every process.
        """
        seed = derive_seed(self.seed, "task batches", split, task)
        order = {"batch_size": self.eval_batch_size, "training": False, "shuffle": True, "seed": seed}
        return self.samples(split, task).loader(self._transform(training=False), **order)

    def __str__(self) -> str:
        return of_tasks.described(self)

    def options(self) -> dict[str, Any]:
        """Return the options that are kept under other names than they are given under."""
        return {f"n_{task}" if task in ("main", "aux") else f"n.{task}": n for task, n in self.n.items()}

    # Lightning's hooks

    def set_phase(
        self, tasks: Sequence[str] | None = None, order: Order = "interleaved", first_epoch: int = 0
    ) -> None:
        """Say which tasks the next loaders hold.

        Args:
            tasks: Their names; ``None`` for all.
            order: Of the training batches of several tasks, see ``MultiTaskLoader``.
            first_epoch: The trainer's epoch at which the phase begins, so that its batches do not depend on
                how long earlier phases took.

        Raises:
            ConfigurationError: For no task, an unknown task or an unknown order.
        """
        self._phase = (phase_tasks(tasks, self.tasks, order), order, first_epoch)

    def setup(self, stage: str | None = None) -> None:
        """Draw the samples of a stage, once."""
        if stage in ("fit", "validate", None) and "train" not in self._sets:
            train, val = self._draw_pool()
            self._sets.update(train=train, val=val)
        if (stage in ("test", "predict", None) or self._is_tested_later) and "test" not in self._sets:
            self._sets["test"] = self._draw_test()

    def train_dataloader(self) -> MultiTaskLoader:
        """Return a loader of the phase's training samples; a new one with every call."""
        return self._loader("train", self._phase_tasks)

    def val_dataloader(self) -> MultiTaskLoader | list[Any]:
        """Return a loader of the phase's validation samples, or an empty list where there are none."""
        tasks = [task for task in self._phase_tasks if len(self.samples("val", task))]
        return self._loader("val", tasks) if tasks else []

    def test_dataloader(self) -> MultiTaskLoader | list[Any]:
        """Return a loader of the phase's test samples, or an empty list where there are none."""
        tasks = [task for task in self._phase_tasks if len(self.samples("test", task))]
        return self._loader("test", tasks) if tasks else []

    def predict_dataloader(self) -> MultiTaskLoader | list[Any]:
        """Return a loader of the phase's test samples, or an empty list where there are none."""
        return self.test_dataloader()

    # Beneath

    @property
    def _phase_tasks(self) -> list[str]:
        return self.tasks if self._phase is None else self._phase[0]

    @property
    def _is_tested_later(self) -> bool:
        """Whether test samples are needed after the fit, and are better looked at before it."""
        return False

    @property
    def _world(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    def _training_digest(self, tasks: Sequence[str], order: Order) -> str:
        """Return the fingerprint of data that are trained on as they are held: samples and batches."""
        parts = [(task, self.samples("train", task).digest()) for task in tasks]
        order = order if len(tasks) > 1 else "interleaved"
        settings = (self.batch_size, self.seed, order, self._world, *self._balance(tasks))
        return blake2b(repr((parts, settings)).encode(), digest_size=16).hexdigest()

    def _check_balance(self) -> None:
        """Refuse tasks that are unknown, or whose samples have no class, for balanced batches.

        Raises:
            ConfigurationError: Naming the task.
        """
        given, option = self.balance_batches, "--data.balance_batches"
        if not (given is None or given is True or (isinstance(given, list | tuple) and given)):
            raise ConfigurationError(f"{option} {given!r}: must be true, false or a list of tasks")
        kinds = described(tasks_of(self) or {})
        for task in self._balanced_tasks:
            check_known(option, task, self.tasks)
            if kinds[task].kind != "classification":
                raise ConfigurationError(
                    f"{option} {given}: task {task!r} is of kind {kinds[task].kind!r}, whose samples have no "
                    "class; name tasks that are classifications"
                )

    @property
    def _balanced_tasks(self) -> list[str]:
        return self.tasks if self.balance_batches is True else list(self.balance_batches or [])

    def _balance(self, tasks: Sequence[str]) -> tuple[Any, ...]:
        """Return what a fingerprint says of balanced batches: nothing without them."""
        balanced = [task for task in tasks if task in self._balanced_tasks]
        return (("balanced batches", balanced),) if balanced else ()

    def _classes(self, task: str, labels: Tensor) -> dict[str, Tensor]:
        """Return the option by which the loader of a task draws balanced batches."""
        if labels.ndim != 1 or labels.is_floating_point():
            raise ConfigurationError(
                f"--data.balance_batches: targets of task {task!r} are {tuple(labels.shape)} "
                f"{labels.dtype}; classes are whole numbers (N,)"
            )
        known = described(tasks_of(self) or {})[task].without_ignored(labels)
        if not bool((known != MISSING).any()):
            raise ConfigurationError(f"--data.balance_batches: no training sample of {task!r} has a class")
        return {"classes": known}

    def _loader(self, split: str, tasks: Sequence[str]) -> MultiTaskLoader:
        training, trainer = split == "train", self.trainer
        device = trainer.strategy.root_device if trainer is not None else torch.device("cpu")
        transform = self._transform(training)
        loaders = {}
        for task in tasks:
            samples = self._sets[split][task] = self.samples(split, task).to(device)
            loaders[task] = samples.loader(
                transform,
                batch_size=self.batch_size if training else self.eval_batch_size,
                training=training,
                shuffle=training and not getattr(trainer, "overfit_batches", 0) > 0,
                seed=derive_seed(self.seed, "order", task),
                rank=trainer.global_rank if trainer is not None else 0,
                world_size=self._world,
                **(self._classes(task, samples.labels) if training and task in self._balanced_tasks else {}),
            )
        _, order, first_epoch = self._phase or ([], "interleaved", 0)
        return MultiTaskLoader(loaders, order, first_epoch=first_epoch, **self._worker_options(device))

    def _worker_options(self, device: torch.device) -> dict[str, Any]:
        """Options of ``MultiTaskLoader`` for samples that workers read."""
        return {}
