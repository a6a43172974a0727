"""What callbacks that read measures off the weights have in common."""

import operator
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_aux.callbacks._averages import Ran, which_weights
from lit_aux.callbacks._brought_back import BringsBack, Brought
from lit_aux.callbacks._logging import log_scalars, prefix_of
from lit_aux.callbacks._never_fatal import told
from lit_aux.callbacks.weight_measurement import WeightMeasurement
from lit_aux.errors import ConfigurationError
from lit_aux.ranges import LIMIT, check

NAN = float("nan")
Measures = dict[tuple[str, str], Sequence[float]]
"""Values of every replica by layer and measure."""


class WeightMeasures(BringsBack):
    """Measures weights at the start of a fit, every few epochs and at its end; logs and keeps the values.

    Every process measures for itself: replicated weights are equal, and so are the values.

    Attributes:
        results: What was measured, in order of time; a new fit of a phase replaces that phase's rows. Part of
            checkpoints.

    Args:
        every_n_epochs: Measure every so many epochs of the fit too.
        at_start: Whether to measure before the first step (after a rescale).
    """

    changes_training = False

    results: Brought[list[WeightMeasurement]] = Brought()

    def __init__(self, *, every_n_epochs: int | None, at_start: bool) -> None:
        super().__init__()
        check("every_n_epochs", every_n_epochs, LIMIT)
        self.every_n_epochs = every_n_epochs
        self.at_start = at_start
        self.results = []
        self._warned: set[str] = set()
        self._forget()

    @abstractmethod
    def measure(self, trainer: Trainer, pl_module: LightningModule) -> Measures:
        """Return the values of every replica by (layer, measure), as the weights are now."""

    def _forget(self) -> None:
        """Drop what belongs to one fit."""
        self._epochs = 0
        self._measured_at: int | None = None
        self._kept = 0
        self._started = False

    def state_dict(self) -> dict[str, Any]:
        """Return the results so far and where this fit is."""
        rows = [{**asdict(row), "values": list(row.values)} for row in self.results]
        return {"results": rows, "epochs": self._epochs, "measured_at": self._measured_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        rows = state_dict["results"]
        self.results = [WeightMeasurement(**{**row, "values": tuple(row["values"])}) for row in rows]
        self._epochs, self._measured_at = state_dict["epochs"], state_dict["measured_at"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start afresh in every fit; a resume restores the state after this."""
        if stage == "fit":
            self._forget()
            phase = prefix_of(pl_module).rstrip("/")
            self.results = [row for row in self.results if row.phase != phase]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure before the first step; a resumed fit has done so already."""
        self._started = True
        if self.at_start and self._measured_at is None:
            self._keep(trainer, pl_module, self.measure(trainer, pl_module))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure every few epochs."""
        self._epochs += 1
        if self.every_n_epochs is not None and self._epochs % self.every_n_epochs == 0:
            self._take(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure at the end, unless the last epoch's end was just measured."""
        if self._measured_at != self._epochs or not self._epochs:
            self._take(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if nothing was measured."""
        if not self._kept:
            why = "every measurement failed or gave no value" if self._started else "the fit trained no step"
            rank_zero_warn(f"{type(self).__name__} measured nothing: {why}.")

    def _take(self, trainer: Trainer, module: LightningModule) -> None:
        """Measure, keep and log; what goes wrong once training is under way is a row that says so."""
        note, phase = "", prefix_of(module).rstrip("/")
        try:
            found = self.measure(trainer, module)
        except Exception as error:  # layers that were exchanged or grew; the fit is worth more
            note = told(error)
            rank_zero_warn(f"{type(self).__name__} failed after epoch {self._epochs}: {note}")
            known = dict.fromkeys((row.layer, row.measure) for row in self.results if row.phase == phase)
            found = {key: [NAN] for key in known}
        self._keep(trainer, module, found, note)

    def _keep(self, trainer: Trainer, module: LightningModule, found: Measures, note: str = "") -> None:
        """Keep and log values."""
        self._measured_at = self._epochs
        phase, step = prefix_of(module).rstrip("/"), trainer.fit_loop.epoch_loop._batches_that_stepped
        rows = [
            WeightMeasurement(phase, step, self._epochs, layer, measure, tuple(map(float, values)), note)
            for (layer, measure), values in found.items()
        ]
        if not self._kept:
            self._tell_weights(trainer, module)
        self._kept += sum(not row.note for row in rows)
        self.results += rows
        log_scalars(trainer, module, {f"{row.layer}/{row.measure}": row.value for row in rows})

    def _tell_weights(self, trainer: Trainer, module: LightningModule) -> None:
        """Say which weights are read where there are averages of them, too."""
        ran, layer = Ran(module), str(getattr(self, "layer", "") or getattr(self, "first", ""))
        ran.names = {name for name in ran.copies if f"{layer}.".startswith(f"{name}.")}
        if weights := which_weights(trainer, module, self, ran):
            rank_zero_warn(f"{type(self).__name__}: {weights}")

    def _each(self, what: str, count: int, value: Callable[[int], Tensor | float]) -> list[float]:
        """Return one value a replica, NaN with a warning where a network does not let itself be measured."""
        values = []
        for replica in range(count):
            try:
                values.append(float(value(replica)))
            except ConfigurationError as error:
                # A diverged or collapsed replica must not end the fit of all the others.
                values.append(NAN)
                if what not in self._warned:
                    self._warned.add(what)
                    rank_zero_warn(f"{what} is undefined for replica {replica}: {error}")
        return values


def counts(option: str, k: int | Sequence[int]) -> list[int]:
    """Return one or several counts as a list.

    Raises:
        ConfigurationError: If one is no integer of at least 1, one is given twice, or there is none.
    """
    try:
        numbers = [operator.index(count) for count in (k if isinstance(k, Sequence) else [k])]
    except TypeError:
        numbers = []
    if not numbers or min(numbers) < 1 or len(set(numbers)) < len(numbers):
        raise ConfigurationError(f"{option}: {k!r} is not a count; give different integers of at least 1")
    return numbers
