"""What the small networks of the teacher-student experiments have in common, and what they have to fit."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lit_aux.cores import at_most
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

    def objective(self, problems: Problems, rows: Tensor, names: Sequence[str], chunk: int = 0) -> object:
        """Return the losses of some replicas as a function of what trains, differentiated by autograd.

        Networks of lit_aux have gradients by hand in its place, which take a fifth to a seventh of its time.

        Args:
            problems: What they have to fit.
            rows: Indices of the replicas (k,).
            names: Parameters that train.
            chunk: Most replicas in one product; not used here.
        """
        return OutputObjective.of(self, problems, rows, names)

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

    def computing(self) -> AbstractContextManager[None]:
        """Let torch compute with as many threads as are worth while."""
        return at_most(self.threads)

    def _show(self, hidden: Callable[[int], Tensor]) -> None:
        """Pass each replica's hidden layer by those who listen; without any nothing is computed."""
        for replica, unit in enumerate(self.units):
            if unit._forward_hooks or unit._forward_pre_hooks:
                unit(hidden(replica))

    @abstractmethod
    def _outputs(self, x: Tensor) -> Tensor:
        """Return all outputs (R, n, O) for inputs (n, D), or (R, n, D).

        Where a class leaves :meth:`objective` as it is, parameters may hold fewer replicas than there are.
        """


@dataclass(frozen=True)
class SharedRows:
    """Replicas that share inputs x (n, d), and their targets (k, n, o) for outputs from ``start`` on."""

    x: Tensor
    targets: Tensor
    start: int
    weight: float

    def select(self, inside: list[int]) -> "SharedRows":
        """Return those of some of the replicas."""
        if len(inside) == len(self.targets):
            return self
        return replace(self, targets=self.targets[torch.tensor(inside, device=self.targets.device)])


TaskRows = tuple[list[slice], list[SharedRows]]
"""Which replicas share inputs of a task, and what they share."""


class OutputObjective:
    """Mean squared error over all rows of all tasks, each on its own outputs, for any network's replicas.

    Parameters (k, P) are those of :meth:`StudentNet.pack`. Gradients are autograd's.

    Args:
        net: The network, whose ``_outputs`` are asked for.
        names: Its parameters that train.
        tasks: What the replicas have to fit.
        scale: One over the number of rows, weighted, (k,).
        frozen: The other parameters of the replicas.
    """

    def __init__(
        self,
        net: "StudentNet",
        names: Sequence[str],
        tasks: list[TaskRows],
        scale: Tensor,
        frozen: Mapping[str, Tensor],
    ) -> None:
        self._net, self._names, self._tasks, self._scale, self._frozen = net, names, tasks, scale, frozen
        self.replicas = len(scale)
        # hooks on hidden layers are for the whole network, not for the replicas that are under way
        self._caller = _Outputs(net)
        self._shapes = [net.weights()[name].shape[1:] for name in names]

    @classmethod
    def of(
        cls, net: "StudentNet", problems: Problems, rows: Tensor, names: Sequence[str]
    ) -> "OutputObjective":
        """Group replicas by the inputs they share."""
        weights = net.weights()
        frozen = {name: value.detach()[rows] for name, value in weights.items() if name not in names}
        tasks, scale = by_inputs(net, problems, rows.tolist(), next(iter(weights.values())))
        return cls(net, list(names), tasks, scale, frozen)

    def value_and_gradient(self, theta: Tensor, out: Tensor) -> Tensor:
        """Return the losses (k,) and write the gradients."""
        with torch.enable_grad():
            leaf = theta.detach().requires_grad_()
            losses = self._losses(leaf)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        out.copy_(gradient)
        return losses.detach()

    @torch.no_grad()
    def value(self, theta: Tensor) -> Tensor:
        """Return the losses (k,)."""
        return self._losses(theta)

    def rows(self) -> int:
        """Return the number of training rows over all tasks; see ``equal_sizes``."""
        return sum(sizes_of(self._tasks))

    def batch(self, chosen: Tensor) -> "OutputObjective":
        """Return the objective of some rows, counted over tasks one after another; see ``batch_of``."""
        tasks = batch_of(self._tasks, chosen)
        return OutputObjective(self._net, self._names, tasks, self._scale, self._frozen)

    def select(self, keep: Tensor) -> "OutputObjective":
        """Return the objective of some of the replicas."""
        tasks = [narrowed(groups, members, keep.tolist()) for groups, members in self._tasks]
        frozen = {name: value[keep] for name, value in self._frozen.items()}
        return OutputObjective(self._net, self._names, tasks, self._scale[keep], frozen)

    def _losses(self, theta: Tensor) -> Tensor:
        losses = torch.zeros_like(self._scale)
        for groups, members in self._tasks:
            errors = []
            for group, rows in zip(groups, members, strict=True):
                outputs = self._outputs(theta, group, rows.x)
                own = outputs[..., rows.start : rows.start + rows.targets.shape[2]]
                errors.append(rows.weight * (own - rows.targets).square().sum((1, 2)))
            losses = losses + torch.cat(errors)
        return losses * self._scale

    def _outputs(self, theta: Tensor, group: slice, x: Tensor) -> Tensor:
        """Return all outputs (k, n, O) of a group of replicas."""
        parts = torch.split(theta[group], [shape.numel() for shape in self._shapes], dim=1)
        weights = {name: value[group] for name, value in self._frozen.items()}
        for name, shape, part in zip(self._names, self._shapes, parts, strict=True):
            weights[name] = part.reshape(len(part), *shape)
        found = functional_call(self._caller, {f"net.{name}": w for name, w in weights.items()}, (x,))
        count, expected = len(parts[0]), (len(parts[0]), len(x), self._net.outputs)
        if not isinstance(found, Tensor) or found.shape != expected:
            given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ConfigurationError(
                f"--model.backbone {type(self._net).__name__}: _outputs gives {given} for inputs "
                f"{tuple(x.shape)} and {count} replicas; return (replicas, rows, outputs), {expected}"
            )
        return found


class _Outputs(nn.Module):
    """A network without listeners that is called for all its outputs."""

    def __init__(self, net: "StudentNet") -> None:
        super().__init__()
        self.net = copy(net)
        self.net._modules = {**net._modules, "units": nn.ModuleList()}

    def forward(self, x: Tensor) -> Tensor:
        return self.net._outputs(x)


def by_inputs(
    net: "StudentNet", problems: Problems, rows: Sequence[int], like: Tensor
) -> tuple[list[TaskRows], Tensor]:
    """Group replicas by the inputs that they share.

    Args:
        net: Their network.
        problems: What they have to fit.
        rows: Their numbers (k).
        like: Of the dtype and on the device of what is returned.

    Returns:
        The groups of each task, and one over each replica's number of rows, weighted, (k,).
    """
    total = torch.zeros(len(rows), dtype=torch.float64)
    tasks = []
    for task in problems.tasks:
        weight = problems.weights.get(task, 1.0)
        groups = neighbours([problems.key(row, task) for row in rows])
        members = []
        for group in groups:
            loaded = [problems.load(row, task) for row in rows[group]]
            x = loaded[0][0].to(like)
            targets = torch.stack([y for _, y in loaded]).to(like)
            members.append(SharedRows(x, targets, net.task_slice(task).start, weight))
            total[group] += len(x) * weight
        tasks.append((groups, members))
    return tasks, (1 / total).to(like)


def sizes_of(tasks: Sequence[TaskRows]) -> list[int]:
    """Return each task's number of rows; see :func:`equal_sizes`."""
    return equal_sizes([[len(rows.x) for rows in members] for _, members in tasks])


def batch_of(tasks: Sequence[TaskRows], chosen: Tensor) -> list[TaskRows]:
    """Return some rows, counted over tasks one after another.

    As published, a task keeps its share of all rows: its mean over its rows in the batch is weighed by it. A
    task without rows there adds nothing.
    """
    found = []
    for (groups, members), part in zip(tasks, split_rows(chosen, sizes_of(tasks)), strict=True):
        more = len(members[0].x) / max(len(part), 1)
        some = [
            replace(rows, x=rows.x[part], targets=rows.targets[:, part], weight=rows.weight * more)
            for rows in members
        ]
        found.append((groups, some))
    return found


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
