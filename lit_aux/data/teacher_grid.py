"""From options that take one value or a list to the replicas of a grid."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any, cast

from lit_aux.data.tasks import resolve_seed
from lit_aux.errors import ConfigurationError, check_known
from lit_aux.ranges import MOST, POSITIVE, SCALE, whole

Cell = dict[str, Any]
Parser = Callable[[object], Any]


def whole_number(option: str, least: int, most: float = MOST) -> Parser:
    """Return a function that takes a whole number from ``least`` to ``most`` and refuses anything else."""
    return lambda value: whole(f"--data.{option}", value, least, most)


def positive_number(option: str) -> Parser:
    """Return a function that takes a finite number above 0 and refuses anything else."""

    def parse(value: object) -> float:
        if value not in POSITIVE:
            raise ConfigurationError(f"--data.{option} {value}: must be a finite number above 0")
        if value not in SCALE:
            raise ConfigurationError(f"--data.{option} {value}: must be {SCALE}")
        return float(cast(float, value))

    return parse


COMMON: Mapping[str, Parser] = {
    "seed": whole_number("seed", 0, 2**32 - 1),
    "n_main": whole_number("n_main", 1),
    "k_main": whole_number("k_main", 1),
}
"""Of the options that all teachers have; numpy takes no larger seed."""


def given_seed(seed: int | list[int] | None) -> int | list[int]:
    """Return the seeds given, else that of ``seed_everything``, else 0."""
    return resolve_seed(None) if seed is None else seed


def as_list(value: object) -> list[object]:
    """Return the values of an option that takes one value or a list."""
    return list(value) if isinstance(value, list | tuple) else [value]


def span(
    axes: Mapping[str, Sequence[object]],
    parsers: Mapping[str, Parser],
    cells: Sequence[Mapping[str, object]] | None = None,
) -> list[Cell]:
    """Return every combination of the axes' values, or the given cells with the axes' values filled in.

    Args:
        axes: By name of option, the values to combine.
        parsers: By name of option, what checks a value and brings it into its type.
        cells: Combinations in place of the product. What one leaves out is taken from ``axes``, which must
            then hold a single value.

    Raises:
        ConfigurationError: For no value, a value given twice, an unknown option in a cell, one that a cell
            leaves open, or a value that its parser refuses.
    """
    for name, values in axes.items():
        if not values:
            raise ConfigurationError(f"--data.{name} []: give at least one value")
    parsed = {name: [parsers[name](value) for value in values] for name, values in axes.items()}
    for name, values in parsed.items():
        if (twice := first_repeated(values)) is not None:
            raise ConfigurationError(f"--data.{name}: {twice} is given twice")
    if cells is None:
        return [dict(zip(parsed, values, strict=True)) for values in product(*parsed.values())]
    if not cells:
        raise ConfigurationError("--data.cells []: give at least one cell")
    return [_fill(cell, parsed, parsers) for cell in cells]


def _fill(cell: Mapping[str, object], axes: Mapping[str, list[Any]], parsers: Mapping[str, Parser]) -> Cell:
    """Complete one cell."""
    if not isinstance(cell, Mapping):
        raise ConfigurationError(f"--data.cells: {cell!r} must name its values, as {{seed: 0, n_main: 16}}")
    for name in cell:
        check_known("--data.cells", name, axes)
    filled = {}
    for name, values in axes.items():
        if name not in cell and len(values) > 1:
            raise ConfigurationError(
                f"--data.cells: {dict(cell)} leaves {name} open; give it there, or one value of --data.{name}"
            )
        filled[name] = parsers[name](cell[name]) if name in cell else values[0]
    return filled


def in_order(cells: Iterable[Cell], option: str) -> list[Cell]:
    """Sort cells by their values, in the order of the axes.

    Args:
        cells: All with the same axes in the same order.
        option: The one to blame for a cell that is there twice.

    Raises:
        ConfigurationError: If one is.
    """
    values = sorted(cells, key=lambda cell: tuple(cell.values()))
    if (twice := first_repeated(tuple(cell.items()) for cell in values)) is not None:
        raise ConfigurationError(f"--data.{option}: {dict(twice)} is there twice")
    return values


def first_repeated(values: Iterable[Any]) -> Any | None:
    """Return the first of the (hashable) values that occurred before, None if there is none."""
    counts = Counter(values)
    return next((value for value, count in counts.items() if count > 1), None)
