"""Options of the command line by their full names."""

import ast
import json
from collections.abc import Iterable, Sequence


def option_of(path: Iterable[str]) -> str:
    """Write a path of keys as the option that sets it."""
    return "--" + ".".join(key for key in path if key != "init_args")


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
