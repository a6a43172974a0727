"""What the project's own commands share: their parser, and what it says of a wrong command line."""

import re
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from types import GenericAlias
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from lit_aux.errors import ConfigurationError, unknown_name


class Option(NamedTuple):
    """An option of a command: ``bool`` is a flag, ``list[X]`` takes several."""

    help: str
    kind: Any = str | None
    default: Any = None


Options = Mapping[str, Option]
"""Options by their names in Python."""


class _Help(DefaultHelpFormatter):
    """Leaves the lines of the description as they are, but for long ones."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" not in text:
            return super()._fill_text(text, width, indent)
        return "".join(indent + line for line in text.splitlines(keepends=True))


def command_parser(name: str, description: str, options: Options, usage: str | None = None) -> ArgumentParser:
    """Return the parser of a command, still without arguments that have no option.

    Args:
        name: What stands behind ``lit-aux``.
        description: For ``--help``; text of several lines is left as it is.
        options: Its options; each may be written with hyphens or underscores.
        usage: In place of the list of all options.
    """
    made = ArgumentParser(
        prog=f"lit-aux {name}",
        description=description,
        usage=usage,
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=_Help,
    )
    for option, (text, kind, default) in options.items():
        how: dict[str, Any] = {"type": kind, "default": default}
        if kind is bool:
            how = {"action": "store_true"}
        elif isinstance(kind, GenericAlias):
            how |= {"type": kind.__args__[0], "nargs": "+"}
        made.add_argument(*dict.fromkeys((spelling(option), f"--{option}")), help=text, **how)
    return made


def spelling(name: str) -> str:
    """Return an option as people write it: with hyphens."""
    return "--" + name.replace("_", "-")


def parse(
    made: ArgumentParser,
    arguments: Sequence[str],
    *,
    nothing: str = "",
    stray: str = "",
    missing: Mapping[str, str] | None = None,
) -> Any:
    """Parse a command line, saying in one line what is wrong with it.

    Args:
        made: Of :func:`command_parser`, with its arguments.
        arguments: What follows the command.
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
                named = (action for action in made._actions if action.dest != "help")
                options = [action.option_strings[0] for action in named if action.option_strings]
                raise unknown_name(made.prog.removeprefix("lit-aux "), word, options) from None
            raise ConfigurationError(f"{word!r} belongs to no option; {stray}") from None
        if nothing and "arguments are required" in text:
            raise ConfigurationError(nothing) from None
        if match := re.match(r"argument (--[\w-]+)\S*: expected (?:at least )?one argument", text):
            known = missing or {}
            hint = known.get(match[1], known.get("", "give a value")).format(option=match[1])
            raise ConfigurationError(f"{match[1]}: nothing is given; {hint}") from None
        if match := re.match(r"argument (--[\w-]+)\S*: ignored explicit argument (.*)", text):
            word = next(word for word in arguments if word.startswith(f"{match[1]}="))
            told = f"{match[2]} is given, and {match[1]} takes no value; write it alone, or leave it out"
            raise ConfigurationError(f"{word}: {told}") from None
        raise


def split_at_dashes(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return a command's own arguments, and those behind ``--``, which are for ``lit-aux fit``.

    Args:
        arguments: What follows the command.
    """
    words = list(arguments)
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]
