"""YAML files as this project reads them: UTF-8, and no key twice in one mapping."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lit_aux.errors import ConfigurationError

_WIDE = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
"""What files in UTF-32 begin with; of the first kind, the beginning is that of UTF-16 as well."""
_MOST = 1_000_000
"""Most values of a file, those counted again that anchors repeat: a few lines of them can make billions."""
_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
"""What files in other encodings begin with."""


class DuplicateKeyError(yaml.MarkedYAMLError):
    """A mapping has a key twice: YAML would take the last one without a word."""


@cache
def strict(loader: Any) -> Any:
    """Return a loader of PyYAML's that refuses keys which are there twice.

    Keys that a merge (``<<``) brings may be overridden, as ever.

    Args:
        loader: The loader's class.
    """

    class Strict(loader):  # type: ignore[misc]
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            seen: dict[tuple[str, str], Any] = {}
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                    continue
                first = seen.setdefault((key.tag, key.value), key)
                if first is not key:
                    line = first.start_mark.line + 1
                    problem = f"the key {key.value!r} is there twice, first in line {line}"
                    raise DuplicateKeyError(None, None, problem, key.start_mark)
            return node

    return Strict


def load(text: str, loader: Any = yaml.SafeLoader) -> Any:
    """Return what YAML says.

    Args:
        text: The YAML.
        loader: A loader of PyYAML's.

    Raises:
        yaml.YAMLError: If it is none, or a key is there twice.
    """
    return yaml.load(text, Loader=strict(loader))


def read(path: str | Path, option: str) -> Any:
    """Return what a YAML file says.

    Args:
        path: The file.
        option: What named it, for the error.

    Raises:
        ConfigurationError: If it cannot be read, is not UTF-8, is no YAML, or has a key twice.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise ConfigurationError(f"{option} {path}: there is no such file") from None
    except OSError as error:
        raise ConfigurationError(f"{option} {path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # a null character in its name
        raise ConfigurationError(f"{option} {str(path)!r}: cannot be the name of a file ({error})") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-32" if content[:4] in _WIDE else _MARKS.get(content[:2], "Latin-1, maybe")
        raise ConfigurationError(
            f"{option} {path}: is not UTF-8 (byte {error.start} is none; it is {kind}); save it as UTF-8"
        ) from None
    try:
        loaded = load(text)
        check_size(loaded)
        return loaded
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that does not exist, deep nesting
        raise ConfigurationError(f"{option} {path}: is not valid YAML ({_reason(error)})") from None


def check_size(content: Any) -> None:
    """Refuse what anchors make larger than a file can mean.

    Args:
        content: What YAML says.

    Raises:
        ValueError: For a mapping or list that holds itself, and for very many values.
        RecursionError: For what is nested too deeply.
    """
    _count(content, (), [0])


def _count(content: Any, within: tuple[int, ...], seen: list[int]) -> None:
    seen[0] += 1
    if seen[0] > _MOST:
        raise ValueError(f"its anchors make more than {_MOST} values")
    if not isinstance(content, dict | list):
        return
    if id(content) in within:
        raise ValueError("an anchor holds itself")
    for inner in content.values() if isinstance(content, dict) else content:
        _count(inner, (*within, id(content)), seen)


def _reason(error: Exception) -> str:
    if isinstance(error, DuplicateKeyError) and error.problem_mark is not None:
        return f"{error.problem}, and again in line {error.problem_mark.line + 1}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(error).split()).replace('in "<unicode string>", ', "at ")
