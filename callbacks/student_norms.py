"""Follow the norms that theory says training keeps small, for student and teacher."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lit_aux.callbacks import _weight_measures as of_weights
from lit_aux.callbacks._measurements import phase_of
from lit_aux.callbacks._options import check_text, names_of
from lit_aux.errors import unknown_name
from lit_aux.functional import entry_share, f1_norm, f12_norm, l1_norm, l2_norm, l12_norm, top_share
from lit_aux.functional._scale import scaled_norm


@dataclass(eq=False, repr=False, kw_only=True)
class StudentNorms(of_weights.WeightMeasures):
    r"""Measures norms of a student network as a function, and where a linear student's weight lies.

    A module whose ``net`` has ``coefficients(task)``, giving (R, outputs, D) of R replicas, is a linear
    (diagonal) student: ``student/l1``, ``student/l2`` and ``student/l12`` are of the coefficients of all
    tasks of the phase together, ``student/top_share`` is the fraction of a task's :math:`\|\beta\|^2` in as
    many largest entries as its teacher has (``top{k}_share`` for given k), ``student/aux_share`` that in the
    entries of the auxiliary task's teacher. Any other module is a ReLU student with one hidden layer:
    ``student/F_1`` and ``student/F_12``. See :mod:`lit_aux.functional` for the definitions (Lippl &
    Lindsey). Where several tasks train, shares have ``_{task}`` behind them.

    The same of the teachers, ``teacher/...``, is measured once a fit if the Trainer's data have
    ``teacher(replica, task)`` (coefficients (D,), or an object with ``directions`` and ``readout``); units of
    several tasks' teachers with one direction count as one unit in ``F_12``. ``replica`` is the index along
    the leading axis of the weights.

    Values are means over replicas, logged after the module's ``log_prefix``; ``results`` has every replica's.
    Shares of a student of zeros are NaN. Training is bit for bit what it is without the callback.

    Attributes:
        results: A :class:`~lit_aux.callbacks.WeightMeasurement` for each moment and
            measure, in order of time; a new fit of a phase replaces that phase's rows.

    Args:
        tasks: The tasks whose outputs count; by default those of the module's phase, all outputs where there
            are no phases (the teacher is then the one of ``main``).
        aux: The auxiliary task, whose teacher's entries ``aux_share`` is about.
        top_k: Numbers of entries for the top share instead of the teacher's own.
        first: The parameter or module with a ReLU student's input weights (units, inputs) or (R, ...).
        readout: That with its output weights (outputs, units) or (R, ...).
        every_n_epochs: Measure every so many epochs of the fit too.
        at_start: Whether to measure before the first step (after a rescale).

    Raises:
        ConfigurationError: For bad options; before training starts for a module with neither coefficients nor
            such weights.
    """

    tasks: list[str] | None = None
    aux: str = "aux"
    top_k: int | list[int] | None = None
    first: str = "net.first.weight"
    readout: str = "net.readout.weight"

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("aux", "first", "readout"):
            check_text(option, getattr(self, option))
        self.tasks = names_of("tasks", self.tasks, "task")
        self.top_k = self._counts = None if self.top_k is None else of_weights.counts("top_k", self.top_k)
        self._teachers: dict[tuple[str, int], Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a module that cannot be measured before anything is trained."""
        self._teachers = {}
        known = getattr(getattr(trainer, "datamodule", None), "tasks", None)
        if self.aux != "aux" and known is not None and self.aux not in known:
            raise unknown_name("aux", self.aux, known)
        self.measure(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Free the memory."""
        super().on_fit_end(trainer, pl_module)
        self._teachers = {}

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> of_weights.Measures:
        """Return every replica's norms and shares, of the student as it is now and, once, of the teacher."""
        linear = callable(getattr(getattr(pl_module, "net", pl_module), "coefficients", None))
        found = self._linear(trainer, pl_module) if linear else self._relu(trainer, pl_module)
        phase = phase_of(pl_module)
        told = any(row.layer == "teacher" and row.phase == phase for row in self.results)
        return {key: values for key, values in found.items() if key[0] == "student" or not told}

    def _linear(self, trainer: Trainer, module: LightningModule) -> of_weights.Measures:
        """Measure a student given by coefficients, and its teachers."""
        net: Any = getattr(module, "net", module)
        tasks = of_weights.chosen_tasks(module, self.tasks)
        betas = {task: _float64(net.coefficients(task)) for task in tasks}
        betas = betas or {"main": _float64(net.coefficients())}
        count = len(next(iter(betas.values())))
        aux = [self._teacher(trainer, self.aux, r) for r in range(count)]
        truths = {task: [self._teacher(trainer, task, r) for r in range(count)] for task in betas}
        found: of_weights.Measures = {}
        for layer, parts in {"student": betas, "teacher": _joined(truths)}.items():
            for name, norm in {"l1": l1_norm, "l2": l2_norm, "l12": l12_norm}.items():
                if parts:
                    found[layer, name] = norm(torch.cat(list(parts.values()), 1)).tolist()
            for task, beta in parts.items():
                end = f"_{task}" if len(parts) > 1 else ""
                sizes = scaled_norm(beta, 1)  # one entry an input, over the task's outputs
                for k in self._counts or []:
                    found[layer, f"top{k}_share{end}"] = top_share(sizes, k).tolist()
                if self.top_k is None and all(isinstance(t, Tensor) for t in truths[task]):
                    actives = [int((t != 0).any(0).sum()) for t in truths[task]]
                    shares = [top_share(sizes[r], max(k, 1)).item() for r, k in enumerate(actives)]
                    found[layer, f"top_share{end}"] = shares
                if all(isinstance(t, Tensor) for t in aux):
                    shares = [entry_share(sizes[r], (t != 0).any(0)).item() for r, t in enumerate(aux)]
                    found[layer, f"aux_share{end}"] = shares
        return found

    def _relu(self, trainer: Trainer, module: LightningModule) -> of_weights.Measures:
        """Measure a student given by input and output weights, and its teachers."""
        first = _float64(of_weights.find_one("first", module, self.first))
        readout = _float64(of_weights.find_one("readout", module, self.readout))
        tasks = of_weights.chosen_tasks(module, self.tasks)
        net, outputs = getattr(module, "net", module), readout.shape[1]
        rows = [readout[:, of_weights.rows_of(net, task, outputs)] for task in tasks] or [readout]
        # One slice a task, unless the module does not tell which rows are whose.
        readout = torch.cat(rows, 1) if sum(r.shape[1] for r in rows) <= outputs else readout
        norms = {"F_1": f1_norm, "F_12": f12_norm}
        found: of_weights.Measures = {
            ("student", name): norm(first, readout).tolist() for name, norm in norms.items()
        }
        teachers = [[self._teacher(trainer, t, r) for t in tasks or ["main"]] for r in range(len(first))]
        if all(hasattr(one, "directions") and hasattr(one, "readout") for row in teachers for one in row):
            merged = [_merged(row) for row in teachers]
            for name, norm in norms.items():
                found["teacher", name] = [norm(*one).item() for one in merged]
        return found

    def _teacher(self, trainer: Trainer, task: str, replica: int) -> Any:
        """Return a teacher, its coefficients as (outputs, D), or None where the data have none."""
        data = getattr(trainer, "datamodule", None)
        ask = getattr(data, "teacher", None)
        if not callable(ask) or task not in getattr(data, "tasks", [task]):
            return None
        if (task, replica) not in self._teachers:
            found = ask(replica, task)
            if isinstance(found, Tensor):
                found = found.detach().to("cpu", torch.float64).reshape(-1, found.shape[-1])
            self._teachers[task, replica] = found
        return self._teachers[task, replica]


def _float64(weights: Tensor) -> Tensor:
    """Return a copy (R, outputs, inputs) on the CPU."""
    return of_weights.stacked(weights.detach().to("cpu", torch.float64, copy=True))


def _joined(truths: dict[str, list[Any]]) -> dict[str, Tensor]:
    """Stack the replicas' teachers of each task, if every task and replica has coefficients of one shape."""
    known = all(isinstance(one, Tensor) for row in truths.values() for one in row)
    return {task: torch.stack(row) for task, row in truths.items()} if known else {}


def _merged(teachers: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Return several tasks' teachers as one network: directions (J, d) of length 1, readout (tasks, J).

    Units of one direction are one unit, whose length is part of its output weights.
    """
    directions: list[Tensor] = []
    columns: list[Tensor] = []
    for task, teacher in enumerate(teachers):
        parts = (teacher.directions, teacher.readout)
        weights, readout = (part.detach().to("cpu", torch.float64) for part in parts)
        for row, value in zip(weights, readout.flatten(), strict=True):
            unit = row / row.norm()
            known = (i for i, other in enumerate(directions) if float(unit @ other) > 1 - 1e-9)
            place = next(known, len(directions))
            if place == len(directions):
                directions.append(unit)
                columns.append(torch.zeros(len(teachers), dtype=torch.float64))
            columns[place][task] += value * row.norm()
    return torch.stack(directions), torch.stack(columns, 1)
