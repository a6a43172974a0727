"""How strongly the outputs for each task react to the shared weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.func import functional_call

from lit_aux.callbacks._no_trace import forgetting
from lit_aux.callbacks._parameters import by_first_name
from lit_aux.callbacks._task_model import TaskModel, on_device, undisturbed
from lit_aux.callbacks.task_data import seeded
from lit_aux.callbacks.task_diagnostic import TaskDiagnostic
from lit_aux.errors import ConfigurationError
from lit_aux.functional.fisher_trace import check_logits, fisher_trace
from lit_aux.ranges import LIMIT, check
from lit_aux.trees import count_rows


@dataclass(eq=False, repr=False, kw_only=True)
class FisherTrace(TaskDiagnostic):
    r"""Measures ``fisher_trace``, :math:`E_x E_{y \sim p(y|x)} \|\nabla_\theta \log p(y|x)\|^2` of each task.

    The trace of the Fisher information with respect to the shared weights, whose growth early in training
    tells of sharp minima later (Jastrzebski et al., "Catastrophic Fisher Explosion", ICML 2021). Labels are
    drawn from the network's softmax, whatever the loss it trains with, one for each example; see
    :func:`lit_aux.functional.fisher_trace`.

    Every example has a gradient of its own. Its norm follows from the inputs of layers and the gradients of
    their outputs, for about what training on these examples costs. Networks whose shared weights are not
    all in Linear, Conv1d, Conv2d, BatchNorm, GroupNorm, LayerNorm or Embedding layers that are used once are
    taken example by example (a line says so): next to nothing for small ones, but for large ones dear, on a
    CPU about ten times as much. Hooks on the gradients of weights have no part in it.

    Args:
        chunk: Compute gradients, of so many examples together, in place of norms; by default only where
            layers do not give these, and then as many as fit into 256 MiB, or one where that is faster.
        every_n_epochs: As for :class:`~lit_aux.callbacks.TaskDiagnostic`, as are the others.
        every_n_steps: Period in steps instead.
        tasks: The tasks to measure; outputs must be logits (examples, classes).
        shared: The weights that gradients are taken of.
        num_samples: Examples of each task.
        batch_size: Examples for which labels are drawn, and work is dealt to processes, together.
        data: Where examples come from.

    Raises:
        ConfigurationError: For ``chunk`` below 1; as training starts, for outputs that are no logits;
            and as for :class:`~lit_aux.callbacks.TaskDiagnostic`.
    """

    chunk: int | None = None
    num_samples: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        check("chunk", self.chunk, LIMIT)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect the examples, and see on every process that outputs are logits."""
        super().on_train_start(trainer, pl_module)
        model = self.model(pl_module)
        with undisturbed(trainer, pl_module, model), torch.no_grad():
            for task, batch in self.probe.items():
                x, _ = on_device(trainer, pl_module, batch, slice(0, 2))
                try:
                    check_logits(model.task_outputs(task, x))
                    _check_classes(batch[1])
                except ConfigurationError as error:
                    raise ConfigurationError(f"{self.user}: task {task!r}: {error}") from None

    def measure(self, trainer: Trainer, module: LightningModule) -> dict[str, dict[str, float]]:
        """Return the trace for each task."""
        model = self.model(module)
        shared, places = self.parameters(module), _places(module)
        sizes = {task: len(y) for task, (_, y) in self.probe.items()}
        work = [(task, start) for task, size in sizes.items() for start in range(0, size, self.batch_size)]
        sums = dict.fromkeys(sizes, 0.0)
        for task, start in self.share(trainer, work):
            x, _ = on_device(trainer, module, self.probe[task], slice(start, start + self.batch_size))
            trace = fisher_trace(
                partial(_logits, _Outputs(module, model, task), places),
                shared,
                x,
                generator=seeded(f"{task} {start}"),
                chunk=self.chunk,
                module=module,
                refused=self._tell,
            )
            sums[task] += trace * count_rows(x)
        totals = self.totals(trainer, sums)
        return {task: {"fisher_trace": value / sizes[task]} for task, value in totals.items()}

    def _forget(self) -> None:
        super()._forget()
        self._told_why = False

    def _tell(self, why: str) -> None:
        """Say once in a fit that each example has a backward pass of its own."""
        if not self._told_why:
            self._told_why = True
            rank_zero_info(f"{self.user}: {why}: each example has a backward pass of its own, which is slow")


def _check_classes(y: Any) -> None:
    """Refuse targets that are no classes: outputs of which nothing can be drawn may look like logits.

    Raises:
        ConfigurationError: For values, and for several labels an example.
    """
    if not isinstance(y, Tensor):
        return
    known = y[~y.isnan()] if y.is_floating_point() else y
    several = y.ndim > 1 and y[0].numel() > 1
    shares = several and y.is_floating_point() and bool(((y.sum(1) - 1).abs() < 1e-3).all())
    if (several or bool((known != known.round()).any())) and not shares:
        raise ConfigurationError(
            f"targets of shape {tuple(y.shape)} are no numbers of classes, of which labels could be drawn; "
            "name the tasks that are classifications by tasks="
        )


def _places(module: nn.Module) -> dict[str, list[str]]:
    """Return for each parameter, by its first name, where it is: each attribute of each module once.

    torch's own way with tied weights goes by names, of which a module that is used twice has two: it would
    exchange the weights there twice, and put back the wrong ones.
    """
    firsts = {id(parameter): name for name, parameter in by_first_name(module).items()}
    places: dict[str, list[str]] = {name: [] for name in firsts.values()}
    for prefix, owner in module.named_modules():
        for attribute, parameter in owner._parameters.items():
            if parameter is not None:
                places[firsts[id(parameter)]].append(f"{prefix}.{attribute}".lstrip("."))
    return places


def _logits(
    outputs: nn.Module, places: Mapping[str, list[str]], held: Mapping[str, Tensor], inputs: Any
) -> Tensor:
    """Return a task's outputs with other parameters in place of the module's own."""
    there = {f"module.{place}": tensor for name, tensor in held.items() for place in places[name]}
    logits: Tensor = functional_call(outputs, there, (inputs,), tie_weights=False)
    return logits


class _Outputs(nn.Module):
    """A task's outputs as a forward pass, through which parameters can be exchanged."""

    def __init__(self, module: nn.Module, model: TaskModel, task: str) -> None:
        super().__init__()
        self.module = module
        self._outputs_of = partial(model.task_outputs, task)

    def forward(self, x: Any) -> Tensor:
        """Return logits (n, classes)."""
        with forgetting(self.module):
            return self._outputs_of(x)
