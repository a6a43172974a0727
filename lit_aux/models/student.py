"""What the small networks of the teacher-student experiments have in common, and what they have to fit."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lit_aux.errors import ConfigurationError, check_known
from lit_aux.ranges import COUNT, POSITIVE, SCALE, check


@dataclass
class Problems:
    """What each replica has to fit.

    Attributes:
        tasks: The tasks that count.
        key: Of a replica and a task: equal where the inputs are the same.
        load: Of a replica and a task: inputs (n, D) and targets (n, o).
        weights: Weight of each task's rows; 1 by default.
        cache: What was worked out of inputs and targets, kept from one batch to the next.
        moments: What was worked out of inputs alone.
        whole: Whether no mini-batches are taken, so that the inputs themselves need not be kept.
    """

    tasks: Sequence[str]
    key: Callable[[int, str], Hashable]
    load: Callable[[int, str], tuple[Tensor, Tensor]]
    weights: dict[str, float] = field(default_factory=dict)
    cache: dict[Any, Any] = field(default_factory=dict)
    moments: dict[Any, Any] = field(default_factory=dict)
    whole: bool = False


@runtime_checkable
class Draws(Protocol):
    """What networks draw their weights from where these are part of published draws."""

    def network_generator(self, replica: int, tasks: Sequence[str]) -> torch.Generator | None:
        """Return the generator of a replica that begins with these tasks; None where it has none."""


class StudentNet(nn.Module, ABC):
    """A network whose parameters carry a leading replica axis; one replica is a plain network.

    Parameters are in two dictionaries, ``first`` and ``readout``, so that their names begin with these words.
    The readouts of all tasks lie side by side on one axis. The hidden layer of replica i, (n, width), passes
    through ``units.i``, where hooks (and ``RepresentationDimensionality(["*units.*"])``) find it.

    Attributes:
        replicas: Number of replicas R.
        task_slices: Where each task's outputs are.
        draws: What weights are drawn from in place of the seeds, see :meth:`draw_from`.

    Args:
        in_features: Number of inputs D.
        tasks: Number of outputs of each task.
        replicas: Number of replicas.
        init_scale: Scale of the weights at the start, for all replicas or for each.
        seeds: From what each replica draws its weights: equal seeds, equal weights. By default 0, 1, ...
        dtype: ``"float64"`` or ``"float32"``.

    Raises:
        ConfigurationError: If an option is out of range.
    """

    draws: Draws | None = None
    threads: int | None = None
    """Most threads of a CPU that are worth while; None for as many as torch has."""

    def __init__(
        self,
        in_features: int,
        tasks: Mapping[str, int] | None = None,
        *,
        replicas: int = 1,
        init_scale: float | Sequence[float] = 1e-3,
        seeds: Sequence[int] | None = None,
        dtype: str = "float64",
    ) -> None:
        super().__init__()
        check("in_features", in_features, COUNT)
        check("replicas", replicas, COUNT)
        check_known("dtype", dtype, ["float32", "float64"])
        self.in_features = in_features
        self.init_scale = init_scale
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.first = nn.ParameterDict()
        self.readout = nn.ParameterDict()
        self.configure(tasks or {"main": 1}, range(replicas) if seeds is None else seeds)

    def configure(self, tasks: Mapping[str, int], seeds: Iterable[int]) -> None:
        """Take tasks and replicas, and draw the weights anew.

        Args:
            tasks: Number of outputs of each task.
            seeds: One a replica.

        Raises:
            ConfigurationError: If a number does not fit.
        """
        self.seeds = list(seeds)
        self.replicas = len(self.seeds)
        if self.replicas < 1:
            raise ConfigurationError(f"replicas: {self.replicas} must be at least 1")
        if not tasks or min(tasks.values()) < 1:
            raise ConfigurationError(f"tasks: {dict(tasks)} must name tasks with at least one output each")
        self.scales = self._by_replica("init_scale", self.init_scale).clone()
        check("init_scale", self.init_scale, POSITIVE)
        check("init_scale", self.init_scale, SCALE)
        self.tasks = dict(tasks)
        ends = [*accumulate(tasks.values())]
        self.task_slices = {t: slice(end - n, end) for (t, n), end in zip(tasks.items(), ends, strict=True)}
        self.outputs = ends[-1]
        self.units = nn.ModuleList(nn.Identity() for _ in range(self.replicas))
        self._draw()

    # What subclasses say

    @abstractmethod
    def _draw(self) -> None:
        """Fill ``first`` and ``readout``."""

    @abstractmethod
    def reset_readout(self, scale: float | Sequence[float] = 1.0, tasks: Iterable[str] | None = None) -> None:
        """Draw readouts anew at the initial scale times ``scale`` (for all replicas, or for each)."""

    @abstractmethod
    def objective(self, problems: Problems, rows: Tensor, names: Sequence[str], chunk: int) -> object:
        """Return the losses of some replicas as a function of what trains; see ``Student``."""

    def as_drawn(self) -> bool:
        """Return whether the weights are those that the seeds give, untrained and not replaced."""
        return False

    def draw_from(self, draws: Draws, tasks: Sequence[str], *, start: bool = True) -> None:
        """Draw weights, now and in :meth:`reset_readout`, from published draws, if there are any.

        Args:
            draws: Such as a teacher data module; what has no generator for networks changes nothing.
            tasks: Those that train from this start on. Readouts of others stay as they are.
            start: Whether the start is drawn now.
        """

    # For everybody

    def task_slice(self, task: str) -> slice:
        """Return where a task's outputs are.

        Raises:
            ConfigurationError: For a task that the network does not have.
        """
        check_known("task", task, self.task_slices)
        return self.task_slices[task]

    def factors(self, scale: float | Sequence[float]) -> Tensor:
        """Return a scale for each replica, (R,) float64."""
        return self._by_replica("readout_scale", scale)

    def _by_replica(self, option: str, given: float | Sequence[float]) -> Tensor:
        """Return one number a replica, of one for all or for each."""
        values = torch.as_tensor(given, dtype=torch.float64)
        if values.ndim > 1 or (values.ndim == 1 and len(values) != self.replicas):
            raise ConfigurationError(
                f"{option}: {len(values)} values for {self.replicas} replicas; give one, or one for each"
            )
        return values.expand(self.replicas)

    def weights(self) -> dict[str, nn.Parameter]:
        """Return the parameters by name, ``first.*`` and then ``readout.*``, in the order of :meth:`pack`."""
        return dict(self.named_parameters())

    def pack(self, rows: Tensor, names: Sequence[str]) -> Tensor:
        """Return some parameters of some replicas as a matrix (k, P)."""
        weights = self.weights()
        return torch.cat([weights[name].detach()[rows].reshape(len(rows), -1) for name in names], dim=1)

    @torch.no_grad()
    def unpack(self, theta: Tensor, rows: Tensor, names: Sequence[str]) -> None:
        """Write a matrix (k, P) of :meth:`pack` back into the parameters of some replicas."""
        weights = self.weights()
        parts = torch.split(theta, [weights[name][0].numel() for name in names], dim=1)
        for name, part in zip(names, parts, strict=True):
            parameter = weights[name]
            parameter[rows] = part.reshape(len(rows), *parameter.shape[1:]).to(parameter.dtype)

    def forward(self, x: Tensor, task: str | None = None) -> Tensor | dict[str, Tensor]:
        """Return outputs.

        Args:
            x: Inputs (n, D) for all replicas, or (R, n, D).
            task: The task; None for a dict over all.

        Returns:
            (R, n, o), or (n, o) for one replica and inputs (n, D).
        """
        outputs = self._outputs(x)
        if self.replicas == 1 and x.ndim == 2:
            outputs = outputs[0]
        if task is not None:
            return outputs[..., self.task_slice(task)]
        return {name: outputs[..., where] for name, where in self.task_slices.items()}

    def forward_tasks(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs of each task on its own inputs."""
        return {task: self(x, task) for task, x in inputs.items()}

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Let torch compute with as many threads as are worth while."""
        before = torch.get_num_threads()
        torch.set_num_threads(min(before, self.threads or before))
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _show(self, hidden: Callable[[int], Tensor]) -> None:
        """Pass each replica's hidden layer by those who listen; without any nothing is computed."""
        for replica, unit in enumerate(self.units):
            if unit._forward_hooks or unit._forward_pre_hooks:
                unit(hidden(replica))

    @abstractmethod
    def _outputs(self, x: Tensor) -> Tensor:
        """Return all outputs (R, n, O)."""


def neighbours(keys: Sequence[Hashable]) -> list[slice]:
    """Return the stretches of equal neighbours."""
    starts = [i for i in range(len(keys)) if i == 0 or keys[i] != keys[i - 1]]
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(keys)], strict=True)]


def split_rows(chosen: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Divide indices of rows, counted over tasks of these sizes one after another, among the tasks."""
    ends = zip(sizes, accumulate(sizes), strict=True)
    return [chosen[(chosen >= end - n) & (chosen < end)] - (end - n) for n, end in ends]


def equal_sizes(sizes: Sequence[Sequence[int]]) -> list[int]:
    """Return each task's number of rows.

    Args:
        sizes: For each task, the numbers of its groups of replicas.

    Raises:
        ConfigurationError: If replicas differ, so that they have no mini-batches in common.
    """
    for some in sizes:
        if len(set(some)) > 1:
            raise ConfigurationError(
                f"batch_size: replicas with {min(some)} and with {max(some)} rows share no mini-batches; "
                "train them in separate runs, or on all rows at once"
            )
    return [some[0] for some in sizes]


def narrowed(
    groups: Sequence[slice], members: Sequence[Any], keep: Sequence[int]
) -> tuple[list[slice], list[Any]]:
    """Keep some rows of groups; those that keep none are gone.

    Args:
        groups: Which rows each holds.
        members: What they hold, with a ``select(rows)`` of its own rows.
        keep: The rows.

    Returns:
        The groups by their new rows, and what they hold.
    """
    kept, found, start = [], [], 0
    for group, member in zip(groups, members, strict=True):
        if inside := [i - group.start for i in keep if group.start <= i < group.stop]:
            kept.append(slice(start, start + len(inside)))
            found.append(member.select(inside))
            start += len(inside)
    return kept, found
