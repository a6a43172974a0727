"""A shared backbone with one readout matrix whose row slices are the tasks."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lit_aux.errors import ConfigurationError, check_known
from lit_aux.ranges import COUNT, NOT_NEGATIVE, WHOLE, check


class MultiHeadNet(nn.Module):
    """A backbone shared by named tasks, each of which reads its own rows of one linear readout.

    All tasks sit in one matrix, so that every parameter joins every training step, also where a step holds a
    single task: rows of absent tasks get a gradient of exactly zero, and data-parallel training needs no
    search for unused parameters.

    Args:
        backbone: Maps inputs to features (B, F); any module.
        tasks: Number of outputs (classes) of each task; the rows lie in this order.
        num_features: F. By default ``backbone.num_features``.

    Attributes:
        readout: ``nn.Linear(F, sum of outputs)``; hooks on it see the logits of all tasks side by side.
        task_slices: The readout's rows of each task.

    Raises:
        ConfigurationError: No task, a task without outputs, or F neither given nor known to the backbone.

    Example:
        >>> import torch
        >>> from lit_aux.models import MultiHeadNet
        >>> net = MultiHeadNet(torch.nn.Linear(4, 8), {"main": 2, "aux": 5}, num_features=8)
        >>> {task: out.shape[1] for task, out in net(torch.zeros(3, 4)).items()}
        {'main': 2, 'aux': 5}
        >>> net(torch.zeros(3, 4), task="main").shape
        torch.Size([3, 2])
    """

    def __init__(
        self, backbone: nn.Module, tasks: Mapping[str, int], *, num_features: int | None = None
    ) -> None:
        super().__init__()
        self.num_features = _feature_width(backbone) if num_features is None else num_features
        check("num_features", self.num_features, COUNT)
        self.task_slices = _slices(tasks)
        self.backbone = backbone
        self.readout = nn.Linear(self.num_features, sum(tasks.values()))

    @property
    def tasks(self) -> dict[str, int]:
        """Number of outputs of each task, in the order of the readout's rows."""
        return {task: rows.stop - rows.start for task, rows in self.task_slices.items()}

    def features(self, x: Tensor) -> Tensor:
        """Return the backbone's features (B, F) of inputs (B, ...), in the backbone's dtype.

        Raises:
            ConfigurationError: The backbone returned another shape.
        """
        features: Tensor = self.backbone(x)
        if features.ndim != 2 or features.shape[1] != self.num_features:
            raise ConfigurationError(
                f"num_features: {type(self.backbone).__name__} returned features of shape "
                f"{tuple(features.shape)} where (batch, {self.num_features}) was expected; set num_features, "
                "or pool and flatten inside the backbone"
            )
        return features

    def forward(self, x: Tensor, task: str | None = None) -> Tensor | dict[str, Tensor]:
        """Compute logits of one task, or of all.

        Args:
            x: Inputs (B, ...).
            task: The task to read out; all tasks by default.

        Returns:
            Logits (B, outputs of ``task``), or without ``task`` a dict of them with every task's name.

        Raises:
            ConfigurationError: There is no such task.
        """
        rows = None if task is None else self._rows(task)
        logits = self.readout(self.features(x))
        if rows is not None:
            return logits[:, rows]  # type: ignore[no-any-return]
        return {name: logits[:, rows] for name, rows in self.task_slices.items()}

    def forward_tasks(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute each task's logits on that task's own inputs, in one pass through the backbone.

        Inputs of equal shape, dtype and device are concatenated: a mixed step costs one pass, and batch
        normalization sees the mixed batch. Inputs that differ in these take a pass for each kind.

        Args:
            inputs: Inputs (B_t, ...) of each task t.

        Returns:
            Logits (B_t, outputs of t) of each task t, in the order of ``inputs``.

        Raises:
            ConfigurationError: There is no such task.
        """
        kinds: dict[object, list[str]] = {}
        for task, x in inputs.items():
            self._rows(task)
            kinds.setdefault((x.shape[1:], x.dtype, x.device), []).append(task)
        logits: dict[str, Tensor] = {}
        for tasks in kinds.values():
            parts = [inputs[task] for task in tasks]
            joint = self.readout(self.features(parts[0] if len(parts) == 1 else torch.cat(parts)))
            for task, part in zip(tasks, joint.split([len(x) for x in parts]), strict=True):
                logits[task] = part[:, self.task_slices[task]]
        return {task: logits[task] for task in inputs}

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
        chosen = [self._rows(task) for task in (self.task_slices if tasks is None else list(tasks))]
        for rows in chosen:
            # Drawn on the CPU, so that a seed gives the same rows on every device.
            fresh = nn.Linear(self.num_features, rows.stop - rows.start)
            self.readout.weight[rows] = (scale * fresh.weight).to(self.readout.weight)
            self.readout.bias[rows] = (scale * fresh.bias).to(self.readout.bias)

    def readout_parameters(self) -> list[nn.Parameter]:
        """Return the readout's weight and bias (shared by all tasks)."""
        return list(self.readout.parameters())

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Return the backbone's parameters."""
        return list(self.backbone.parameters())

    def _rows(self, task: str) -> slice:
        """Return the rows of ``task``."""
        check_known("task", task, self.task_slices)
        return self.task_slices[task]


def _slices(tasks: Mapping[str, int]) -> dict[str, slice]:
    """Lay the tasks' rows one after the other."""
    if not tasks:
        raise ConfigurationError("tasks: {} is empty; name at least one task and its number of classes")
    slices: dict[str, slice] = {}
    start = 0
    for task, size in tasks.items():
        check(f"tasks: outputs of {task!r}", [size], WHOLE)
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
