"""Options of the command line by their full names."""

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jsonargparse import Namespace

_OTHER_NAMES = {"factor": "rescale", "preset": "rescale_preset"}
"""What a callback calls its argument where the module that builds it has another name for the option."""


def option_of(path: Iterable[str]) -> str:
    """Write a path of keys as the option that sets it."""
    return "--" + ".".join(key for key in path if key != "init_args")


def located(message: str, config: Any) -> str:
    """Give an option that is told by its own name alone (``rescale: ...``) its full name.

    Args:
        message: An error that begins with the name of an argument and quotes its value.
        config: The parsed options.

    Returns:
        The message with ``--model.rescale`` in place of ``rescale`` where exactly one option has that name
        and that value; else as it was.
    """
    match = re.match(r"(?:trainer\.)?(\w+):? ", message)
    if match is None or config is None:
        return message
    found = list(_paths(config, match[1])) or list(_paths(config, _OTHER_NAMES.get(match[1], "")))
    places = [_place(value, message) for _, value in found]
    first = min(places, default=len(message))
    paths = [
        path for (path, _), place in zip(found, places, strict=True) if len(found) == 1 or place == first
    ]
    if len(paths) != 1:
        return message
    return f"{option_of(paths[0])}{message[match.end(1) :]}"


def with_class_paths(words: Sequence[str]) -> list[str]:
    """Write integrators that are named by their word (``gradient_descent``) as classes.

    Only then do options of theirs that follow (``--model.settings.integrator.lr 0.1``) have an owner.

    Args:
        words: The command line.
    """
    from lit_aux.integrators import INTEGRATORS

    classes = {name: f"lit_aux.integrators.{kind.__qualname__}" for name, kind in INTEGRATORS.items()}
    written: list[str] = []
    for word in words:
        option, sign, value = word.partition("=") if word.startswith("--") else ("", "", word)
        owner = option or (written[-1] if written else "")
        if owner.endswith(".integrator"):
            value = classes.get(value, value)
        written.append(f"{option}{sign}{value}")
    return written


def with_nulls(words: Sequence[str]) -> list[str]:
    """Write None as null, as the parser reads it: W&B agents spell values as Python does.

    Args:
        words: The command line.
    """
    written: list[str] = []
    for word in words:
        option, sign, value = word.partition("=") if word.startswith("--") else ("", "", word)
        is_value = sign or (written and written[-1].startswith("--") and "=" not in written[-1])
        written.append(f"{option}{sign}{_null(value)}" if is_value and "None" in value else word)
    return written


def _null(value: str) -> str:
    """Return a value with Python's None as YAML's null, also within a list or a dictionary of Python's."""
    if value == "None":
        return "null"
    if value[:1] not in ("[", "{"):
        return value
    try:
        return json.dumps(ast.literal_eval(value))
    except (ValueError, SyntaxError, TypeError):
        return value


def _place(value: Any, message: str) -> int:
    """Return where a message quotes a value, its length if it does not."""
    quoted = re.search(rf"(?<![\w.]){re.escape(str(value))}(?!\w)", message)
    return len(message) if value is None or quoted is None else quoted.start()


def _paths(config: Any, name: str, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield where an option occurs; entries of lists cannot be named on the command line."""
    items: Iterable[tuple[str, Any]] = ()
    if isinstance(config, Namespace):
        items = vars(config).items()
    elif isinstance(config, Mapping):
        items = config.items()
    for key, value in items:
        if key == name:
            yield (*path, str(key)), value
        yield from _paths(value, name, (*path, str(key)))
