"""Several fits of one process that wait for each other before their last phase and train it together."""

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lit_aux.batched.eligible import why_alone
from lit_aux.batched.training import GlobalState, Tell, WaitingFit, train
from lit_aux.errors import ConfigurationError
from lit_aux.phases.loop import MEETING
from lit_aux.phases.phase import Phase
from lit_aux.phases.phased import phased, phased_data

_FRAMES = 400  # of Python for a fit that is begun within another
Turn = Callable[[int], AbstractContextManager[Any]]
"""By the number of a fit, what is entered whenever it does something of its own, its own output say."""


@dataclass
class End:
    """How a fit ended.

    Attributes:
        error: What it raised; None where it went well.
        reason: Why its last phase was trained alone; empty where it was trained in a batch.
        broken: Whether the batch as a whole failed, for lack of memory say: the fit may do well alone.
    """

    error: Exception | None = None
    reason: str = "it did not come to its last phase"
    broken: bool = False


def fit_together(
    fits: Sequence[Callable[[], Any]], turn: Turn = nullcontext, tell: Tell | None = None
) -> list[End]:
    """Carry out fits such that their last phases are trained in one batch, where they can be.

    Each fit is carried out as it is, with its own Trainer, module and data, up to the first step of its last
    phase; there it waits until all others have come as far or have ended. Networks of one architecture then
    pass forward and backward in one batch (``torch.func``, stacked weights and buffers), while losses,
    metrics, optimizer steps, validation, callbacks, logs and the end of training are each fit's own. So a fit
    ends as it would have alone, up to rounding. Checkpoints are written at the end of the phase alone, and
    the time of the batch is divided among the fits.

    What can be batched: ``PretrainFinetuneModule`` and ``SingleTaskModule`` on one device, in single or
    double precision, with SGD, Adam or AdamW and no other callbacks than ``StopAtTrainingLoss``,
    ``WeightRescaling``, ``RepresentationDimensionality`` and those that show or save. Networks that draw at
    random as they run (dropout), and whatever else, are trained one after another.

    Fits do not share what they change: a module or its weights, callbacks (also those of one
    ``PhaseSettings``), loggers. The second fit that uses one of them fails and says so.

    Args:
        fits: Functions that each call ``PhaseTrainer.fit`` once, and may do more.
        turn: Called with a fit's number; what it gives is entered whenever that fit does something of its
            own: all of its function, and its part of what is done in the batch. Contexts of fits that were
            begun later lie within those of the earlier ones.
        tell: Called after every step of a batch, with the number of fits that still train, and the steps
            that the furthest of them has taken.

    Returns:
        For each fit, in their order, its error and why it was not batched.

    Example:
        >>> from lit_aux.batched import fit_together
        >>> fit_together([])
        []
    """
    meeting = _Meeting(fits, turn, tell)
    limit, token = sys.getrecursionlimit(), MEETING.set(meeting)
    sys.setrecursionlimit(limit + _FRAMES * len(fits))
    try:
        meeting.begin_others()
    finally:
        MEETING.reset(token)
        sys.setrecursionlimit(limit)
    return meeting.ends


class _Meeting:
    """Begins each fit within the last one that waits, so that all are there before the first goes on."""

    def __init__(self, fits: Sequence[Callable[[], Any]], turn: Turn, tell: Tell | None) -> None:
        self.ends = [End() for _ in fits]
        self._turn, self._tell = turn, tell
        self._left = deque(enumerate(fits))
        self._begun: list[int] = []
        self._parts: dict[int, dict[int, str]] = {}
        self._data: dict[int, tuple[Any, Phase]] = {}
        self._waiting: dict[int, WaitingFit] = {}
        self._over = False
        self._share = 0.0

    def begin_others(self) -> None:
        """Carry out the fits that have not begun; some of them may wait, with the rest inside."""
        while self._left:
            number, fit = self._left.popleft()
            self._begun.append(number)
            state = GlobalState()
            try:
                with self._turn(number):
                    fit()
            except Exception as error:
                self.ends[number].error = error
            finally:
                self._begun.pop()
                state.restore()

    def begin(self, trainer: Trainer, module: LightningModule, data: Any) -> None:
        """Refuse a fit that has something in common with one that waits, which would find it changed.

        Raises:
            ConfigurationError: Naming that.
        """
        *waiting, number = self._begun
        self._parts[number] = own = _parts(trainer, module)
        self._data[number] = data, trains = data, phased(module).phases[-1]
        for other in waiting:
            if shared := next((name for key, name in own.items() if key in self._parts[other]), None):
                raise ConfigurationError(
                    f"{shared} belongs to another fit of the batch, too; build one for each"
                )
            same, others = self._data[other]
            if data is not None and same is data and not _alike(others, trains):
                raise ConfigurationError(
                    f"data: a {type(data).__name__} cannot be shared by fits that train {others.tasks}"
                    f" and {trains.tasks} in a batch; build one for each"
                )

    def arrive(self, trainer: Trainer) -> None:
        """Let the others come, train with them, and go on."""
        owner: Any = trainer
        if self._over or owner.phase_name != owner.lightning_module.phases[-1].name:
            return
        number = self._begun[-1]
        if reason := why_alone(trainer):
            self.ends[number].reason = reason
            return
        arrived = time.monotonic()
        fit = self._waiting[number] = WaitingFit(trainer, partial(self._turn, number))
        self.begin_others()
        data, phase = self._data[number]
        if sum(one is data for one, _ in self._data.values()) > 1:  # it may have been left in another phase
            phased_data(data).set_phase(phase.tasks, phase.order)
        self._train()
        owner._started += time.monotonic() - arrived - self._share
        self.ends[number].reason, self.ends[number].broken = fit.reason, fit.broken
        fit.resume()
        if fit.error is not None:
            raise fit.error

    def _train(self) -> None:
        """Train, once, all that wait."""
        if self._over:
            return
        self._over = True
        began = time.monotonic()
        train(list(self._waiting.values()), self._tell)
        self._share = (time.monotonic() - began) / len(self._waiting)


def _parts(trainer: Any, module: LightningModule) -> dict[int, str]:
    """Return what a fit changes as it goes on, by number, and what it is called."""
    callbacks = [*trainer.callbacks, *(c for phase in phased(module).phases for c in phase.callbacks)]
    named = [("module", module), *(("logger", logger) for logger in trainer.loggers)]
    named += [("callbacks", callback) for callback in callbacks]
    found = {id(part): f"{name}: {type(part).__name__}" for name, part in named}
    return found | {id(p): f"module: its parameter {name!r}" for name, p in module.named_parameters()}


def _alike(one: Phase, other: Phase) -> bool:
    """Whether data are in the same state in two phases."""
    return (list(one.tasks), one.order) == (list(other.tasks), other.order)
