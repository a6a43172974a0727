"""What is timed prints nothing between the figures."""

import io
import logging
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def in_silence(way: Callable[P, T]) -> Callable[P, T]:
    """Return a way that prints nothing, unless it fails."""

    def silent(*args: P.args, **options: P.kwargs) -> T:
        said = io.StringIO()
        with warnings.catch_warnings(), redirect_stdout(said), redirect_stderr(said):
            warnings.simplefilter("ignore")
            logging.disable()  # of loggers that hold the streams as they were
            try:
                return way(*args, **options)
            except Exception as error:
                error.add_note(said.getvalue()[-2000:])
                raise
            finally:
                logging.disable(logging.NOTSET)

    return silent
