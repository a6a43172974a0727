"""A shared backbone with one readout matrix whose row slices are the tasks, and heads of one's own."""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from lit_aux.errors import ConfigurationError, check_known
from lit_aux.ranges import COUNT, NOT_NEGATIVE, WHOLE, check
from lit_aux.tasks import Task, outputs_of
from lit_aux.trees import concatenated, count_rows, form_of

_RANKS = {"tokens": 3, "dense": 4}
"""Dimensions that the features of tasks have whose outputs are not one for each example."""
_MASKS = ("attention_mask", "mask")


class MultiHeadNet(nn.Module):
    """A backbone shared by named tasks, each of which reads its own rows of one linear readout.

    All tasks sit in one matrix, so that every parameter joins every training step, also where a step holds a
    single task: rows of absent tasks get a gradient of exactly zero, and data-parallel training needs no
    search for unused parameters. So it is with heads of one's own.

    Features are one vector an example, (B, F). Where a task is of kind ``tokens`` or ``dense``, or has a head
    of its own, they may be one a token, (B, T, F), or a map, (B, F, H, W): the readout is applied to each
    token or pixel, and tasks of other kinds read the mean over tokens (those that ``attention_mask`` or
    ``mask`` among the inputs says are there) or pixels. Outputs of ``dense`` tasks are enlarged to the size
    of the image.

    Args:
        backbone: Maps inputs to features; any module. Inputs that are a mapping are handed over by name, a
            tuple in order.
        tasks: What each task is, or its number of outputs (classes); the rows lie in this order.
        num_features: F. By default ``backbone.num_features``.
        heads: By task, what maps features, as the backbone returns them, to outputs (B, C, ...) in place of
            rows of the readout.

    Attributes:
        readout: ``nn.Linear(F, sum of outputs)``; hooks on it see the logits of all tasks side by side.
        task_slices: The readout's rows of each task that has no head of its own.

    Raises:
        ConfigurationError: No task, a task without outputs, an unknown task among ``heads``, or F neither
            given nor known to the backbone.

    Example:
        >>> import torch
        >>> from lit_aux.models import MultiHeadNet
        >>> net = MultiHeadNet(torch.nn.Linear(4, 8), {"main": 2, "aux": 5}, num_features=8)
        >>> {task: out.shape[1] for task, out in net(torch.zeros(3, 4)).items()}
        {'main': 2, 'aux': 5}
        >>> net(torch.zeros(3, 4), task="main").shape
        torch.Size([3, 2])
    """

    kinds: Mapping[str, str] = {}
    """Of the tasks that are neither read from one vector an example nor from a head of their own."""

    def __init__(
        self,
        backbone: nn.Module,
        tasks: Mapping[str, int | Task],
        *,
        num_features: int | None = None,
        heads: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        own = _own_heads(tasks, heads)
        outputs = outputs_of(tasks)
        linear = {task: size for task, size in outputs.items() if task not in own}
        if linear or num_features is not None:
            num_features = _feature_width(backbone) if num_features is None else num_features
            check("num_features", num_features, COUNT)
        self.num_features = num_features or 0
        self.task_slices = _slices(linear, outputs)
        self.backbone = backbone
        self.readout: Any = nn.Linear(self.num_features, sum(linear.values())) if linear else nn.Identity()
        # Attributes that decide nothing are left out: weights of networks without them are known by the rest.
        if own:
            # a slash, so that no task's name meets one of ModuleDict's own attributes
            self.heads = nn.ModuleDict({f"/{task}": head for task, head in own.items()})
            self._outputs = outputs
        kinds = {name: task.kind for name, task in tasks.items() if isinstance(task, Task)}
        kinds = {name: kind for name, kind in kinds.items() if kind in _RANKS}
        if kinds:
            self.kinds = kinds

    @property
    def _heads(self) -> nn.ModuleDict | None:
        return cast(nn.ModuleDict | None, self._modules.get("heads"))

    def _head(self, task: str) -> nn.Module | None:
        """Return the head of a task's own; None where it reads rows of the readout."""
        key = f"/{task}"
        return self._heads[key] if self._heads is not None and key in self._heads else None

    @property
    def tasks(self) -> dict[str, int]:
        """Number of outputs of each task, in the order of the readout's rows."""
        if self._heads is not None:
            return dict(self._outputs)
        return {task: rows.stop - rows.start for task, rows in self.task_slices.items()}

    def features(self, x: Any) -> Tensor:
        """Return the backbone's features of inputs (B, ...), in the backbone's dtype.

        Returns:
            (B, F); where tasks are read by token, by pixel or by heads of their own, any shape that these
            take.

        Raises:
            ConfigurationError: The backbone returned another shape.
        """
        features: Tensor = _called(self.backbone, x)
        if self._heads is None and not self.kinds and not self._fits(features, 2):
            raise ConfigurationError(
                f"num_features: {type(self.backbone).__name__} returned features of shape "
                f"{tuple(features.shape)} where (batch, {self.num_features}) was expected; set num_features, "
                "or pool and flatten inside the backbone"
            )
        return features

    def _fits(self, features: Tensor, rank: int) -> bool:
        """Whether features have so many dimensions, and F of them."""
        where = 1 if rank == 4 else -1
        return features.ndim == rank and features.shape[where] == self.num_features

    def forward(self, x: Any, task: str | None = None) -> Tensor | dict[str, Tensor]:
        """Compute logits of one task, or of all.

        Args:
            x: Inputs (B, ...), a tensor or a collection of tensors.
            task: The task to read out; all tasks by default.

        Returns:
            Logits (B, outputs of ``task``, ...), or without ``task`` a dict of them with every task's name.

        Raises:
            ConfigurationError: There is no such task.
        """
        if task is not None:
            check_known("task", task, self.tasks)
        features = self.features(x)
        read = self._read(features, x, list(self.tasks) if task is None else [task])
        return read if task is None else read[task]

    def forward_tasks(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Compute each task's logits on that task's own inputs, in one pass through the backbone.

        Inputs of equal shape, dtype and device are concatenated: a mixed step costs one pass, and batch
        normalization sees the mixed batch. Inputs that differ in these take a pass for each kind.

        Args:
            inputs: Inputs (B_t, ...) of each task t.

        Returns:
            Logits (B_t, outputs of t, ...) of each task t, in the order of ``inputs``.

        Raises:
            ConfigurationError: There is no such task.
        """
        kinds: dict[Hashable, list[str]] = {}
        for task, x in inputs.items():
            check_known("task", task, self.tasks)
            kinds.setdefault(form_of(x), []).append(task)
        logits: dict[str, Tensor] = {}
        for tasks in kinds.values():
            parts = [inputs[task] for task in tasks]
            joint = concatenated(parts)
            sizes = [count_rows(x) for x in parts]
            features = self.features(joint)
            if self._heads is None and not self.kinds:  # one product, whatever the tasks
                read = torch.split(self.readout(features), sizes)
                logits |= {t: some[:, self.task_slices[t]] for t, some in zip(tasks, read, strict=True)}
                continue
            for task, some, x in zip(tasks, torch.split(features, sizes), parts, strict=True):
                logits[task] = self._read(some, x, [task])[task]
        self._reach_absent(logits)
        return {task: logits[task] for task in inputs}

    def _read(self, features: Tensor, x: Any, tasks: list[str]) -> dict[str, Tensor]:
        """Return the logits of tasks on the same features."""
        found: dict[str, Tensor] = {}
        shared: dict[int, Tensor] = {}  # the readout of all tasks whose outputs have so many dimensions
        for task in tasks:
            if (head := self._head(task)) is not None:
                found[task] = self._by_head(head, task, features)
            else:
                rank = _RANKS.get(self.kinds.get(task, ""), 2)
                if rank not in shared:
                    shared[rank] = self._linear(task, features, x, rank)
                found[task] = shared[rank][:, self.task_slices[task]]
            if self.kinds.get(task) == "dense" and isinstance(x, Tensor) and x.ndim == 4:
                found[task] = enlarged(found[task], x.shape[-2:])
        return found

    def _linear(self, task: str, features: Tensor, x: Any, rank: int) -> Tensor:
        """Return the readout of all tasks: of each example (B, C), token (B, C, T) or pixel (B, C, H, W)."""
        if rank > 2 and self._fits(features, rank):
            return self.readout(features).movedim(-1, 1) if rank == 3 else self._by_pixel(features)
        if rank == 2 and self._fits(features, 3):
            return self.readout(_mean_over_tokens(features, x))  # type: ignore[no-any-return]
        if rank == 2 and self._fits(features, 4):
            return self.readout(features.mean((2, 3)))  # type: ignore[no-any-return]
        if rank == 2 and self._fits(features, 2):
            return self.readout(features)  # type: ignore[no-any-return]
        wanted = {2: "batch, {}", 3: "batch, tokens, {}", 4: "batch, {}, height, width"}[rank]
        kind = f" by kind {self.kinds[task]!r}" if task in self.kinds else ""
        raise ConfigurationError(
            f"tasks: {task!r}{kind} reads features ({wanted.format(self.num_features)}), and "
            f"{type(self.backbone).__name__} returned {tuple(features.shape)}; give another backbone, "
            "num_features, or the task a head of its own"
        )

    def _by_pixel(self, features: Tensor) -> Tensor:
        return self.readout(features.movedim(1, -1)).movedim(-1, 1)  # type: ignore[no-any-return]

    def _by_head(self, head: nn.Module, task: str, features: Tensor) -> Tensor:
        outputs: Tensor = head(features)
        if not isinstance(outputs, Tensor) or outputs.ndim < 2 or outputs.shape[1] != self._outputs[task]:
            found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ConfigurationError(
                f"heads: that of task {task!r} returned {found}; it must be (batch, "
                f"{self._outputs[task]}, ...), its number of outputs second"
            )
        return outputs

    def _reach_absent(self, logits: dict[str, Tensor]) -> None:
        """Let the parameters of heads whose task is not in the step have a part in it: gradients of zero."""
        if self._heads is None or not torch.is_grad_enabled() or not logits:
            return
        absent = [head for name, head in self._heads.items() if name[1:] not in logits]
        # also of what does not train, as torch.func has it within: it tells nobody
        idle = [p for head in absent for p in head.parameters()]
        if self.task_slices and not set(self.task_slices) & set(logits):
            idle += list(self.readout.parameters())
        if idle:
            task = next(iter(logits))
            logits[task] = logits[task] + sum((p * 0).sum() for p in idle)

    @torch.no_grad()
    def reset_readout(self, scale: float = 1.0, tasks: Iterable[str] | None = None) -> None:
        """Draw the readout anew, in place, as ``nn.Linear`` does (uniform within 1/sqrt(F)), times ``scale``.

        Args:
            scale: Factor on weights and biases; 0 starts from zeros.
            tasks: The tasks whose rows change; all by default.

        Raises:
            ConfigurationError: There is no such task, or ``scale`` is negative, infinite or NaN.
        """
        check("scale", scale, NOT_NEGATIVE)
        names = list(self.tasks if tasks is None else tasks)
        for task in names:
            check_known("task", task, self.tasks)
            if (head := self._head(task)) is not None:
                _draw_anew(head, task, scale)
                continue
            rows = self.task_slices[task]
            # Drawn on the CPU, so that a seed gives the same rows on every device.
            fresh = nn.Linear(self.num_features, rows.stop - rows.start)
            self.readout.weight[rows] = (scale * fresh.weight).to(self.readout.weight)
            self.readout.bias[rows] = (scale * fresh.bias).to(self.readout.bias)

    def readout_parameters(self) -> list[nn.Parameter]:
        """Return the readout's weight and bias (shared by all tasks), and the parameters of heads."""
        heads = [] if self._heads is None else list(self._heads.parameters())
        return [*self.readout.parameters(), *heads]

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Return the backbone's parameters."""
        return list(self.backbone.parameters())


def enlarged(outputs: Tensor, size: torch.Size) -> Tensor:
    """Return outputs per pixel (B, C, h, w) in another size, interpolated between the pixels' centres."""
    if outputs.ndim != 4 or outputs.shape[-2:] == size:
        return outputs
    return nn.functional.interpolate(outputs, tuple(size), mode="bilinear", align_corners=False)


def _called(backbone: nn.Module, x: Any) -> Any:
    """Call a backbone with the members of a batch: by name, in order, or as they are."""
    if isinstance(x, Mapping):
        return backbone(**x)
    return backbone(*x) if isinstance(x, list | tuple) else backbone(x)


def _mean_over_tokens(features: Tensor, x: Any) -> Tensor:
    """Return the mean (B, F) over the tokens that are there, of features (B, T, F)."""
    masks = [x[name] for name in _MASKS if name in x] if isinstance(x, Mapping) else []
    if not masks or masks[0].shape != features.shape[:2]:
        return features.mean(1)
    there: Tensor = (masks[0] != 0).unsqueeze(-1)
    count = there.sum(1).clamp(min=1)
    return torch.where(there, features, 0).sum(1) / count.to(features)


def _draw_anew(head: nn.Module, task: str, scale: float) -> None:
    """Draw a head's weights as its layers do when they are made, and scale those of its last layer."""
    layers = [m for m in head.modules() if next(m.parameters(recurse=False), None) is not None]
    for layer in layers:
        draw = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
        if not callable(draw):
            raise ConfigurationError(
                f"readout: the head of task {task!r} cannot be drawn anew: {type(layer).__name__} has "
                "weights and no reset_parameters(); give it one, or keep the readout"
            )
        draw()
    for parameter in layers[-1].parameters(recurse=False) if layers and scale != 1 else ():
        parameter.mul_(scale)


def _own_heads(
    tasks: Mapping[str, int | Task], heads: Mapping[str, nn.Module] | None
) -> dict[str, nn.Module]:
    """Return the heads of tasks that have one of their own: given here, or with the task."""
    for task, head in (heads or {}).items():
        check_known("heads", task, tasks)
        if not isinstance(head, nn.Module) or type(head) is nn.Module:
            raise ConfigurationError(
                f"heads: {head!r} of task {task!r} is no module; give one, or leave it out"
            )
    found = {n: t.head for n, t in tasks.items() if isinstance(t, Task) and t.head is not None}
    return {name: one for name, one in {**found, **(heads or {})}.items() if one is not None}


def _slices(linear: Mapping[str, int], outputs: Mapping[str, int]) -> dict[str, slice]:
    """Lay the tasks' rows one after the other."""
    if not outputs:
        raise ConfigurationError("tasks: {} is empty; name at least one task and its number of classes")
    slices: dict[str, slice] = {}
    start = 0
    for task, size in outputs.items():
        check(f"tasks: outputs of {task!r}", [size], WHOLE)
        if task in linear:
            slices[task] = slice(start, start + size)
            start += size
    return slices


def _feature_width(backbone: nn.Module) -> int:
    """Return ``backbone.num_features``.

    A guess from the layers would be wrong wherever something follows the last one, so it is only a hint.
    """
    width = getattr(backbone, "num_features", None)
    if isinstance(width, int):
        return width
    linears = [m.out_features for m in backbone.modules() if isinstance(m, nn.Linear)]
    hint = f" (its last linear layer has {linears[-1]})" if linears else ""
    raise ConfigurationError(
        f"num_features: {type(backbone).__name__} does not say how many features it returns; "
        f"set num_features to that number{hint}"
    )
