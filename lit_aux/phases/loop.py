"""The fit loop of a phase, which also ends one that was cut off before its end."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.loops.fit_loop import _FitLoop


class Meeting(Protocol):
    """Where fits wait for each other before their first epoch."""

    def begin(self, trainer: Any, module: Any, data: Any) -> None:
        """Take note of a fit that begins; refuse one that would change what another one uses."""

    def arrive(self, trainer: Any) -> None:
        """Take a fit whose training has begun; it goes on from wherever it is when this returns."""


MEETING: ContextVar[Meeting | None] = ContextVar("meeting", default=None)
"""Where the fits of this process meet; None where each goes its own way."""


class PhaseLoop(_FitLoop):
    """A fit loop that does what was left to do where a run was cut off after an epoch's checkpoint.

    Where no epoch is left, Lightning's skips the whole fit. This one still begins and ends training, so that
    callbacks and module do at the end what they would have done.

    Args:
        trainer: The Trainer.
        unsettled: Says whether the phase's end is still to be done.
        **limits: As for Lightning's.
    """

    def __init__(self, trainer: Any, unsettled: Callable[[], bool], **limits: Any) -> None:
        super().__init__(trainer, **limits)
        self._unsettled = unsettled
        self.at_end = False
        """Whether nothing but the phase's end is done."""

    def _iteration_based_training(self) -> bool:
        """Go on as where epochs are the limit.

        Lightning's takes a checkpoint of an epoch's end for one of its middle where ``max_steps`` is set: it
        ends the epoch twice, and the order of the data is another from there on.
        """
        return False

    def on_run_start(self) -> None:
        """Begin; where fits meet, train with the others."""
        super().on_run_start()
        meeting = MEETING.get()
        if meeting is not None and not self.at_end:
            meeting.arrive(self.trainer)

    def run(self) -> None:
        """Train, or do the end of what was trained."""
        self.setup_data()
        resumed = self._loaded_from_state_dict or self.restarting
        if resumed and self._unsettled() and self.trainer.limit_train_batches != 0 and self.done:
            self.at_end = True
            self.reset()
            self.on_run_start()
            self._restarting = False
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, StochasticWeightAveraging):  # puts back what its state does not hold
                    callback._accumulate_grad_batches = self.trainer.accumulate_grad_batches
            self.on_run_end()
            return
        super().run()
