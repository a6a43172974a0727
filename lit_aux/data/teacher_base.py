"""What the data modules of synthetic teachers have in common."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from hashlib import blake2b
from math import inf
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from torch import Tensor

from lit_aux.data.loader import BlockLoader
from lit_aux.data.multi_task_loader import Order, phase_tasks
from lit_aux.data.tasks import described
from lit_aux.data.teacher_draws import independent_rows, published_rows
from lit_aux.data.teacher_grid import Cell, whole_number
from lit_aux.errors import ConfigurationError, check_known
from lit_aux.teachers import SAMPLINGS, TEACHERS, OutputScale, Sampling, output_scales, short_form

DType = Literal["float32", "float64"]

DTYPES = {"float32": torch.float32, "float64": torch.float64}

_TEST_BYTES = 512 * 2**20


def is_pretraining(tasks: Sequence[str]) -> bool:
    """Return whether ``aux`` is trained alone, which has draws and a size of its own."""
    return list(tasks) == ["aux"]


class TensorCache:
    """The tensors used last, within a limit of memory; the same key gives the same object while it is kept.

    Args:
        limit: Bytes that the kept tensors may take together. The newest one is kept even if it takes more.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes that the kept tensors take."""
        return sum(tensor.nbytes for tensor in self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Return the tensor of ``key``, making it if it is not there; drops those not used for longest."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        tensor = self._kept[key] = make()
        while len(self._kept) > 1 and self.nbytes > self.limit:
            self._kept.popitem(last=False)
        return tensor


class TeacherDataModule(LightningDataModule, ABC):
    """Two regression tasks on Gaussian inputs whose targets synthetic teachers give, for a grid of replicas.

    The tasks are ``aux``, which a network may be pretrained on, and ``main``. Every replica has its values of
    the axes; those that see the same inputs share the very tensor, and stand beside each other. A loader
    hands out numbers of blocks instead of batches: the module that trains asks for :meth:`train_set` itself.

    A phase that trains ``aux`` alone is pretraining: as in the published runs, its teacher may have another
    size than beside ``main``, and other rows.

    Attributes:
        designs: What those who train worked out of inputs and targets.
        moments: What they worked out of inputs alone.

    Args:
        replicas: The values of the axes for every replica, ``seed`` and ``n_main`` among them.
        k_aux: Active entries or units of the auxiliary teacher; 0 where it has no such number.
        n_aux: Training rows of the task ``aux``.
        in_features: Number of inputs D.
        n_test: Test rows of each task.
        sampling: ``published`` draws as the published runs did; ``independent`` has a generator for every
            seed and purpose, so that more rows of one kind leave all others as they are.
        output_scale: Size of the teachers' coefficients, or output weights: +-1/sqrt(k) (``sqrt``) or +-1/k
            (``units``); one for all, or a mapping of ``main``, ``aux`` (beside ``main``) and ``pretrain``
            (``aux`` alone), where ``sqrt`` is what is left out.
        dtype: Of inputs and targets; numbers are drawn in float32 either way.
        blocks_per_epoch: How many blocks of training steps are an epoch to Lightning.

    Raises:
        ConfigurationError: For options that cannot be satisfied.
    """

    def __init__(
        self,
        replicas: Sequence[Cell],
        *,
        in_features: int,
        k_aux: int = 0,
        n_aux: int = 1024,
        n_test: int = 10_000,
        sampling: Sampling = "published",
        output_scale: OutputScale | dict[str, OutputScale] = "sqrt",
        dtype: DType = "float64",
        blocks_per_epoch: int = 1,
    ) -> None:
        super().__init__()
        self.replicas: list[dict[str, Any]] = list(replicas)
        check_known("--data.sampling", sampling, SAMPLINGS)
        check_known("--data.dtype", dtype, DTYPES)
        self.k_aux, self.in_features = k_aux, in_features
        self.n_aux = whole_number("n_aux", 1)(n_aux)
        self.n_test = whole_number("n_test", 1)(n_test)
        self.blocks_per_epoch = whole_number("blocks_per_epoch", 1)(blocks_per_epoch)
        self.sampling: Sampling = sampling
        self.output_scales = output_scales("--data.output_scale", output_scale)
        self.dtype: DType = dtype
        self.tasks = ["aux", "main"]
        self._phase: tuple[list[str], Order, int] = (self.tasks, "interleaved", 0)
        # What trains is held by those who train on it anyway. Test inputs are many more, and used in turn.
        self._train = TensorCache(inf)
        self.designs: dict[Any, Any] = {}
        self.moments: dict[Any, Any] = {}
        self._test = TensorCache(_TEST_BYTES)

    # What subclasses say

    @abstractmethod
    def teacher(self, replica: int, task: str) -> Any:
        """Return the teacher of a replica's task."""

    @abstractmethod
    def apply_teacher(self, replica: int, task: str, x: Tensor) -> Tensor:
        """Return the targets (n,) that a teacher gives to inputs (n, D), in their dtype."""

    def published_generator(self, cell: Mapping[str, Any], *, pretraining: bool) -> torch.Generator:
        """Return the generator of the published draws as it is when the first inputs are drawn.

        Args:
            cell: A replica's values of the axes.
            pretraining: Whether ``aux`` trains alone.

        Raises:
            ConfigurationError: Where nothing was published.
        """
        raise ConfigurationError(
            f"--data.sampling published: {type(self).__name__} has no published draws; choose independent"
        )

    def stream(self, cell: Mapping[str, Any], *, pretraining: bool) -> tuple[object, ...]:
        """Return what moves the published draws of inputs beside seed and numbers of rows: nothing."""
        return ()

    def network_generator(self, replica: int, tasks: Sequence[str]) -> torch.Generator | None:
        """Return the generator of the published draws as it is when a replica's network is drawn.

        Args:
            replica: Its place in ``replicas``.
            tasks: Those that train from this start on.

        Returns:
            None where networks draw their weights by themselves.
        """
        return None

    def settings(self) -> dict[str, object]:
        """Return the options that both tasks depend on, for :meth:`fingerprint`."""
        names = ("in_features", "sampling", "dtype")
        size = {"k_aux": self.k_aux} if self.k_aux else {}
        return {"kind": type(self).__name__, **size, **{name: getattr(self, name) for name in names}}

    def own_options(self, replica: int) -> dict[str, Any]:
        """Return a replica's values of the options that somebody's own class has added: none here."""
        return {}

    def __str__(self) -> str:
        return described(self)

    def options(self) -> dict[str, object]:
        """Return all options, the axes of the grid with every value that a replica has."""
        axes = {name: [cell[name] for cell in self.replicas] for name in self.replicas[0]}
        sizes = {"n_aux": self.n_aux, "n_test": self.n_test}
        scales = {**self._scales(TEACHERS), **sizes}
        return {**self.settings(), **scales, **{name: list(dict.fromkeys(axes[name])) for name in axes}}

    # What there is

    @property
    def grid_size(self) -> int:
        """Number of replicas."""
        return len(self.replicas)

    @property
    def num_classes(self) -> dict[str, int]:
        """Number of outputs of each task, which is one."""
        return {"main": 1, "aux": 1}

    def train_size(self, task: str) -> int:
        """Return the number of training rows of a task; the largest where replicas differ."""
        self.check_task(task)
        return self.n_aux if task == "aux" else max(int(cell["n_main"]) for cell in self.replicas)

    def train_set(self, replica: int, task: str) -> tuple[Tensor, Tensor]:
        """Return what a replica trains on.

        Args:
            replica: Its place in ``replicas``.
            task: ``aux`` or ``main``.

        Returns:
            Inputs (n, D) and targets (n, 1). Replicas with equal inputs get the same inputs object; all of a
            seed get the same targets of ``aux``.

        Raises:
            ConfigurationError: For an unknown task.
        """
        return self._samples(self._train, "train", replica, task)

    def test_set(self, replica: int, task: str) -> tuple[Tensor, Tensor]:
        """Return ``n_test`` fresh inputs (n_test, D) and their targets (n_test, 1).

        The inputs are those of other replicas with equal draws, as long as they are kept: half a gigabyte of
        them is.

        Raises:
            ConfigurationError: For an unknown task.
        """
        return self._samples(self._test, "test", replica, task)

    def inputs_key(self, split: str, replica: int, task: str) -> tuple[object, ...]:
        """Return what tells the inputs of a replica's ``train`` or ``test`` set from others, undrawn."""
        self.check_task(task)
        cell = self.replicas[replica]
        stream = self.stream(cell, pretraining=self.pretraining) if self.sampling == "published" else ()
        return (cell["seed"], *stream, *self._drawn(split, task, cell))

    def share_inputs(self, other: "TeacherDataModule") -> None:
        """Keep inputs, and what is worked out of them, together with a data module of equal settings.

        Raises:
            ConfigurationError: If the settings differ.
        """
        if self._common() != other._common():
            raise ConfigurationError("data: modules whose settings differ share no inputs")
        self._train, self._test, self.moments = other._train, other._test, other.moments

    def _common(self) -> dict[str, object]:
        return {**self.settings(), "n_aux": self.n_aux, "n_test": self.n_test}

    def fingerprint(self, tasks: Sequence[str], order: Order = "interleaved") -> str:
        """Return a hash of all the data that training on ``tasks`` depends on.

        That of ``aux`` alone knows the seeds, but not how many replicas share each or what they are for.
        """
        teachers = ["pretrain"] if is_pretraining(tasks) else sorted(tasks)
        parts: list[object] = [sorted({**self.settings(), **self._scales(teachers)}.items()), sorted(tasks)]
        parts.append(order if len(tasks) > 1 else None)
        if "aux" in tasks:
            parts.append((self.n_aux, self._auxiliary_teachers()))
        if "main" in tasks:
            parts.append([sorted(cell.items()) for cell in self.replicas])
            # published main rows are drawn after the auxiliary ones
            parts.append(self.n_aux if self.sampling == "published" else None)
        return blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    def probe(self, trainer: Any = None) -> Tensor:
        """Return test inputs (1000 at most) for callbacks that look at representations."""
        return self.test_set(0, "main")[0][:1000]

    @property
    def pretraining(self) -> bool:
        """Whether the phase trains ``aux`` alone."""
        return is_pretraining(self._phase[0])

    def output_divisor(self, task: str, units: int) -> float:
        """Return what a task's output weights of 1 are divided by in this phase."""
        return units if self._output_scale(task) == "units" else units**0.5

    def _output_scale(self, task: str) -> OutputScale:
        return self.output_scales["pretrain" if task == "aux" and self.pretraining else task]

    def _scales(self, teachers: Sequence[str]) -> dict[str, object]:
        """Return the option ``output_scale`` as far as it is about some teachers: one for all or for each."""
        return {"output_scale": short_form({teacher: self.output_scales[teacher] for teacher in teachers})}

    # Lightning's hooks

    def set_phase(
        self, tasks: Sequence[str] | None = None, order: Order = "interleaved", first_epoch: int = 0
    ) -> None:
        """Say which tasks the next phase trains; the loaders are the same for all.

        Args:
            tasks: Their names; ``None`` for both.
            order: Of several tasks.
            first_epoch: The trainer's epoch at which the phase begins.

        Raises:
            ConfigurationError: For no task, an unknown task or an unknown order.
        """
        self._phase = (phase_tasks(tasks, self.tasks, order), order, first_epoch)

    def setup(self, stage: str | None = None) -> None:
        """Do nothing: what is needed is drawn when it is asked for."""

    def train_dataloader(self) -> BlockLoader:
        """Return a loader of ``blocks_per_epoch`` numbers; a new one with every call."""
        return BlockLoader(self.blocks_per_epoch)

    def val_dataloader(self) -> list[Any]:
        """Return no loader: there is no validation set."""
        return []

    def test_dataloader(self) -> BlockLoader:
        """Return a loader of one number."""
        return BlockLoader(1)

    def predict_dataloader(self) -> BlockLoader:
        """Return a loader of one number."""
        return BlockLoader(1)

    # Beneath

    def check_task(self, task: str) -> None:
        """Refuse an unknown task.

        Raises:
            ConfigurationError: Naming those that exist.
        """
        check_known("tasks", task, self.tasks)

    def _samples(self, cache: TensorCache, split: str, replica: int, task: str) -> tuple[Tensor, Tensor]:
        self.check_task(task)
        cell: Mapping[str, Any] = self.replicas[replica]
        inputs = self.inputs_key(split, replica, task)
        x = cache.get(inputs, lambda: self._rows(cell, self._drawn(split, task, cell)))
        key = ("targets", task, self._output_scale(task), *inputs, *self._decides(replica, task))
        return x, cache.get(key, lambda: self._targets(split, replica, task, x).unsqueeze(1))

    def _targets(self, split: str, replica: int, task: str, x: Tensor) -> Tensor:
        """Return the targets (n,) of inputs (n, D) to train on, or to test with."""
        return self.apply_teacher(replica, task, x)

    def _decides(self, replica: int, task: str) -> tuple[object, ...]:
        """Return the values of the axes that a task's targets depend on beside the draw of the inputs."""
        cell = self.replicas[replica]
        return () if task == "aux" else tuple(cell[name] for name in sorted(cell))

    def _auxiliary_teachers(self) -> list[object]:
        """Return what tells the auxiliary teachers from those of other grids."""
        return sorted({cell["seed"] for cell in self.replicas})

    def _drawn(self, split: str, task: str, cell: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
        """Return which sets have to be drawn after another for the last of them to be the one wanted."""
        order = [("aux", self.n_aux)]
        if task == "main":
            order.append(("main", int(cell["n_main"])))
        if split == "test":
            order.append(("test", self.n_test))
        return tuple(order) if self.sampling == "published" else (order[-1],)

    def _rows(self, cell: Mapping[str, Any], drawn: Sequence[tuple[str, int]]) -> Tensor:
        if self.sampling == "published":
            sizes = [size for _, size in drawn]
            generator = self.published_generator(cell, pretraining=self.pretraining)
            rows = published_rows(generator, sizes, self.in_features)
        else:
            rows = independent_rows(cell["seed"], *drawn[-1], self.in_features)
        return rows.to(DTYPES[self.dtype])
