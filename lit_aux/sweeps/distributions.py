"""Values of a sweep's parameters: lists of them, and W&B's distributions to draw them from."""

from collections.abc import Callable, Mapping
from math import exp, isfinite, log
from random import Random
from typing import Any

from lit_aux.errors import ConfigurationError, unknown_name
from lit_aux.ranges import FINITE, NOT_NEGATIVE

Spec = Mapping[str, Any]
_Draw = Callable[[Random, Spec], Any]


def _uniform(random: Random, spec: Spec) -> float:
    return random.uniform(spec["min"], spec["max"])


def _log_uniform(random: Random, spec: Spec) -> float:
    """Draw a number whose logarithm is uniform from min to max."""
    return exp(_uniform(random, spec))


def _log_uniform_values(random: Random, spec: Spec) -> float:
    """Draw a number from min to max whose logarithm is uniform; so is that of its inverse."""
    return exp(random.uniform(log(spec["min"]), log(spec["max"])))


def _normal(random: Random, spec: Spec) -> float:
    return random.gauss(spec.get("mu", 0.0), spec.get("sigma", 1.0))


def _log_normal(random: Random, spec: Spec) -> float:
    return exp(_normal(random, spec))


def _beta(random: Random, spec: Spec) -> float:
    return random.betavariate(spec["a"], spec["b"])


def _categorical(random: Random, spec: Spec) -> Any:
    return random.choices(spec["values"], weights=spec.get("probabilities"))[0]


def _in_steps(draw: _Draw) -> _Draw:
    """Round what is drawn to multiples of ``q``."""

    def stepped(random: Random, spec: Spec) -> float:
        q = spec.get("q", 1)
        steps = round(draw(random, spec) / q)
        return steps * q if isinstance(q, int) else float(f"{steps * q:.12g}")

    return stepped


_BETWEEN, _GAUSS, _SHAPES = ("min", "max"), ("mu", "sigma"), ("a", "b")
_KINDS: dict[str, tuple[_Draw, tuple[str, ...]]] = {
    "constant": (lambda _, spec: spec["value"], ("value",)),
    "categorical": (_categorical, ("values",)),
    "categorical_w_probabilities": (_categorical, ("values", "probabilities")),
    "int_uniform": (lambda random, spec: random.randint(spec["min"], spec["max"]), _BETWEEN),
    "uniform": (_uniform, _BETWEEN),
    "log_uniform": (_log_uniform, _BETWEEN),
    "log_uniform_values": (_log_uniform_values, _BETWEEN),
    "inv_log_uniform_values": (_log_uniform_values, _BETWEEN),
    "normal": (_normal, _GAUSS),
    "log_normal": (_log_normal, _GAUSS),
    "beta": (_beta, _SHAPES),
    "q_uniform": (_in_steps(_uniform), _BETWEEN),
    "q_log_uniform": (_in_steps(_log_uniform), _BETWEEN),
    "q_log_uniform_values": (_in_steps(_log_uniform_values), _BETWEEN),
    "q_normal": (_in_steps(_normal), _GAUSS),
    "q_log_normal": (_in_steps(_log_normal), _GAUSS),
    "q_beta": (_in_steps(_beta), _SHAPES),
}
_OPTIONAL = ("mu", "sigma", "probabilities")
DISTRIBUTIONS = tuple(_KINDS)
"""The distributions that can be drawn from here, by the names that W&B has for them."""


def distribution(spec: Spec) -> str:
    """Return the distribution of a parameter, W&B's own choice where none is named."""
    if "distribution" in spec:
        return str(spec["distribution"])
    if "values" in spec:
        return "categorical"
    if "value" in spec:
        return "constant"
    if {"min", "max"} <= {*spec}:
        whole = all(isinstance(spec[end], int) for end in _BETWEEN)
        return "int_uniform" if whole else "uniform"
    return "normal" if {"mu", "sigma"} & {*spec} else ""


def check(place: str, spec: Spec) -> None:
    """Raise unless values can be drawn.

    Args:
        place: Where the parameter stands, for the message.
        spec: What the file says of it.

    Raises:
        ConfigurationError: For an unknown distribution, or ends that are missing, no numbers, or reversed.
    """
    kind = distribution(spec)
    if not kind:
        raise ConfigurationError(f"{place}: gives no values; write value, values, or min and max")
    if kind not in _KINDS:
        raise unknown_name(f"{place}.distribution", kind, DISTRIBUTIONS)
    for key in _KINDS[kind][1]:
        if key not in spec and key not in _OPTIONAL:
            raise ConfigurationError(f"{place}.{key}: nothing is given; {kind} needs it")
    for key in ("value", "values"):
        if (odd := _not_finite(spec.get(key))) is not None:
            raise ConfigurationError(f"{place}.{key}: {odd} is no value to try; give finite numbers")
    _check_values(place, spec)
    for key in ("min", "max", "mu", "sigma", "q", "a", "b"):
        if key in spec and spec[key] not in FINITE:
            raise ConfigurationError(f"{place}.{key}: {spec[key]!r} is not a number")
    if _KINDS[kind][1] == _BETWEEN:
        _check_ends(place, kind, spec)
    for key in ("sigma", "q", "a", "b"):
        if key in spec and spec[key] <= 0:
            raise ConfigurationError(f"{place}.{key}: {spec[key]} must be above 0")


def draw(spec: Spec, random: Random) -> Any:
    """Draw a value.

    Args:
        spec: What the file says of a parameter, checked.
        random: Where chance comes from.
    """
    return _KINDS[distribution(spec)][0](random, spec)


def _check_values(place: str, spec: Spec) -> None:
    if "values" not in spec:
        return
    values, weights = spec["values"], spec.get("probabilities")
    if not isinstance(values, list) or not values:
        raise ConfigurationError(f"{place}.values: {values!r} must be a list that is not empty")
    if weights is None:
        return
    if not isinstance(weights, list) or len(weights) != len(values):
        raise ConfigurationError(f"{place}.probabilities: {weights!r} must hold one for each value")
    if not all(weight in NOT_NEGATIVE for weight in weights) or abs(sum(weights) - 1) > 1e-6:
        raise ConfigurationError(f"{place}.probabilities: {weights!r} must be numbers that sum to 1")


def _check_ends(place: str, kind: str, spec: Spec) -> None:
    low, high = spec["min"], spec["max"]
    if low > high:
        raise ConfigurationError(f"{place}.min: {low} is above max {high}")
    if kind.endswith("_values") and low <= 0:
        raise ConfigurationError(f"{place}.min: {low} must be above 0 for {kind}")
    if kind == "int_uniform" and not (isinstance(low, int) and isinstance(high, int)):
        raise ConfigurationError(f"{place}.min: {low} and max {high} must be whole numbers for {kind}")


def _not_finite(value: Any) -> float | None:
    """Return the first number in a value that is NaN or infinite."""
    if isinstance(value, float):
        return None if isfinite(value) else value
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return next((odd for one in inner if (odd := _not_finite(one)) is not None), None)
