"""What the project's own commands share: their parser, and what it says of a wrong command line."""

import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from lit_aux.errors import ConfigurationError, unknown_name


class _Help(DefaultHelpFormatter):
    """Leaves the lines of the description as they are, but for long ones."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" not in text:
            return super()._fill_text(text, width, indent)
        return "".join(indent + line for line in text.splitlines(keepends=True))


def command_parser(name: str, description: str) -> ArgumentParser:
    """Return the parser of a command, still without arguments.

    Args:
        name: What stands behind ``lit-aux``.
        description: For ``--help``; text of several lines is left as it is.
    """
    return ArgumentParser(
        prog=f"lit-aux {name}",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=_Help,
    )


def spellings(name: str) -> list[str]:
    """Return an option with hyphens, as people write it, and with underscores, as Python does."""
    return list(dict.fromkeys(["--" + name.replace("_", "-"), f"--{name}"]))


def parse(
    made: ArgumentParser,
    arguments: Sequence[str],
    options: Iterable[str],
    *,
    nothing: str = "",
    stray: str = "",
    missing: Mapping[str, str] | None = None,
) -> Any:
    """Parse a command line, saying in one line what is wrong with it.

    Args:
        made: Of :func:`command_parser`, with its arguments.
        arguments: What follows the command.
        options: Every option, to name the nearest of an unknown one.
        nothing: What to say where the argument without option is not given.
        stray: What to say of a word that belongs to no option.
        missing: What to say of an option without value, by option; ``""`` is for all others.

    Raises:
        ConfigurationError: For what is unknown or incomplete.
        ArgumentError: For a value of the wrong kind; :func:`lit_aux.cli.main` makes one line of it.
    """
    try:
        return made.parse_args(list(arguments))
    except ArgumentError as error:
        text = str(error)
        if match := re.match(r"unrecognized arguments: (\S+)", text):
            word = match[1].partition("=")[0]
            if word.startswith("-") or not stray:
                raise unknown_name(made.prog.removeprefix("lit-aux "), word, options) from None
            raise ConfigurationError(f"{word!r} belongs to no option; {stray}") from None
        if nothing and "arguments are required" in text:
            raise ConfigurationError(nothing) from None
        if match := re.match(r"argument (--[\w-]+)\S*: expected (?:at least )?one argument", text):
            known = missing or {}
            hint = known.get(match[1], known.get("", "give a value")).format(option=match[1])
            raise ConfigurationError(f"{match[1]}: nothing is given; {hint}") from None
        raise


def know_working_folder() -> None:
    """Let classes of the user's own be named as ``module.Class``: the working folder is looked at last."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
