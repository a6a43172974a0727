"""Values as they come from the command line or Python, checked and in one form."""

from collections.abc import Mapping, Sequence
from math import inf, isfinite
from typing import Any

from lit_aux.errors import ConfigurationError, unknown_name
from lit_aux.experiments.grids import ALL, EXPERIMENTS, Experiment
from lit_aux.ranges import SCALE

AXES = ("overlap", "k_main", "correlation", "magnitude", "rescale")


def setups(given: Any, found: Experiment) -> list[str]:
    """Return the setups that were asked for, in that order."""
    names = listed("--setups", given, found.default)
    anywhere = [name for other in EXPERIMENTS.values() for name in other.setups]
    for name in names:
        if name in found.setups:
            continue
        if name in anywhere:
            raise ConfigurationError(
                f"--setups: {found.name} has no {name!r}; it has {', '.join(found.setups)}"
            )
        raise unknown_name("--setups", name, found.setups)
    return names


def whole(option: str, given: Any, default: Sequence[int], least: int, most: float = inf) -> list[int]:
    """Return whole numbers from ``least`` to ``most``, each once."""
    values = listed(option, given, default)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            bound = f"{least} or more" if most == inf else f"from {least} to {most}"
            raise ConfigurationError(f"{option} {value!r}: must be a whole number, {bound}")
    return values


def axes(given: Mapping[str, Any], found: Experiment) -> dict[str, list[Any]]:
    """Return the values of every axis that an experiment has beside seed and n_main."""
    for name, value in given.items():
        if name not in AXES:
            raise unknown_name("axis", name, AXES)
        if value is not None and name not in found.axes:
            raise ConfigurationError(
                f"{_option(name)} {value!r}: {found.name} has no such axis; beside seed and n_main it has "
                f"{', '.join(found.axes)}"
            )
    out: dict[str, list[Any]] = {}
    for name, default in found.axes.items():
        value = given.get(name)
        if name == "k_main":
            out[name] = whole("--k-main", value, default, 1)
        elif name == "overlap":
            out[name] = _overlaps(value, default)
        elif name == "correlation":
            out[name] = _correlations(value, default)
        else:
            out[name] = [_positive(_option(name), v) for v in listed(_option(name), value, default)]
    return out


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def listed(option: str, given: Any, default: Sequence[Any]) -> list[Any]:
    """Return the values that were given, each once, or the default."""
    if given is None:
        given = default
    values = list(given) if isinstance(given, list | tuple) else [given]
    if not values:
        raise ConfigurationError(f"{option} []: the list is empty; name at least one value")
    kept: list[Any] = []
    for value in values:
        if not any(value == other and type(value) is type(other) for other in kept):
            kept.append(value)
    return kept


def _number(option: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ConfigurationError(f"{option} {value!r}: must be a finite number")
    return float(value)


def _positive(option: str, value: Any) -> float:
    number = _number(option, value)
    if number <= 0:
        raise ConfigurationError(f"{option} {value!r}: must be above 0")
    if number not in SCALE:
        raise ConfigurationError(f"{option} {value!r}: must be {SCALE}")
    return number


def _overlaps(given: Any, default: Sequence[Any]) -> list[Any]:
    values = listed("--overlap", given, default)
    numbers = [value for value in values if value != ALL]
    if text := [value for value in numbers if isinstance(value, str)]:
        raise ConfigurationError(f"--overlap {text[0]!r}: must be a whole number, or {ALL!r} for all of them")
    if numbers:
        whole("--overlap", numbers, (), 0)
    return values


def _correlations(given: Any, default: Sequence[Any]) -> list[float | tuple[float, ...]]:
    return [_correlation(value) for value in listed("--correlation", given, default)]


def _correlation(value: Any) -> float | tuple[float, ...]:
    """Return one number for all units, or a tuple with one for each."""
    if isinstance(value, str):
        try:
            parts: list[Any] = [float(part) for part in value.split("|")]
        except ValueError:
            raise ConfigurationError(
                f"--correlation {value!r}: must be a number, or one for each main unit as in 1|1|0"
            ) from None
        return _correlation(parts if "|" in value else parts[0])
    if isinstance(value, list | tuple):
        return tuple(_bounded(part) for part in value)
    return _bounded(value)


def _bounded(value: Any) -> float:
    number = _number("--correlation", value)
    if abs(number) > 1:
        raise ConfigurationError(f"--correlation {value!r}: must lie between -1 and 1")
    return number
