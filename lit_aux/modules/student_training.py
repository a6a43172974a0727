"""Training of a batch of students, whose replicas an integrator moves."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lit_aux.errors import ConfigurationError
from lit_aux.integrators import Exact
from lit_aux.models import DiagonalNet, StudentNet
from lit_aux.models.student import Draws
from lit_aux.modules.student_phase import StudentPhase
from lit_aux.modules.training import Outputs, Training
from lit_aux.phases.phase import Phase


class IntegratorOptimizer(torch.optim.Optimizer):
    """Advances a batch of students by ``block`` gradient evaluations a step; checkpoints hold where they are.

    Args:
        parameters: What trains.
        run: The phase of the students.
        block: Gradient evaluations of a replica in one step.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], run: StudentPhase, block: int) -> None:
        options = {k: v for k, v in vars(run.integrator).items() if isinstance(v, int | float | str | None)}
        super().__init__(parameters, {"integrator": run.integrator.name, "block": block, **options})
        self.run = run
        self.block = block

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Advance."""
        self.run.advance(self.block)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do nothing: gradients are not kept in the parameters."""

    def state_dict(self) -> dict[str, Any]:
        """Return where the students are."""
        return {"students": self.run.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint was, once training starts."""
        self.run.load_state_dict(state_dict["students"])


class StudentTraining(Training):
    """The replicas of a module, phase by phase; one batch of Lightning's is a block of gradient evaluations.

    Attributes:
        results: By phase, one row a replica that has ended: the numbers of the results table and what they
            cost.
        data: The data module, once it is known.
        run: The phase that is under way.

    Args:
        module: The module that they belong to.
        tasks: Number of outputs of each task.
        foreign: Options that students do not have, where any was given.

    Raises:
        ConfigurationError: If one was.
    """

    trains_itself = True

    def __init__(self, module: LightningModule, tasks: dict[str, int], foreign: object) -> None:
        if foreign:
            raise ConfigurationError(
                "losses, metrics, heads, compile: students train on the mean squared error; leave these "
                "options out"
            )
        super().__init__(module)
        self.tasks = tasks
        if self.net.tasks != tasks:  # a network that fits keeps the weights that it was given
            self.net.configure(tasks, self.net.seeds)
        self.data: Any = None
        self.run: StudentPhase | None = None
        self.results: dict[str, list[dict[str, Any]]] = {}
        self._last: Phase | None = None

    @property
    def net(self) -> StudentNet:
        """Their network."""
        return cast(StudentNet, self._module.net)

    def check_phases(self, phases: Sequence[Phase]) -> None:
        """Leave their options to the network and the integrator; refuse those of deep networks."""
        for phase in phases:
            for option in ("unfreeze", "restore_best", "lora"):
                if vars(phase)[option] is not None:
                    raise ConfigurationError(
                        f"{option}: it is for deep networks, not for students; leave it out"
                    )
        self._last = phases[-1]

    def attach(self, data: Any, processes: int, phases: Sequence[Phase]) -> None:
        """Take one replica for each of the data's, the first time."""
        if data is None:
            return
        _refuse_several(processes)
        replicas = getattr(data, "replicas", None)
        if replicas is None:
            raise ConfigurationError(
                f"data: {type(data).__name__} holds no replicas; students train on teacher data, such as "
                "DiagonalTeacherDataModule"
            )
        if data.in_features != self.net.in_features:
            raise ConfigurationError(
                f"--model.backbone.in_features {self.net.in_features}: data has {data.in_features} inputs; "
                "give both the same number"
            )
        self.data = data
        seeds = [cell["seed"] for cell in replicas]
        if seeds != self.net.seeds or self.net.tasks != self.tasks:
            self.net.configure(self.tasks, seeds)
        if isinstance(data, Draws):  # a stranger's teachers may leave weights to the network
            self.net.draw_from(data, phases[0].tasks, start=self.net.as_drawn())
        for phase in phases:
            self.net.factors(phase.readout_scale)
            if isinstance(phase.integrator, Exact):
                _check_solvable(self.net, phase)

    def optimizer(self, phase: Phase, names: set[str]) -> IntegratorOptimizer:
        """Return the phase's integrator as an optimizer."""
        _refuse_several(self._module.trainer.world_size)
        chosen = [name for name in self.net.weights() if f"net.{name}" in names]
        self.run = StudentPhase(self.net, self.data, phase, chosen)
        self.results.pop(phase.name, None)
        training = [p for p in self.net.parameters() if p.requires_grad]
        return IntegratorOptimizer(training, self.run, phase.block)

    @property
    def _current(self) -> Phase:
        """The phase that the module is in, or the last, as it tests after training."""
        phase = self.phase or self._last
        assert phase is not None
        return phase

    def _log(self, values: dict[str, float], shown: tuple[str, ...] = ()) -> None:
        for name, value in values.items():
            self.log(name, value, batch_size=1, prog_bar=name in shown)

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Do nothing: students have no gradients."""

    def step(self, batch: Any, outputs: Outputs) -> None:
        """Advance by a block; end the phase when no replica is under way."""
        assert self.run is not None
        optimizer: Any = self._module.optimizers()
        optimizer.step()
        self.results.setdefault(self._current.name, []).extend(self.run.results(new=True))
        state = self.run.state
        assert state is not None
        if state.finished:
            self._module.trainer.should_stop = True
        counts = state.counts
        values = {"train_loss": counts.loss.mean(), "finished": counts.finished.sum()}
        values |= {"converged": counts.converged.sum(), "evaluations": counts.evaluations.max()}
        self._log({name: float(value) for name, value in values.items()}, shown=("finished", "converged"))

    @property
    def stop_reason(self) -> str | None:
        """How the phase ended; None while replicas are under way."""
        if self.run is None or not self.run.finished or self.run.state is None:
            return None
        state, best, place = self.run.state, self.run.best, self.run.place
        converged = state.counts.converged[place]
        late = ~converged & (state.counts.time >= state.max_time * (1 - 1e-9))[place]
        text = f"{int(converged.sum())} of {len(converged)} replicas converged"
        if late.any():
            text += f", {int(late.sum())} reached max_flow_time"
        tired = ~(converged | late) & (False if best is None else best.tired(place))
        return f"{text}, {int(tired.sum())} no longer improved" if tired.any() else text

    def ended(self, phase: str) -> list[dict[str, Any]]:
        """Return the rows of a phase, also of one whose end was in the checkpoint."""
        run = self.run
        if phase not in self.results and run is not None and run.phase.name == phase and run.waiting:
            run.begin()
            self.results[phase] = run.results()
        return self.results.get(phase, [])

    def end_epoch(self, unlabelled: set[str]) -> None:
        """Leave it: all rows have targets."""

    def refresh_batchnorm(self, samples: int | None) -> None:
        """Leave it: there is no batch normalization."""

    @torch.no_grad()
    def test(self, batch: Any) -> None:
        """Log the mean test loss over replicas of each task."""
        phase = self._current
        run = self.run or StudentPhase(self.net, self.data, phase, list(self.net.weights()))
        rows = torch.arange(self.net.replicas, device=next(self.net.parameters()).device)
        names = list(self.net.weights())
        losses = {}
        for task in phase.tasks:
            objective: Any = self.net.objective(run.problems([task], "test"), rows, names, phase.chunk)
            values: Tensor = objective.value(self.net.pack(rows, names))
            losses[f"{task}/test_loss"] = float(np.mean(values.double().cpu().numpy()))
        self._log(losses)

    @torch.no_grad()
    def predict(self, batch: Any) -> Any:
        """Return outputs (R, n, o) of each task on the first replica's test inputs, or of a bare tensor."""
        if isinstance(batch, Tensor):
            return self._module(batch)
        device = next(self.net.parameters()).device
        tasks = self._current.tasks
        return {task: self.net(self.data.test_set(0, task)[0].to(device), task) for task in tasks}

    def check_export(self) -> None:
        """Refuse to export."""
        raise ConfigurationError("export: students have no timm weights; use their checkpoint")


def _check_solvable(net: StudentNet, phase: Phase) -> None:
    if not isinstance(net, DiagonalNet):
        raise ConfigurationError(
            f"integrator: exact solves diagonal networks, not a {type(net).__name__}; choose gradient_flow "
            "or gradient_descent"
        )
    if len(phase.tasks) > 1 or net.tasks[phase.tasks[0]] > 1:
        raise ConfigurationError(
            f"integrator: exact solves one output at a time, phase {phase.name!r} trains "
            f"{sum(net.tasks[task] for task in phase.tasks)} ({', '.join(phase.tasks)}); choose gradient_flow"
        )


def _refuse_several(processes: int) -> None:
    if processes > 1:
        raise ConfigurationError(
            f"--trainer.devices: {processes} processes would all train the same students; use one, and "
            "split a grid by its runs"
        )
