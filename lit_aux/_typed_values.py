"""Values in messages as they were typed: Python writes them in its own way."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import yaml


def as_typed(message: str, words: Any) -> str:
    """Return a message that echoes the value of its option as it was typed.

    Args:
        message: Begins with an option.
        words: The command line; anything but a list of words has nothing typed.
    """
    if not isinstance(words, list | tuple):
        return message
    option = re.match(r"--[\w.+-]+", message)
    if option and (name := _spelled(option[0], words)):
        message = name + message[option.end() :]
        option = re.match(r"--[\w.+-]+", message)
    for name, value in _within(option[0], words) if option else ():  # of the class that is told of
        if value not in message and name in message:
            message = _with_typed(message, len(option[0]) if option else 0, value) or message
    typed = option and _value_of(option[0].rstrip(":"), words)
    if not option or not typed or typed in message[option.end() :] or len(typed) > 200:
        return message
    if not typed.isprintable():  # which a message writes as Python does
        return message
    module, _, name = typed.rpartition(".")
    if module and name.isidentifier() and name in message:  # a class, whose module need not be told
        return message
    found = _with_typed(message, option.end(), typed)
    return found or f"{message} (given: {typed})"


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


def _within(option: str, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the last names and the values of options of an option that were typed."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, sign, value = word.partition("=")
        if name.replace(".init_args", "").startswith(f"{option}."):
            yield name.rpartition(".")[2], value if sign else following


def _spelled(option: str, words: Sequence[str]) -> str | None:
    """Return an option as it was typed, where only hyphens and underscores differ."""
    typed = [word.partition("=")[0] for word in words]
    return next((name for name in typed if name.replace("_", "-") == option.replace("_", "-")), None)


def _value_of(option: str, words: Sequence[str]) -> str | None:
    """Return what an option was given last on the command line."""
    found = None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, sign, value = word.partition("=")
        if name.replace(".init_args", "").replace("_", "-") == option.replace("_", "-"):
            found = value if sign else following
    return found
