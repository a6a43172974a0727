"""Errors meant for people: one line that names the option, its value and what would be right."""

import re
import signal
from collections.abc import Collection, Iterable, Iterator, Sequence
from difflib import get_close_matches

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class ConfigurationError(ValueError):
    """Something the user asked for cannot be done; the message is one line with the remedy."""


class NonFiniteLossError(RuntimeError):
    """A training loss or a weight became NaN or infinite; the message names the phase and the step."""


class ClusterError(RuntimeError):
    """The scheduler of a cluster is gone; the message is one line that names it."""


class RankError(RuntimeError):
    """Another process of the run has ended; the message is one line that names it."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, the one that it came from, and so on.

    Args:
        error: What was raised.
    """
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def unknown_name(option: str, value: object, choices: Iterable[object]) -> ConfigurationError:
    """Build the error for a name that does not exist, offering the nearest ones.

    Args:
        option: The option that was set, as the user wrote it (``layers``, ``--data.classes``).
        value: The unknown name.
        choices: Every name that would have been right.
    """
    names = [str(choice) for choice in choices]
    near = get_close_matches(str(value), names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else f"known: {listed(names)}"
    return ConfigurationError(f"{option}: {value!r} is unknown; {hint}")


def check_known(option: str, value: object, choices: Collection[object]) -> None:
    """Raise :func:`unknown_name` for a name that is not among those that there are.

    Args:
        option: The option that was set, as the user wrote it.
        value: The name.
        choices: Every name that is right.
    """
    if value not in choices:
        raise unknown_name(option, value, choices)


def not_installed(option: str, package: str, extra: str) -> ConfigurationError:
    """Build the error for an option that needs a package which comes with an extra.

    Args:
        option: The option, with its value.
        package: What is lacking, as people call it.
        extra: The extra.
    """
    return ConfigurationError(f"{option}: {package} is not installed; run: pip install 'lit-aux[{extra}]'")


def listed(names: Iterable[object], limit: int = 12) -> str:
    """Join names with commas, each once, cutting a long list."""
    shown = [str(name) for name in dict.fromkeys(names)]
    more = f", ... ({len(shown)} in all)" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + more


def some(names: Sequence[str], limit: int = 3) -> str:
    """Name the first of many."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def shortened(text: str, limit: int = 60) -> str:
    """Return text that is as long as this at most."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def signal_name(number: int) -> str:
    """Return what a signal is called."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def one_line(error: BaseException) -> str:
    """Return what an error says in one line; its class where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def with_class(error: BaseException) -> str:
    """Return an error's class and what it says in one line, as a traceback ends."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def printable(text: str) -> str:
    """Return text without what a terminal would carry out: whoever wrote a file may have written it.

    Args:
        text: Lines, whose ends stay.
    """
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
