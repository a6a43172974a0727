"""What is wrong with configuration files, said before they are parsed: by file, and in one line."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from lit_aux import _yaml
from lit_aux.cli.words import option_of, typed_options
from lit_aux.errors import ConfigurationError, causes, one_line, shortened
from lit_aux.identity.configuration import option_in

_CONFIG = ("--config", "-c")


def configuration_files(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the files that a command line names as configurations, with their options.

    Args:
        words: The command line.
    """
    for option, value in typed_options(words):
        of_class = option.startswith(("--model", "--data", "--trainer")) and value.endswith((".yaml", ".yml"))
        if option in _CONFIG or (of_class and _is_file(value)):
            yield option, value


def check_configurations(words: Sequence[str]) -> None:
    """Raise for configuration files that are missing, empty, no UTF-8, no YAML, or have a key twice.

    Args:
        words: The command line.

    Raises:
        ConfigurationError: Naming the file.
    """
    for option, file in configuration_files(words):
        if option in _CONFIG and not _is_file(file):
            if not file.strip():
                raise ConfigurationError(f"{option}: {file!r} names no file; write {option} FILE.yaml")
            if "\n" in file or file.lstrip()[:1] == "{":  # the configuration itself
                continue
            what = "is a folder; name a file" if Path(file).is_dir() else "there is no such file"
            raise ConfigurationError(f"{option} {file!r}: {what}")
        content = _yaml.read(file, option)
        if content is None:
            raise ConfigurationError(f"{option} {file}: is empty; it must hold model, data and trainer")
        if option in _CONFIG and not isinstance(content, dict):
            raise ConfigurationError(
                f"{option} {file}: holds {shortened(repr(content), 40)}, no options; it must hold model, "
                "data and trainer"
            )
        for key, given in content.items() if option in _CONFIG and isinstance(content, dict) else ():
            _check_part(f"{option} {file}", key, given)
        for key, inner in content.items() if isinstance(content, dict) else ():
            beside = Path(file).parent / inner if isinstance(inner, str) else None
            if beside is not None and beside.suffix in (".yaml", ".yml") and _is_file(str(beside)):
                _yaml.read(beside, f"{option} {file}: {key}:")
    _check_values(words)


def _check_part(place: str, key: Any, given: Any) -> None:
    """Raise for a key that is no text, and for options of the Trainer that are none."""
    inner = given.get("init_args") if isinstance(given, dict) else None
    for one in (key, *(name for part in (given, inner) if isinstance(part, dict) for name in part)):
        if not isinstance(one, str):
            raise ConfigurationError(f"{place}: the key {one!r} is no name of an option")
    if key == "trainer" and not isinstance(given, dict) and not (isinstance(given, str) and _is_file(given)):
        raise ConfigurationError(f"{place}: --trainer: {given!r} is no mapping of options and their values")


def given_values(words: Sequence[str], option: str) -> Iterator[tuple[str, Any]]:
    """Yield every value that is given for an option, on the command line or in a file, and where (in words).

    Args:
        words: The command line.
        option: Its dotted name without ``init_args``.
    """
    for name, value in typed_options(words):
        if name == f"--{option}":
            with suppress(yaml.YAMLError):
                yield "", _yaml.load(value)
    for kind, file in configuration_files(words):
        if kind not in _CONFIG or not _is_file(file):
            continue
        content = option_in(_yaml.read(file, kind), option)
        if content is not None:
            yield f" (in {file})", content


def _check_values(words: Sequence[str]) -> None:
    """Raise for a key that is there twice in a mapping on the command line."""
    for option, value in typed_options(words):
        if option == "--trainer" and not value.lstrip().startswith("{") and not _is_file(value):
            raise ConfigurationError(
                f"{option}: {value!r} is no file of options, nor a mapping such as {{max_epochs: 3}}"
            )
        if option.endswith(".help") and f"{option}=" in words:
            raise ConfigurationError(f"{option}: '' names no class; write {option} CLASS")
        if value[:1] not in ("{", "["):
            continue
        try:
            _yaml.load(value)
        except _yaml.DuplicateKeyError as error:
            raise ConfigurationError(f"{option}: {value!r}: {error.problem}") from None
        except (ValueError, yaml.YAMLError):  # which the parser says better
            continue


@contextmanager
def told_of_references(words: Sequence[str]) -> Iterator[None]:
    """Make one line of what OmegaConf says of references (``${...}``) that lead nowhere, or in a circle.

    Args:
        words: The command line.
    """
    try:
        yield
    except Exception as error:
        from omegaconf.errors import OmegaConfBaseException

        kinds = (OmegaConfBaseException, RecursionError)
        found = next((one for one in causes(error) if isinstance(one, kinds)), None)
        if found is None:
            raise
        files = ", ".join(file for option, file in configuration_files(words) if option in _CONFIG)
        place = f"--config {files}" if files else "the command line"
        if isinstance(found, RecursionError):
            reason = "references ${...} lead in a circle"
        else:
            reason = one_line(found)
            reason, _, key = reason.partition(" full_key: ")
            named = option_of(key.partition(" ")[0].split(".")[1:]) if key else ""
            typed = [value for name, value in typed_options(words) if name == named and "${" in value]
            place = f"{named}: {typed[-1]!r}" if typed else f"{place}: {named}" if named else place
        raise ConfigurationError(
            f"{place}: {reason}; in ${{...}} stands the dotted name of an option that has a value, or "
            "${oc.env:NAME}"
        ) from error


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # too long for a name, or with a null character
        return False
