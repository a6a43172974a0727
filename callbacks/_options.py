"""Checks of options that are no numbers (see :mod:`lit_aux.ranges`), and asking functions of the user's."""

from collections.abc import Callable, Iterable
from typing import Any

from lit_aux.errors import ConfigurationError, one_line


def names_of(option: str, value: Iterable[str] | None, one: str = "") -> list[str] | None:
    """Return names or patterns as a list; None, which leaves the choice to the callback, as it is.

    Args:
        option: The option.
        value: Its value.
        one: What each of them names, where a list of none makes no sense.

    Raises:
        ConfigurationError: For what is no list of texts, as one text is none; it names option and value.
    """
    if value is None:
        return None
    names: list[Any] = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [None]
    if not all(isinstance(name, str) for name in names):
        raise ConfigurationError(f"{option}: {value!r} is no list of names")
    if one and not names:
        raise ConfigurationError(f"{option}: [] names no {one}; leave it out for the default")
    return names


def check_text(option: str, value: object) -> None:
    """Raise for a name that is no text."""
    if not isinstance(value, str):
        raise ConfigurationError(f"{option}: {value!r} is no text")


def check_choice(option: str, value: object, *choices: object) -> None:
    """Raise for a value that is not one of the choices."""
    if value not in choices:
        words = " or ".join("null" if choice is None else repr(choice) for choice in choices)
        raise ConfigurationError(f"{option}: {value!r} is unknown; use {words}")


def check_source(option: str, value: Any, what: str) -> None:
    """Raise for what can be no source of examples: neither a function nor anything that holds some.

    Args:
        option: Its name.
        value: What was given; None leaves it to the callback.
        what: What would be right, in words.

    Raises:
        ConfigurationError: Naming the option and the value.
    """
    if value is None or callable(value):
        return
    plain = isinstance(value, list | tuple) and all(isinstance(v, int | float | str | None) for v in value)
    if plain or isinstance(value, str | bytes | type) or not isinstance(value, Iterable):
        raise ConfigurationError(f"{option}: {value!r} is no {what}")


def asked(option: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function of the user's returns.

    Raises:
        ConfigurationError: If it fails, naming the option and the function.
    """
    try:
        return function(*arguments)
    except ConfigurationError:
        raise
    except Exception as error:
        given = ", ".join(type(argument).__name__ for argument in arguments)
        raise ConfigurationError(
            f"{option}: {name_of(function)} fails on what it is called with ({given}): {one_line(error)}"
        ) from error


def name_of(function: Any) -> str:
    """Return a function's name with its module."""
    name = getattr(function, "__qualname__", type(function).__name__)
    module = getattr(function, "__module__", None)
    module = "os" if module in ("posix", "nt") else module
    return f"{module}.{name}" if module and module != "builtins" else str(name)
