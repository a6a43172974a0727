"""Checks of options."""

from lit_aux.errors import ConfigurationError


def check_least(option: str, number: int, bound: int) -> None:
    """Raise for a count below its bound."""
    if number < bound:
        raise ConfigurationError(f"{option}: {number} is too few; use at least {bound}")


def check_choice(option: str, value: str, *choices: str) -> None:
    """Raise for a value that is not one of the choices."""
    if value not in choices:
        raise ConfigurationError(f"{option}: {value!r} is unknown; use {' or '.join(map(repr, choices))}")
