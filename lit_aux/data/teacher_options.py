"""The options that a class of one's own adds to its base: read off its constructor, checked by annotation."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lit_aux.errors import ConfigurationError
from lit_aux.ranges import is_whole

TAKEN = (
    *("run", "experiment", "setup", "rescale", "solver", "loss_best", "loss_final", "train_loss", "steps"),
    *("converged", "seconds", "accuracy", "error", "evaluations", "replica", "replicas", "options"),
    *("task", "task_classes", "quantity", "layer", "kind", "sampling"),
)
"""What no option may be called: columns of tables of results, and what names a run beside them."""
COLUMN_KINDS: dict[str, type] = {"overlap": int, "k_main": int, "correlation": float, "magnitude": float}
"""What the columns of the results table hold that an option may be called like."""
_SCALARS = (int, float, bool, str)
_WORDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "a word",
}


@dataclass(frozen=True)
class OwnOption:
    """An option of somebody's own class.

    Attributes:
        name: Its name.
        kinds: Of a single value: ``int``, ``float``, ``bool`` and ``str``.
        words: The words that there are, where the annotation says which.
        spans: Whether a list of values is an axis of the grid.
        plain: Whether the annotation names such kinds alone; another takes what is made of them.
        optional: Whether it may be None.
    """

    name: str
    kinds: tuple[type, ...]
    words: tuple[str, ...] = ()
    spans: bool = False
    plain: bool = True
    optional: bool = False

    def parse(self, value: object) -> Any:
        """Return a single value in its type.

        Raises:
            ConfigurationError: For anything else.
        """
        known = not self.words or value in self.words
        if isinstance(value, bool):
            if bool in self.kinds:
                return value
        elif isinstance(value, str):
            if str in self.kinds and known and value.strip() and "\n" not in value:
                return value
        elif is_whole(value) and int in self.kinds:
            return int(value)
        elif isinstance(value, Real) and float in self.kinds and isfinite(value):
            return float(value)
        raise self._refused(value)

    def parse_setting(self, value: object) -> Any:
        """Return the value that all replicas have.

        Raises:
            ConfigurationError: For a list where the annotation has none, and what cannot be told from others.
        """
        if value is None and self.optional:
            return None
        if self.plain:
            return self.parse(value)
        if not _is_plain(value):
            raise ConfigurationError(
                f"--data.{self.name} {value!r}: runs cannot be told apart by it; give numbers, words, truth "
                "values, or lists and dictionaries of them"
            )
        return value

    def _refused(self, value: object) -> ConfigurationError:
        right = ", ".join(self.words) or " or ".join(_WORDS[kind] for kind in self.kinds)
        hint = ""
        if isinstance(value, list | tuple) and not self.spans:
            kind = self.kinds[0].__name__
            hint = f"; annotated as {kind} | list[{kind}], it spans a grid"
        elif isinstance(value, list | tuple):
            hint = "; a list within a list spans no grid"
        return ConfigurationError(f"--data.{self.name} {value!r}: must be {right}{hint}")


def declared_options(kind: type, base: type) -> dict[str, OwnOption]:
    """Return the options that the constructors of a class and its bases add to those of a base.

    Args:
        kind: The class.
        base: The base, whose options are its own.

    Raises:
        ConfigurationError: For a name that is taken, or one of a column whose values are of another kind.
    """
    known = {*inspect.signature(base).parameters}
    found: dict[str, OwnOption] = {}
    for owner in reversed(kind.__mro__):
        if owner in base.__mro__ or "__init__" not in vars(owner):
            continue
        for parameter, annotation in _parameters(vars(owner)["__init__"]):
            if parameter not in known:
                found[parameter] = _option(kind, parameter, annotation)
    return found


def _parameters(constructor: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """Yield names and annotations but for ``self`` and what takes any number."""
    try:
        hints = get_type_hints(constructor)
    except Exception:  # a name for type checkers alone: the annotation says nothing then
        hints = {}
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for name, parameter in [*inspect.signature(constructor).parameters.items()][1:]:
        if parameter.kind not in several:
            yield name, hints.get(name, Any)


def _option(kind: type, name: str, annotation: Any) -> OwnOption:
    if name in TAKEN:
        raise ConfigurationError(
            f"data: {kind.__name__}: no option can be called {name}, which stands for something else in "
            "tables of results; choose another name"
        )
    if annotation is Any:
        members = [*_SCALARS, list[Any]]
    else:
        members = [*get_args(annotation)] if get_origin(annotation) in (Union, UnionType) else [annotation]
    lists = [member for member in members if (get_origin(member) or member) in (list, Sequence)]
    singles = [member for member in members if member not in lists]
    within = [inner for member in lists for inner in get_args(member)]
    scalars = [*singles, *within] if lists else singles
    words = tuple(word for member in scalars if get_origin(member) is Literal for word in get_args(member))
    kinds = [one for one in _SCALARS if one in scalars or (one is str and words)]
    plain = all(one in _SCALARS or one is type(None) or get_origin(one) is Literal for one in singles)
    column = COLUMN_KINDS.get(name)
    return OwnOption(
        name,
        (column,) if column is not None else tuple(kinds or _SCALARS),
        tuple(map(str, words)),
        spans=bool(lists) and plain,
        plain=plain,
        optional=type(None) in singles,
    )


def _is_plain(value: object) -> bool:
    """Whether a value is made of numbers, words and truth values."""
    if isinstance(value, dict):
        return all(isinstance(key, str | int) and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return (
        value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and isfinite(value))
    )
