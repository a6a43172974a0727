"""The command line of a run: W&B's macros filled in, and what it says of the run looked up."""

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lit_aux import _yaml
from lit_aux.errors import ConfigurationError
from lit_aux.sweeps.file import EXAMPLE, SweepFile
from lit_aux.sweeps.points import Point

_MACRO = re.compile(r"\$\{(.+)\}")
_VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)


def expand(sweep: SweepFile, point: Point) -> list[str]:
    """Return the whole command line of a point, as a W&B agent runs it.

    Raises:
        ConfigurationError: For a macro that is unknown here.
    """
    filled: dict[str, list[str]] = {
        "env": ["/usr/bin/env"],
        "interpreter": ["python"],
        "args": [f"--{name}={value}" for name, value in point.items()],
        "args_no_equals": [word for name, value in point.items() for word in (f"--{name}", str(value))],
    }
    words: list[str] = []
    for word in sweep.command:
        word = _VARIABLE.sub(lambda match: os.environ.get(match[1], match[1]), word)
        macro = _MACRO.fullmatch(word)
        if macro is None:
            words.append(word)
        elif macro[1] in filled:
            words += filled[macro[1]]
        else:
            raise ConfigurationError(
                f"{sweep.path}: command: {word} is filled in by W&B alone; use ${{args}}"
            )
    return words


def fit_words(sweep: SweepFile, point: Point) -> tuple[dict[str, str], list[str]]:
    """Return what a point's command line sets in the environment, and what follows ``lit-aux fit`` in it.

    Raises:
        ConfigurationError: If the command is no ``lit-aux fit``.
    """
    words = expand(sweep, point)
    wrong = ConfigurationError(
        f"{sweep.path}: command: {shlex.join(sweep.command)!r} is no lit-aux fit; write {EXAMPLE}"
    )
    at = next((i for i, word in enumerate(words) if Path(word).name == "lit-aux"), None)
    if at is None:
        at = next(
            (i + 1 for i, word in enumerate(words[:-1]) if words[i : i + 2] == ["-m", "lit_aux.cli"]), None
        )
    if at is None or words[at + 1 : at + 2] != ["fit"]:
        raise wrong
    environment = {}
    for word in words[:at]:
        if assignment := _ASSIGNMENT.fullmatch(word):
            environment[assignment[1]] = assignment[2]
        elif Path(word).name not in ("env", "uv", "run", "python", "python3", "-m") and word[0] != "-":
            raise wrong
    return environment, words[at + 2 :]


def pairs(words: Iterable[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the options of a command line: name without hyphens, value, and the words that they are."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, sign, value = word.partition("=")
        if name.startswith("-") and not sign and rest:
            value = rest.pop(0)
            yield name.lstrip("-"), value, [word, value]
        else:
            yield name.lstrip("-"), value, [word]


def without(words: Iterable[str], *names: str) -> list[str]:
    """Return a command line without some options, and without those of what they name."""
    return [
        word
        for name, _, own in pairs(words)
        if name not in names and not name.startswith(tuple(f"{option}." for option in names))
        for word in own
    ]


def config_files(sweep: SweepFile, words: Sequence[str]) -> list[Path]:
    """Return the configuration files that a command line names, in its order.

    Raises:
        ConfigurationError: If one is not there.
    """
    files = []
    for name, value, _ in pairs(words):
        named = name in ("config", "c")
        if named and not Path(value).is_file():
            raise ConfigurationError(
                f"{sweep.path}: command: --config {value}: there is no such file in {Path.cwd()}; start the "
                "sweep in the folder that has it"
            )
        if named or (value.endswith((".yaml", ".yml", ".json")) and Path(value).is_file()):
            files.append(Path(value))
    return files


def read_config(path: Path) -> Any:
    """Return what a configuration file holds."""
    return _yaml.read(path, "--config")


def configured(words: Sequence[str], configs: Sequence[Any], option: str) -> Any:
    """Return the value that a run has of an option: that of the command line, else of its configurations.

    Args:
        words: The command line.
        configs: What its configuration files hold.
        option: Its dotted name, ``trainer.devices``; ``init_args`` need not be named.

    Returns:
        The value, None where nobody gives one.
    """
    given = [value for name, value, _ in pairs(words) if name.replace(".init_args", "") == option]
    if given:
        try:
            return yaml.safe_load(given[-1])
        except yaml.YAMLError:
            return given[-1]
    found = [_value(config, option.split(".")) for config in configs]
    return next((value for value in reversed(found) if value is not None), None)


def _value(config: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        if not isinstance(config, Mapping):
            return None
        inner = config.get("init_args")
        config = inner[key] if isinstance(inner, Mapping) and key in inner else config.get(key)
    return config.get("class_path", config) if isinstance(config, Mapping) else config
