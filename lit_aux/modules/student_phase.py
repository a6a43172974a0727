"""One phase of a batch of students: from the weights of the network through an integrator and back."""

import time
from collections.abc import Hashable, Sequence
from math import ceil
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.integrators import Descent, GradientFlow, Integrator, IntegratorState, Step, TorchOptimizer
from lit_aux.integrators.state import Impatient, index_of
from lit_aux.models import Problems, StudentNet
from lit_aux.phases.phase import Phase

_REPORTED = ("converged", "evaluations", "rejected", "stages", "curvature", "lr", "time")


class StudentPhase:
    """Moves the replicas of a :class:`~lit_aux.models.StudentNet` through a phase.

    Replicas that start from the same weights on the same data are trained once: in pretraining, one a seed.
    The parameters of the network keep the full replica axis.

    Args:
        net: The network.
        data: A teacher data module.
        phase: What trains, how, and until when.
        names: Names of the parameters that train, as in ``net.weights()``.
    """

    def __init__(self, net: StudentNet, data: Any, phase: Phase, names: Sequence[str]) -> None:
        if not hasattr(data, "train_set"):
            raise ConfigurationError(
                f"data: {type(data).__name__} has no train_set; students train on teacher data, such as "
                "DiagonalTeacherDataModule"
            )
        self.net, self.data, self.phase, self.names = net, data, phase, list(names)
        self.integrator = integrator_of(phase)
        self.state: IntegratorState | None = None
        self.best: BestTestLoss | None = None
        self.final: NDArray[np.float64] | None = None
        self.seconds = 0.0
        self._saved: dict[str, Any] | None = None
        self._reported: set[int] = set()
        self.chosen: list[int] = []
        self.place: NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    # Going

    def begin(self) -> None:
        """Build the losses from the weights as they are, or go on where a checkpoint was."""
        started = time.monotonic()
        phase = self.phase
        if self._saved is None:
            self._share()
        else:
            self.chosen = self._saved["chosen"].tolist()
            self.place = self._saved["place"].numpy().copy()
        rows = torch.tensor(self.chosen, device=next(self.net.parameters()).device)
        objective: Any = self.net.objective(self.problems(phase.tasks), rows, self.names, phase.chunk)
        theta = self.net.pack(rows, self.names)
        if phase.test_every is not None:
            self.best = self._watch(rows, objective)
        self.state = self.integrator.start(
            objective,
            theta,
            threshold=phase.stop_at_training_loss or 0.0,
            max_evaluations=np.inf if phase.max_evaluations is None else phase.max_evaluations,
            max_time=phase.max_flow_time,
            observer=self.best,
        )
        if self._saved is not None:
            self.state.load_state_dict(self._saved["state"])
            self.seconds = float(self._saved["seconds"])
            if self.best is not None:
                self.best.load_state_dict(self._saved["best"])
            self._saved = None
        self._conclude()
        self.seconds += time.monotonic() - started

    def advance(self, evaluations: int) -> None:
        """Move every replica that is under way, and bring the network's weights up to date."""
        if self.state is None:
            self.begin()
        assert self.state is not None
        started = time.monotonic()
        with self.net.computing():
            self.integrator.advance(self.state, evaluations)
        rows = torch.arange(self.net.replicas, device=self.state.theta.device)
        place = index_of(self.place, self.state.theta)
        self.net.unpack(self.state.theta.index_select(0, place), rows, self.names)
        self._conclude()
        self.seconds += time.monotonic() - started

    @property
    def finished(self) -> bool:
        """Whether no replica is under way."""
        return self.state is not None and self.state.finished

    @property
    def waiting(self) -> bool:
        """Whether a checkpoint was loaded that no block has followed yet."""
        return self._saved is not None

    def _conclude(self) -> None:
        """Test the replicas that have just ended."""
        assert self.state is not None
        if self.best is None:
            return
        if self.final is None:
            self.final = np.full(len(self.chosen), np.nan)
        ended = np.flatnonzero(self.state.counts.finished & np.isnan(self.final))
        for start in range(0, len(ended), 64):
            some = ended[start : start + 64]
            index = index_of(some, self.state.theta)
            self.final[some] = self.best.test(some, self.state.theta.index_select(0, index))

    # What is trained on

    def problems(self, tasks: Sequence[str], split: str = "train") -> Problems:
        """Return what the replicas have to fit, or are tested on."""
        data = self.data
        load = data.train_set if split == "train" else data.test_set
        weights = {task: self.phase.weight(task) for task in tasks} if split == "train" else {}

        def key(replica: int, task: str) -> Hashable:
            return (split, data.inputs_key(split, replica, task))

        whole = split == "test"
        return Problems(list(tasks), key, load, weights, data.designs, data.moments, whole=whole)

    def _share(self) -> None:
        """Find the replicas that train, and which of them stands for which replica."""
        names = list(self.net.weights())
        weights = self.net.pack(torch.arange(self.net.replicas), names).cpu()
        firsts: dict[Hashable, int] = {}
        place: list[int] = []
        for replica in range(self.net.replicas):
            sets = [self.data.train_set(replica, task) for task in self.phase.tasks]
            problem = tuple((id(x), id(y)) for x, y in sets)
            first = firsts.setdefault((problem, weights[replica].numpy().tobytes()), replica)
            place.append(first)
        self.chosen = list(firsts.values())
        self.place = np.searchsorted(self.chosen, place)  # the first ones come in order

    def _watch(self, rows: Tensor, objective: Any) -> "BestTestLoss":
        """Watch the test loss of the main task, or of the phase's first where it is not trained."""
        phase, integrator = self.phase, self.integrator
        task = "main" if "main" in phase.tasks else phase.tasks[0]
        loss: Any = self.net.objective(self.problems([task], "test"), rows, self.names, phase.chunk)
        assert phase.test_every is not None
        if isinstance(integrator, Descent):
            epoch = integrator.lr * integrator.steps_of_epoch(objective)
            return BestTestLoss(loss, len(rows), epoch, epoch * phase.test_every, 1.0, phase.patience)
        unit: float = getattr(integrator, "lr", None) or phase.test_unit
        return BestTestLoss(loss, len(rows), unit, unit * phase.test_every, phase.test_thinning)

    # What came out

    def results(self, *, new: bool = False) -> list[dict[str, Any]]:
        """Return one row a replica that has ended, in the columns of the results table and some more.

        Args:
            new: Only those that were not returned before.
        """
        if self.state is None:
            return []
        counts, rows = self.state.counts, []
        for replica, place in enumerate(self.place.tolist()):
            if not counts.finished[place] or (new and replica in self._reported):
                continue
            self._reported.add(replica)
            row: dict[str, Any] = {"replica": replica, "solver": self.integrator.name}
            if self.best is not None and self.final is not None:
                row |= {"loss_best": float(self.best.best[place]), "loss_final": float(self.final[place])}
            row |= {"train_loss": float(counts.loss[place]), "steps": int(counts.accepted[place])}
            row |= {name: getattr(counts, name)[place].item() for name in _REPORTED}
            rows.append(row | {"seconds": self.seconds})
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs; empty before the first block."""
        if self.state is None:
            return {}
        saved = {
            "chosen": torch.tensor(self.chosen),
            "place": torch.from_numpy(self.place.copy()),
            "state": self.state.state_dict(),
            "seconds": self.seconds,
        }
        return saved | ({} if self.best is None else {"best": self.best.state_dict()})

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Keep what :meth:`state_dict` gave until training starts."""
        self._saved = saved or None


def integrator_of(phase: Phase) -> Integrator:
    """Return the phase's integrator: what it names, else its optimizer, else gradient flow."""
    if isinstance(phase.integrator, Integrator):
        return phase.integrator
    return GradientFlow() if phase.optimizer is None else TorchOptimizer(phase.optimizer)


Floats = NDArray[np.float64]

ALWAYS = 20
"""So many of the first instants are never left out."""


SMOOTH = 6
"""Steps of at most so many stages are interpolated."""
IMPROVED = 0.995
"""A smaller test loss counts as improvement below this part of the last that did."""


class Loss(Protocol):
    """Test losses of replicas."""

    def value(self, theta: Tensor) -> Tensor:
        """Return the losses (k,) of parameters (k, P)."""

    def select(self, keep: Tensor) -> Any:
        """Return the losses of some of the replicas."""


class BestTestLoss(Impatient):
    """Evaluates the test loss at fixed instants of a path and keeps the smallest.

    The published runs tested after steps 1, 51, 101, ... (with mini-batches, after these epochs) and at the
    end. In flow time these are the instants lr (1 + 50 i), to which a path is interpolated by cubic Hermite
    polynomials. Within a step of many stages, which is long for the stiffest direction, the slopes at its
    ends say nothing of the path in between; such steps are far longer than the distance of the instants, and
    are tested at their end.

    Args:
        loss: Test losses of all replicas.
        replicas: Their number.
        first: Time of the first instant.
        interval: Time between instants.
        thinning: After the first 20 instants, their numbers grow by this factor; 1 leaves none out.
        patience: It is tired of a replica whose smallest loss has not improved for as many epochs as came
            before it, and for at least so many; ``first`` is the duration of an epoch. None never is.
    """

    def __init__(
        self,
        loss: Loss,
        replicas: int,
        first: float,
        interval: float,
        thinning: float,
        patience: int | None = None,
    ) -> None:
        self.loss = loss
        self.thinning, self.patience = thinning, patience
        self.best: Floats = np.full(replicas, np.inf)
        self._first, self._interval = np.full(replicas, first), np.full(replicas, interval)
        self._ratio = round(interval / first, 9)
        self._number = np.zeros(replicas, dtype=np.int64)
        # the loss of the last improvement, its epoch, and that of the last look
        self._lowest: Floats = np.full(replicas, np.inf)
        self._since, self._looked = np.zeros((2, replicas), dtype=np.int64)
        self._chosen: tuple[tuple[int, ...], Any] = ((), None)

    def observe(self, step: Step) -> None:
        """Test at the instants within a step."""
        end = step.end * (1 + 1e-12)
        while len(due := np.flatnonzero((when := self.next_time(step.replicas)) <= end)):
            theta = _between(step, due, when[due])
            self._compare(step.replicas[due], self.test(step.replicas[due], theta))
            for place in due:
                self._advance(step, int(place))

    def _compare(self, replicas: NDArray[np.int64], losses: Floats) -> None:
        """Note who has improved by more than noise."""
        self._looked[replicas] = np.round(self.next_time(replicas) / self._first[replicas])
        better = losses < IMPROVED * self._lowest[replicas]
        self._lowest[replicas[better]] = losses[better]
        self._since[replicas[better]] = self._looked[replicas[better]]

    def tired(self, replicas: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whose loss has not improved for as long as patience lasts."""
        if self.patience is None:
            return np.zeros(len(replicas), dtype=bool)
        since = self._since[replicas]
        return np.asarray(self._looked[replicas] - since >= np.maximum(since, self.patience))

    def _advance(self, step: Step, place: int) -> None:
        """Go to the next instant of a replica, or beyond the step if its end was tested."""
        replica = int(step.replicas[place])
        number = int(self._number[replica])
        later = number + 1 if number < ALWAYS else max(number + 1, ceil(number * self.thinning))
        if step.stages is not None and step.stages[place] > SMOOTH:
            passed = (step.end[place] / self._first[replica] - 1) * self._first[replica]
            later = max(later, int(passed / self._interval[replica]) + 1)
        self._number[replica] = later

    def test(self, replicas: NDArray[np.int64] | Sequence[int], theta: Tensor) -> Floats:
        """Test some replicas (in rising order) at parameters (k, P); return and remember their losses."""
        rows = tuple(int(r) for r in replicas)
        if self._chosen[0] != rows:
            keep = torch.tensor(rows, device=theta.device)
            self._chosen = (rows, self.loss.select(keep))
        losses: Floats = self._chosen[1].value(theta).double().cpu().numpy()
        index = np.asarray(rows)
        self.best[index] = np.fmin(self.best[index], losses)
        return losses

    def restart(self, replicas: NDArray[np.int64]) -> None:
        """Forget replicas that begin anew with a tenth of their step."""
        self.best[replicas] = self._lowest[replicas] = np.inf
        self._number[replicas] = self._since[replicas] = self._looked[replicas] = 0
        self._first[replicas] /= 10
        self._interval[replicas] /= 10

    def next_time(self, replicas: NDArray[np.int64]) -> Floats:
        """Return the next instants, as descent counts its time: a step's number times its size."""
        return np.asarray((1 + self._ratio * self._number[replicas]) * self._first[replicas])

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a resumed run needs."""
        kept = {"best": self.best, "first": self._first, "interval": self._interval, "number": self._number}
        if self.patience is not None:
            kept |= {"lowest": self._lowest, "since": self._since, "looked": self._looked}
        return {name: torch.from_numpy(values.copy()) for name, values in kept.items()}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Take over what :meth:`state_dict` gave."""
        arrays = {name: values.numpy().copy() for name, values in saved.items()}
        self.best, self._number = arrays["best"], arrays["number"]
        self._first, self._interval = arrays["first"], arrays["interval"]
        if self.patience is not None:
            self._lowest, self._since, self._looked = (arrays[n] for n in ("lowest", "since", "looked"))


def _between(step: Step, due: NDArray[np.int64], when: Floats) -> Tensor:
    """Return the parameters (k, P) at instants within a step."""
    index = index_of(due, step.after)
    after = step.after.index_select(0, index)
    if step.slope_before is None or step.slope_after is None or step.stages is None:
        return after
    before = step.before.index_select(0, index)
    h = step.end[due] - step.start[due]
    s = np.clip((when - step.start[due]) / np.maximum(h, 1e-300), 0.0, 1.0)
    s = np.where(step.stages[due] > SMOOTH, 1.0, s)
    r = 1 - s
    weights = np.stack([(1 + 2 * s) * r**2, h * s * r**2, s**2 * (3 - 2 * s), -h * s**2 * r])
    w = torch.from_numpy(weights).to(after)[:, :, None]
    f0, f1 = (slope.index_select(0, index) for slope in (step.slope_before, step.slope_after))
    return w[0] * before + w[1] * f0 + w[2] * after + w[3] * f1
