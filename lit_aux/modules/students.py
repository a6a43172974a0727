"""What the project's modules do with a batch of students in place of a deep network."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.integrators import Exact
from lit_aux.models import DiagonalNet, StudentNet
from lit_aux.modules.integrator_optimizer import IntegratorOptimizer
from lit_aux.modules.student_phase import StudentPhase
from lit_aux.phases.phase import Phase

if TYPE_CHECKING:
    from lit_aux.modules.base import AuxiliaryModule


class Students:
    """The replicas of a module, phase by phase; one batch of Lightning's is a block of gradient evaluations.

    Attributes:
        results: By phase, one row a replica that has ended: the numbers of the results table and what they
            cost.

    Args:
        module: The module that they belong to.
        net: Their network.
        tasks: Number of outputs of each task.
        foreign: Options that students do not have, where any was given.

    Raises:
        ConfigurationError: If one was.
    """

    def __init__(
        self, module: "AuxiliaryModule", net: StudentNet, tasks: dict[str, int], foreign: object
    ) -> None:
        if foreign:
            raise ConfigurationError(
                "losses, metrics, compile: students train on the mean squared error; leave these options out"
            )
        if net.tasks != tasks:  # a network that fits keeps the weights that it was given
            net.configure(tasks, net.seeds)
        self._module, self.net = module, net
        self.data: Any = None
        self.run: StudentPhase | None = None
        self.results: dict[str, list[dict[str, Any]]] = {}

    def attach(self, data: Any, tasks: dict[str, int]) -> None:
        """Take one replica for each of the data's, the first time.

        Raises:
            ConfigurationError: If network and data do not fit together, or several processes would train.
        """
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
        if seeds != self.net.seeds or self.net.tasks != tasks:
            self.net.configure(tasks, seeds)

    def optimizer(self, phase: Phase, names: set[str]) -> IntegratorOptimizer:
        """Return the phase's integrator as an optimizer."""
        _refuse_several(self._module.trainer.world_size)
        chosen = [name for name in self.net.weights() if f"net.{name}" in names]
        self.run = StudentPhase(self.net, self.data, phase, chosen)
        self.results.pop(phase.name, None)
        return IntegratorOptimizer(
            [p for p in self.net.parameters() if p.requires_grad], self.run, phase.block
        )

    @property
    def _phase(self) -> Phase:
        return self._module.phase or self._module.phases[-1]

    def _log(self, values: dict[str, float], shown: tuple[str, ...] = ()) -> None:
        for name, value in values.items():
            full = f"{self._module.log_prefix}{name}"
            self._module.log(full, value, batch_size=1, prog_bar=name in shown)

    def train_and_log(self) -> Tensor | None:
        """Advance by a block; end the phase when no replica is under way."""
        assert self.run is not None
        phase = self._phase
        optimizer: Any = self._module.optimizers()
        optimizer.step()
        self.results.setdefault(phase.name, []).extend(self.run.results(new=True))
        state = self.run.state
        assert state is not None
        if state.finished:
            self._module.trainer.should_stop = True
        counts = state.counts
        values = {
            "train_loss": float(counts.loss.mean()),
            "finished": float(counts.finished.sum()),
            "converged": float(counts.converged.sum()),
            "evaluations": float(counts.evaluations.max()),
        }
        self._log(values, shown=("finished", "converged"))
        return None  # there is no loss for Lightning to follow

    def stop_reason(self) -> str | None:
        """Say how the phase ended; None while replicas are under way."""
        if self.run is None or not self.run.finished or self.run.state is None:
            return None
        state, place = self.run.state, self.run.place
        converged = state.counts.converged[place]
        late = ~converged & (state.counts.time >= state.max_time * (1 - 1e-9))[place]
        text = f"{int(converged.sum())} of {len(converged)} replicas converged"
        return f"{text}, {int(late.sum())} reached max_flow_time" if late.any() else text

    def ended(self, phase: str) -> list[dict[str, Any]]:
        """Return the rows of a phase, also of one whose end was in the checkpoint."""
        run = self.run
        if phase not in self.results and run is not None and run.phase.name == phase and run.waiting:
            run.begin()
            self.results[phase] = run.results()
        return self.results.get(phase, [])

    @torch.no_grad()
    def test_and_log(self) -> None:
        """Log the mean test loss over replicas of each task."""
        phase = self._phase
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
    def predict(self) -> dict[str, Tensor]:
        """Return outputs (R, n, o) of each task on the first replica's test inputs."""
        device = next(self.net.parameters()).device
        return {task: self.net(self.data.test_set(0, task)[0].to(device), task) for task in self._phase.tasks}


def attach(module: "AuxiliaryModule", data: Any, processes: int) -> None:
    """Give a module's students the data's replicas before any process is launched.

    Raises:
        ConfigurationError: If network, phases and data do not fit together, or several processes would train.
    """
    students = module.students
    if students is None:
        if hasattr(data, "replicas"):
            raise ConfigurationError(
                f"data: {type(data).__name__} is for students; give the model a DiagonalNet or ReLUNet as "
                "its backbone, or other data"
            )
    elif data is not None:
        _refuse_several(processes)
        students.attach(data, module.tasks)
        for phase in module.phases:
            students.net.factors(phase.readout_scale)
            if isinstance(phase.integrator, Exact):
                _check_solvable(students.net, phase)


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
