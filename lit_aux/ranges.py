"""Numbers that options may have, declared beside what takes them and checked in one way."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any, TypeGuard

from lit_aux.errors import ConfigurationError

MOST = 2**31 - 1
"""Most of what is counted or allocated: what hardware and file formats take."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers that make sense for an option; infinities and NaN never do.

    Attributes:
        least: The smallest.
        above: What it must be above, in place of ``least``.
        most: The largest.
        below: What it must be below, in place of ``most``.
        also: Numbers that have a meaning of their own, each with it.
        whole: Whether only whole numbers make sense.
    """

    least: float = -inf
    above: float = -inf
    most: float = inf
    below: float = inf
    also: Mapping[int, str] | None = None
    whole: bool = False

    def __contains__(self, value: Any) -> bool:
        """Say whether a number makes sense."""
        if isinstance(value, bool) or not isinstance(value, Real):  # NumPy's numbers are real, too
            return False
        number: Any = value
        if self.also and number in self.also:
            return True
        if not isinstance(number, Integral) and (self.whole or not isfinite(number)):
            return False
        return bool(self.least <= number <= self.most and self.above < number < self.below)

    def __str__(self) -> str:
        bounds = [
            f"{word} {bound:g}" if abs(bound) < 1e6 or bound != int(bound) else f"{word} {int(bound)}"
            for word, bound in (
                ("at least", self.least),
                ("above", self.above),
                ("at most", self.most),
                ("below", self.below),
            )
            if abs(bound) != inf
        ]
        text = " and ".join(bounds) or "finite"
        own = "".join(f", or {number:g} for {meaning}" for number, meaning in (self.also or {}).items())
        return text + own


FINITE = Range()
COUNT = Range(least=1, most=MOST)
"""Of what must be there."""
INDEX = Range(least=0, most=MOST)
"""Of what may be none."""
MOST_JOBS = 10_000
"""Processes at a time, of a sweep or a grid."""
SEED = Range(least=0, most=2**32 - 1)
"""NumPy takes no larger ones."""
POSITIVE = Range(above=0)
RATE = Range(above=0, most=1e10)
"""Of learning rates: after a larger step no weight is a number."""
NOT_NEGATIVE = Range(least=0)
SCALE = Range(least=1e-12, most=1e12)
"""Of factors on weights: the squares of weights that are smaller or larger leave single precision."""
FACTOR = Range(least=0, most=1e12)
"""The same where 0, a readout that starts at nothing, makes sense."""
LIMIT = Range(least=1)
"""Of what ends something: however large, it is a limit."""
WHOLE = Range(least=1, whole=True)
"""Of what is counted, however much of it: samples, epochs."""


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether a value is a whole number, NumPy's among them, and no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole(option: str, value: object, least: int = 0, most: float = MOST) -> int:
    """Return a whole number from ``least`` to ``most``.

    Args:
        option: Its name.
        value: What was given.
        least: The smallest that makes sense.
        most: The largest.

    Raises:
        ConfigurationError: For anything else, naming the option, the value and what would be right.
    """
    if not is_whole(value):
        raise ConfigurationError(f"{option} {value}: must be a whole number")
    if not least <= value <= most:
        bound = f"at least {least}" if value < least else f"at most {most}"
        raise ConfigurationError(f"{option} {value}: must be {bound}")
    return int(value)


def check(option: str, value: Any, allowed: Range) -> None:
    """Raise for a number that makes no sense; None, which leaves an option to its default, always does.

    Args:
        option: Its name.
        value: A number, or several of them.
        allowed: Those that make sense.

    Raises:
        ConfigurationError: Naming the option, the value and what would be right.
    """
    if value is None:
        return
    for one in value if isinstance(value, list | tuple) else [value]:
        if one not in allowed:
            finite = (
                "finite and "
                if isinstance(one, float) and not isfinite(one) and str(allowed) != "finite"
                else ""
            )
            right = "a whole number" if allowed.whole and not is_whole(one) else f"{finite}{allowed}"
            raise ConfigurationError(f"{option}: {one} must be {right}")


def check_all(ranges: Mapping[str, Range], values: Mapping[str, Any]) -> None:
    """Raise for the first of several options whose number makes no sense.

    Args:
        ranges: What makes sense, by option.
        values: Their values, among others.

    Raises:
        ConfigurationError: As :func:`check` does.
    """
    for option, allowed in ranges.items():
        check(option, values.get(option), allowed)
