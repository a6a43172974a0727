"""Gradients of the tasks, combined by an aggregator such as PCGrad or MGDA."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from lit_aux.callbacks._no_trace import attached
from lit_aux.errors import ConfigurationError, first_line
from lit_aux.finite import all_finite
from lit_aux.modules.methods.task_method import TaskMethod

if TYPE_CHECKING:
    from lit_aux.modules.base import AuxiliaryModule


class Aggregation(TaskMethod):
    """Steps along an aggregate of the tasks' gradients with respect to the shared parameters.

    Each batch passes once through the network, with batch normalization all tasks together (as in plain
    training), else task by task; every task's loss is then differentiated alone, and the gradients are the
    rows of a matrix (tasks, shared parameters), in float32 at least. Before the optimizer's step the rows are
    averaged over processes and the aggregator makes one vector of them, which is added to the shared
    parameters' gradients; clipping comes after. The readout's rows, and whatever else is not shared, get
    their own task's gradient. Batches that accumulate add up in the matrix. Where only one task is present,
    its row is taken as it is.

    Args:
        aggregator: Maps a matrix (tasks, parameters) to a vector (parameters): any aggregator of TorchJD.

    Raises:
        ConfigurationError: When a fit starts with a precision that scales losses, with a strategy that shards
            the network, or when the aggregator refuses a matrix.
    """

    option = "aggregator"

    def __init__(self, aggregator: nn.Module) -> None:
        super().__init__()
        self.aggregator = aggregator
        self.name = type(aggregator).__name__
        self._losses: Mapping[str, Tensor] = {}
        self._shared: list[nn.Parameter] = []
        self._own: list[nn.Parameter] = []
        self._matrix: Tensor | None = None
        self._present: Tensor | None = None

    def configure(self, tasks: Sequence[str], losses: Mapping[str, nn.Module]) -> None:
        """Try the aggregator on as many rows as there are tasks."""
        super().configure(tasks, losses)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self._aggregate(deepcopy(self.aggregator), torch.randn(len(tasks), 2 * len(tasks) + 1))

    def check(self, trainer: Trainer) -> None:
        """Refuse scaled losses and sharded networks."""
        self.refuse_scaling(trainer)
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise ConfigurationError(
                f"aggregator: {self.name} needs whole gradients, which {type(trainer.strategy).__name__} "
                "does not keep; use --trainer.strategy ddp"
            )

    def reset(self) -> None:
        """Forget what an aggregator remembers of earlier matrices."""
        forget = getattr(self.aggregator, "reset", None)
        if callable(forget):
            forget()

    def begin(self, trainer: Trainer, module: "AuxiliaryModule") -> None:
        """Find the shared parameters, and keep data-parallel training from reducing gradients itself."""
        super().begin(trainer, module)
        readout = {id(p) for p in module.net.readout_parameters()}
        training = [p for p in module.parameters() if p.requires_grad]
        shared = {id(p) for p in module.net.parameters()} - readout
        self._shared = [p for p in training if id(p) in shared]
        self._own = [p for p in training if id(p) not in shared]
        if any(p.is_complex() for p in self._shared):
            raise ConfigurationError(
                f"aggregator: {self.name} is for real numbers, and shared weights are complex; leave it out"
            )
        # Batch normalization ties the samples of a step together. Without it a task's gradient need not go
        # through the samples of the others.
        self.separate = not any(isinstance(layer, _BatchNorm) for layer in module.net.modules())
        self._matrix = self._present = None
        self._synchronize(trainer, False)

    def end(self, trainer: Trainer) -> None:
        """Leave data-parallel training as it was, and free the memory."""
        self._synchronize(trainer, True)
        self._matrix = self._present = None
        self._shared, self._own, self._losses = [], [], {}

    @staticmethod
    def _synchronize(trainer: Trainer, value: bool) -> None:
        if isinstance(trainer.strategy.model, DistributedDataParallel):
            trainer.strategy.model.require_backward_grad_sync = value

    def combine(self, losses: Mapping[str, Tensor], trainer: Trainer) -> Tensor:
        """Return the sum, and keep the parts."""
        self._losses = dict(losses)
        return super().combine(losses, trainer)

    def backward(self, total: Tensor, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Add each task's gradient to its row; those that are not shared go where they belong."""
        losses, self._losses = self._losses, {}
        parameters = self._shared + self._own
        matrix, present = self._storage(trainer)
        for number, (task, loss) in enumerate(losses.items()):
            gradients = torch.autograd.grad(
                loss / trainer.accumulate_grad_batches,
                parameters,
                retain_graph=number < len(losses) - 1,
                allow_unused=True,
            )
            row = self.tasks.index(task)
            present[row] = 1
            for piece, gradient in zip(_split(matrix[row], self._shared), gradients, strict=False):
                if gradient is not None:
                    piece += gradient
            for parameter, gradient in zip(self._own, gradients[len(self._shared) :], strict=True):
                _add(parameter, torch.zeros_like(parameter) if gradient is None else gradient)

    def _storage(self, trainer: Trainer) -> tuple[Tensor, Tensor]:
        if self._matrix is None or self._present is None:
            size = sum(p.numel() for p in self._shared)
            double = any(p.dtype == torch.float64 for p in self._shared)
            options: Any = {"dtype": torch.float64 if double else torch.float32}
            options["device"] = trainer.strategy.root_device
            self._matrix = torch.zeros(len(self.tasks), size, **options)
            self._present = torch.zeros(len(self.tasks), **options)
        return self._matrix, self._present

    @torch.no_grad()
    def before_step(self, trainer: Trainer) -> None:
        """Aggregate and add the result to the gradients of the shared parameters."""
        matrix, present = self._storage(trainer)
        self._reduce(trainer, matrix, present)
        rows = present > 0
        if bool(rows.any()) and self._shared:
            whole = matrix if bool(rows.all()) else matrix[rows]
            vector = self._combined(trainer, whole, rows)
            for parameter, piece in zip(self._shared, _split(vector, self._shared), strict=True):
                _add(parameter, piece.to(parameter.dtype))
        matrix.zero_()
        present.zero_()

    def _reduce(self, trainer: Trainer, matrix: Tensor, present: Tensor) -> None:
        """Average over processes: the rows, and the gradients of what is not shared."""
        if trainer.world_size == 1:
            return
        torch.distributed.all_reduce(present)
        own = []
        for parameter in self._own:  # this process may have no gradient: none of its rows was labelled
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            own.append(parameter.grad)
        for tensor in (matrix, *own):
            torch.distributed.all_reduce(tensor)
            tensor /= trainer.world_size

    def _combined(self, trainer: Trainer, matrix: Tensor, rows: Tensor) -> Tensor:
        if len(matrix) == 1:
            return matrix[0]
        if not all_finite(matrix):
            return matrix.sum(0)  # not finite either: whoever watches over the training sees it and says so
        taken: list[Tensor] = []
        weighting = [w for w in (getattr(self.aggregator, "weighting", None),) if isinstance(w, nn.Module)]
        hooks = (w.register_forward_hook(lambda _, __, weights: taken.append(weights)) for w in weighting)
        autocast = torch.autocast(matrix.device.type, enabled=False)
        with attached(hooks), self.draws_of_step(trainer), autocast:
            vector = self._aggregate(self.aggregator, matrix)
        if taken and taken[0].shape == (len(matrix),):
            weights = torch.zeros(len(rows), dtype=torch.float64, device=matrix.device)
            weights[rows] = taken[0].double()
            self.note(weights)
        return vector

    def _aggregate(self, aggregator: nn.Module, matrix: Tensor) -> Tensor:
        shape = f"{len(matrix)} tasks' gradients"
        try:
            vector = aggregator(matrix)
        except (ValueError, TypeError, RuntimeError, IndexError, AssertionError) as error:
            reason = first_line(error)
            raise ConfigurationError(f"aggregator: {self.name} refuses {shape}: {reason}") from error
        if not isinstance(vector, Tensor) or vector.shape != matrix.shape[1:]:
            raise ConfigurationError(
                f"aggregator: {self.name} makes no vector of {shape}; it must map a matrix (tasks, "
                "parameters) to one value a parameter, as torchjd.aggregation.UPGrad does"
            )
        return vector


def _split(vector: Tensor, parameters: Sequence[nn.Parameter]) -> Iterator[Tensor]:
    """Yield views of a flat vector in the shapes of parameters."""
    pieces = vector.split([p.numel() for p in parameters])  # type: ignore[no-untyped-call]
    for piece, parameter in zip(pieces, parameters, strict=True):
        yield piece.view(parameter.shape)


def _add(parameter: nn.Parameter, gradient: Tensor) -> None:
    """Add to a parameter's gradient, which a callback may have started."""
    parameter.grad = gradient.detach().clone() if parameter.grad is None else parameter.grad + gradient
