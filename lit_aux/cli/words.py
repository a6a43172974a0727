"""A command line as words: its options and their values, as they were typed."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import yaml


def option_of(path: Iterable[str]) -> str:
    """Write a path of keys as the option that sets it."""
    return "--" + ".".join(key for key in path if key != "init_args")


def typed_options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield options without ``init_args``, and their values; of one without value, the next word.

    Args:
        words: The command line.
    """
    for word, following in pairwise([*words, ""]):
        option, sign, value = word.partition("=")
        if option.startswith("-"):
            yield option.replace(".init_args", ""), value if sign else following


def with_values(words: Iterable[str], change: Callable[[str, str], str]) -> list[str]:
    """Return a command line with other values.

    Args:
        words: The command line.
        change: A function of the option, ``""`` where a word belongs to none, and its value.
    """
    written: list[str] = []
    owner = ""
    for word in words:
        option, sign, value = word.partition("=") if word.startswith("-") else ("", "", word)
        written.append(f"{option}={change(option, value)}" if sign else option or change(owner, value))
        owner = "" if sign else option
    return written


def as_typed(message: str, words: Any) -> str:
    """Return a message that echoes the value of its option as it was typed: Python writes it in its own way.

    Args:
        message: Begins with an option.
        words: The command line; anything but a list of words has nothing typed.
    """
    option = re.match(r"--[\w.+-]+", message) if isinstance(words, list | tuple) else None
    if option is None:
        return message
    if name := next((w for w in (w.partition("=")[0] for w in words) if _alike(w, option[0])), ""):
        message = name + message[option.end() :]
        option = re.match(r"--[\w.+-]+", message) or option
    known = list(typed_options(words))
    for inner, value in known:  # of the class that is told of
        told = inner.startswith(f"{option[0]}.") and inner.rpartition(".")[2] in message
        if told and value.isprintable() and value not in message:
            message = _with_typed(message, len(option[0]), value) or message
    typed = next((v for o, v in reversed(known) if _alike(o, option[0])), "")
    if not typed or typed in message[option.end() :] or len(typed) > 200:
        return message
    if not typed.isprintable():  # as Python writes it one sees what is odd
        return message
    module, _, name = typed.rpartition(".")
    if module and name.isidentifier() and name in message:  # a class, whose module need not be told
        return message
    return _with_typed(message, option.end(), typed) or f"{message} (given: {typed})"


def _alike(one: str, other: str) -> bool:
    """Say whether two options differ in hyphens and underscores alone."""
    return one.replace("_", "-") == other.replace("_", "-")


def _with_typed(message: str, start: int, typed: str) -> str | None:
    """Return a message with a value as it was typed in place of how Python writes it; None if it has none."""
    try:
        value = yaml.safe_load(typed)
    except yaml.YAMLError:
        value = typed
    forms = [str(value), repr(value)]
    with suppress(ValueError):
        forms += [str(float(typed)), repr(float(typed))]
    for form in forms:
        if quoted := re.search(rf"(?<![\w.]){re.escape(form)}(?![\w.]*\w)", message[start:]):
            return f"{message[: start + quoted.start()]}{typed}{message[start + quoted.end() :]}"
    return None
