"""Whether tasks pull the shared weights in directions that oppose each other."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_aux.callbacks._parameters import by_first_name
from lit_aux.callbacks.task_data import seeded
from lit_aux.callbacks.task_diagnostic import TaskDiagnostic
from lit_aux.errors import ConfigurationError
from lit_aux.functional.gradient_conflict import gradient_cosine
from lit_aux.ranges import Range, check


@dataclass(eq=False, repr=False, kw_only=True)
class GradientConflict(TaskDiagnostic):
    """Measures how each task's gradient lies to the step that was taken, and to the other tasks' gradients.

    ``{task}/conflict`` is the cosine between the shared parameters' gradient of the task's loss and the
    direction that the optimizer's step really took (weights before minus weights after, with momentum,
    weight decay, clipping and aggregation), both at the weights before the step; below 0 the step undoes what
    the task wants. ``{task}/cosine/{other}`` is the cosine of two tasks' gradients at the weights of the
    moment. Gradients are of a batch of the size of training batches, drawn for each step and task from the
    task's examples (not the batch that made the step, whose noise it would share). What is kept and logged is
    the mean over an epoch (Mueller et al., arXiv 2408.14677: of 200 batches).

    A step is a batch in which an optimizer that holds shared parameters steps, however many optimizers there
    are and whatever steps they take in it. A step that moves nothing (of a loss scaler, of a warm-up that
    starts at 0) is followed up by the next one.

    A measurement costs one backward pass a task and holds at most two gradients at a time, for any number of
    tasks: cosines of pairs are of one task with all others, another task in turn.

    Args:
        every_n_steps: Steps of the shared parameters between measurements.
        pairwise_every: Measure pairs with every so many of them; 0 for never.
        tasks: As for :class:`~lit_aux.callbacks.TaskDiagnostic`, as are the others.
        shared: The shared parameters.
        num_samples: Examples of each task.
        batch_size: Examples in a batch; by default those of a task in an optimizer step: the data module's
            ``batch_size`` (else 128), times processes and accumulated batches.
        data: Where examples come from.

    Raises:
        ConfigurationError: As for :class:`~lit_aux.callbacks.TaskDiagnostic`.
    """

    every_n_epochs: int | None = field(init=False)
    every_n_steps: int = 50
    pairwise_every: int = 2
    batch_size: int | None = None  # type: ignore[assignment]  # settled as training starts

    def __post_init__(self) -> None:
        self.every_n_epochs, self._given_size = None, self.batch_size
        if self.batch_size is None:
            self.batch_size = 128
        super().__post_init__()
        check("pairwise_every", self.pairwise_every, Range(least=1, also={0: "never"}))

    def _forget(self) -> None:
        super()._forget()
        self._before: dict[str, Tensor] | None = None
        self._steps_of_shared = 0
        self._due = self.every_n_steps
        self._stepped = False
        self._sums: dict[str, dict[str, tuple[float, int]]] = {}
        self._measured = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the results so far, and the sums of the epoch under way."""
        return super().state_dict() | {
            "sums": self._sums,
            "measured": self._measured,
            "steps": self._steps_of_shared,
            "due": self._due,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        super().load_state_dict(state_dict)
        self._sums, self._measured = state_dict["sums"], state_dict["measured"]
        self._steps_of_shared = state_dict.get("steps", 0)
        self._due = state_dict.get("due", self._due)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect the examples and settle the size of batches."""
        super().on_train_start(trainer, pl_module)
        if self._given_size is None:
            own = getattr(trainer.datamodule, "batch_size", None)  # type: ignore[attr-defined]
            size = own if isinstance(own, int) else 128
            self.batch_size = size * trainer.world_size * trainer.accumulate_grad_batches

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Keep the weights before a step that is to be measured."""
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not self.probe or held.isdisjoint(self._shared_now(pl_module)):
            return
        self._stepped = True
        if self._before is None and self._steps_of_shared + 1 >= self._due:
            self._before = {name: p.detach().clone() for name, p in _trained(pl_module).items()}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure the step that was just taken."""
        self._steps_of_shared += self._stepped
        self._stepped = False
        if self._before is not None:
            self.try_to_observe(trainer, pl_module)
            self._before = None
        self._steps = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what an epoch that was cut off has measured."""
        if self._sums:
            self._keep_means(trainer, pl_module)

    def why_nothing(self, trainer: Trainer) -> str:
        """Say why a fit ended without a measurement."""
        every, done = self.every_n_steps, self._steps_of_shared
        if not self._started or not self.probe:
            return super().why_nothing(trainer)
        if not done:
            return (
                "no optimizer step of the shared parameters was seen (a module that optimizes by itself must "
                "step what self.optimizers() returns)"
            )
        if done < every:
            return f"every_n_steps is {every} and the shared parameters took {done} step(s)"
        return "no step that was to be measured moved the shared parameters, or measuring failed"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep and log the means over the epoch."""
        self._epochs += 1
        self._keep_means(trainer, pl_module)

    def _keep_means(self, trainer: Trainer, pl_module: LightningModule) -> None:
        means = {
            task: {name: total / count for name, (total, count) in found.items()}
            for task, found in self._sums.items()
        }
        self._sums = {}
        self.keep(trainer, pl_module, means)

    def observe(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the latest step, and the pairs if it is their turn; add to the sums of the epoch."""
        before = self._before or {}
        self._check_shapes(pl_module, before)
        if all(torch.equal(before[name], p) for name, p in self.parameters(pl_module).items()):
            return  # a step that the loss scaler left out has no direction
        every = self.every_n_steps
        self._due = (self._steps_of_shared // every + 1) * every
        _exchange(pl_module, before)
        try:
            with self.looking(trainer, pl_module):
                self._add(self.measure(trainer, pl_module))
        finally:
            _exchange(pl_module, before, back=True)
        before.clear()  # pairs need the memory
        if self.pairwise_every and len(self.probe) > 1 and self._measured % self.pairwise_every == 0:
            with self.looking(trainer, pl_module):
                self._add(self._pairs(trainer, pl_module))
        self._measured += 1

    def _shared_now(self, module: LightningModule) -> set[int]:
        """Return which parameters count, by identity; none while all of them are frozen."""
        try:
            return {id(parameter) for parameter in self.parameters(module).values()}
        except ConfigurationError:
            return set()

    @staticmethod
    def _check_shapes(module: nn.Module, before: Mapping[str, Tensor]) -> None:
        """Raise if parameters have come or grown within the step: then there is no way back to measure at."""
        for name, parameter in _trained(module).items():
            if name not in before or before[name].shape != parameter.shape:
                raise ConfigurationError(f"{name!r} is not what it was before the step")

    def measure(self, trainer: Trainer, module: LightningModule) -> dict[str, dict[str, float]]:
        """Return each task's cosine with the step; the module has the weights before it."""
        parameters, after = self.parameters(module), self._before or {}

        def step() -> Iterator[Tensor]:
            yield from (p.detach() - after[name] for name, p in parameters.items())

        cosines = self._cosines(trainer, module, list(self.probe), step)
        return {task: {"conflict": value} for task, value in cosines.items()}

    def _pairs(self, trainer: Trainer, module: LightningModule) -> dict[str, dict[str, float]]:
        """Return the cosines of one task's gradient, another one every time, with those of the others."""
        tasks = list(self.probe)
        first = tasks[self._measured // self.pairwise_every % len(tasks)]
        reference = self._gradient(trainer, module, first)
        others = [task for task in tasks if task != first]
        values = self._cosines(trainer, module, others, lambda: reference)
        found = {task: {f"cosine/{first}": value} for task, value in values.items()}
        return {first: {f"cosine/{task}": value for task, value in values.items()}} | found

    def _cosines(
        self,
        trainer: Trainer,
        module: LightningModule,
        tasks: Sequence[str],
        direction: Callable[[], Iterable[Tensor]],
    ) -> dict[str, float]:
        """Return the cosines of tasks' gradients with a direction, over all processes."""
        cosines = dict.fromkeys(tasks, 0.0)
        for task in self.share(trainer, tasks):
            # no name for the gradient: it must be gone before the next one is made
            cosines[task] = float(gradient_cosine(self._gradient(trainer, module, task), direction()))
        return self.totals(trainer, cosines)

    def _gradient(self, trainer: Trainer, module: LightningModule, task: str) -> list[Tensor]:
        """Return the gradient of a task's loss on a batch that step and task determine."""
        size = len(self.probe[task][1])
        rows = torch.randperm(size, generator=seeded(f"{task} {trainer.global_step}"))[: self.batch_size]
        return self.gradient(module, self.loss(trainer, module, task, rows))

    def _add(self, values: Mapping[str, Mapping[str, float]]) -> None:
        for task, found in values.items():
            sums = self._sums.setdefault(task, {})
            for name, value in found.items():
                total, count = sums.get(name, (0.0, 0))
                sums[name] = (total + value, count + 1)


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return what a step may change: readouts too, whose weights task gradients depend on."""
    return {name: p for name, p in by_first_name(module).items() if p.requires_grad}


@torch.no_grad()
def _exchange(module: nn.Module, other: dict[str, Tensor], *, back: bool = False) -> None:
    """Swap weights with a copy of others, tensor by tensor, so that no third copy is needed.

    Args:
        module: The network.
        other: The others, which become its own.
        back: Whether this undoes a swap: in reverse order, since parameters may share memory.
    """
    trained = list(_trained(module).items())
    for name, parameter in reversed(trained) if back else trained:
        mine = parameter.detach().clone()
        parameter.copy_(other[name])
        other[name].copy_(mine)
