"""Names of parameters and layers as people write them, and the patterns that choose among them."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from lit_aux.errors import unknown_name

READOUTS = frozenset({"head", "heads", "readout", "readouts", "fc", "classifier"})
"""Name components by which the readout of a network is recognised."""


def clean(name: str) -> str:
    """Drop the ``_orig_mod`` components that ``torch.compile`` puts into names."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def uncompiled(module: Any) -> Any:
    """Return what ``torch.compile`` wraps, or the module itself."""
    return getattr(module, "_orig_mod", module)


def is_readout(name: str) -> bool:
    """Whether a dotted name lies in what is usually called the readout."""
    return not READOUTS.isdisjoint(name.split("."))


def match(option: str, patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return the names that any of the patterns matches, in the order of ``names``.

    Args:
        option: The option that holds the patterns, for the error.
        patterns: Exact names or globs (``*``, ``?``, ``[...]``; a ``*`` also spans dots).
        names: The names to choose from.

    Raises:
        ConfigurationError: If a pattern matches nothing; the nearest names are offered.
    """
    names = list(names)
    found: set[str] = set()
    for pattern in patterns:
        hits = {name for name in names if fnmatchcase(name, pattern)}
        if not hits:
            raise unknown_name(option, pattern, names)
        found |= hits
    return [name for name in names if name in found]
