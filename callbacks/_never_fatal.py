"""Measuring must not lose a fit."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.utilities import rank_zero_warn


def told(error: BaseException) -> str:
    """Say an error in one line."""
    lines = str(error).strip().splitlines() or [""]
    name = type(error).__name__
    return lines[0] if name == "ConfigurationError" else f"{name}: {lines[0]}"


@contextmanager
def never_fatal(what: str) -> Iterator[None]:
    """Turn an error into a warning, since what was trained is worth more than a measurement of it.

    Args:
        what: What was tried, for the warning.
    """
    try:
        yield
    except Exception as error:
        rank_zero_warn(f"{what} failed, and training goes on without: {told(error)}")
