"""What a person reads while a Trainer works: phases, progress, warnings that matter, no tips."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from threading import Lock
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from lit_aux.run_folder import in_notebook

_LOGGERS = ("utilities.rank_zero", "trainer.connectors.checkpoint_connector")
_TIPS = (
    *("litlogger", "litmodels"),  # other products
    *("GPU available: False", "TPU available", "`weights_only` was not set"),  # nothing to do about it
    "`Trainer.fit` stopped: `max_",  # the phase's own line says why it ended
)
_OF_OTHERS = (
    "LeafSpec",  # of Lightning with torch
    "smaller than the logging interval",  # small tasks have few batches; every epoch is logged
    "across ranks is zero",  # a metric without a sample is left out
    "Detected pickle protocol",
)
"""In warnings that say nothing about the user's code, data or options."""


class _Warnings:
    """Stands before :func:`warnings.showwarning` while somebody is inside, in whichever thread.

    No filter of warnings is touched: Python would forget which ones it has shown.
    """

    def __init__(self) -> None:
        self.inside = 0
        self.before: Callable[..., Any] = warnings.showwarning
        self.lock = Lock()

    def enter(self) -> None:
        """Show only what matters from here on."""
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.before, warnings.showwarning = warnings.showwarning, self.show

    def leave(self) -> None:
        """Show everything again, once the last one has left."""
        with self.lock:
            self.inside -= 1
            if self.inside == 0 and warnings.showwarning == self.show:  # else another's came since, and stays
                warnings.showwarning = self.before

    def show(self, message: Warning | str, *others: Any, **options: Any) -> None:
        """Show a warning, if it matters."""
        if not any(words in str(message) for words in _OF_OTHERS):
            self.before(message, *others, **options)


_WARNINGS = _Warnings()


@contextmanager
def quiet(least: int = logging.NOTSET) -> Iterator[None]:
    """Leave out, inside, what Lightning says about itself and other products; warnings that matter stay.

    Afterwards other Trainers of the process say what they always do.

    Args:
        least: Level of :mod:`logging` below which Lightning says nothing at all.
    """

    def matters(record: logging.LogRecord) -> bool:
        return record.levelno >= least and not any(tip in record.getMessage() for tip in _TIPS)

    loggers = [logging.getLogger(f"lightning.pytorch.{name}") for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(matters)
    _WARNINGS.enter()
    try:
        yield
    finally:
        _WARNINGS.leave()
        for logger in loggers:
            logger.removeFilter(matters)


class _OneLine(TQDMProgressBar):
    """Shows training only: without widgets a second bar below the first is a new line for each epoch."""

    def init_sanity_tqdm(self) -> Tqdm:
        """Draw nothing while validation is tried."""
        return Tqdm(disable=True)

    init_validation_tqdm = init_test_tqdm = init_sanity_tqdm


def with_progress(callbacks: list[Callback], options: dict[str, Any]) -> list[Callback]:
    """Return callbacks with a progress bar that a notebook without widgets can show.

    There Lightning's bar shows nothing but a warning for each epoch.

    Args:
        callbacks: Those of a Trainer.
        options: Its other options.
    """
    wanted = options.get("enable_progress_bar") is not False and not options.get("barebones")
    chosen = any(isinstance(callback, ProgressBar) for callback in callbacks)
    plain = wanted and not chosen and in_notebook() and find_spec("ipywidgets") is None
    return [*callbacks, _OneLine()] if plain else callbacks
