"""The points of a sweep: the values that each of its runs gives to the parameters."""

from collections.abc import Mapping
from itertools import islice, product
from math import prod
from random import Random
from typing import Any

from lit_aux.errors import ConfigurationError
from lit_aux.sweeps.distributions import distribution, draw
from lit_aux.sweeps.file import SweepFile

Point = Mapping[str, Any]
MOST_RUNS = 1_000_000
"""Of one sweep."""


def points(
    sweep: SweepFile, method: str | None = None, count: int | None = None, seed: int = 0
) -> list[Point]:
    """Return the points of a sweep in the order in which they are run.

    A grid runs through the values of the file's last parameter first, through those of its first one last.
    Random points are drawn one by one, each from the seed and its own number: a greater count keeps those of
    a smaller one.

    Args:
        sweep: The file.
        method: In place of the file's own, ``grid`` or ``random``.
        count: Most points; ``run_cap`` of the file holds as well.
        seed: For random points.

    Raises:
        ConfigurationError: For ``bayes``, which asks a server what to try next, a grid without values, or
            random points of which nothing says how many.
    """
    method = method or sweep.method
    limits = [limit for limit in (count, sweep.run_cap) if limit is not None]
    limit = min(limits) if limits else None
    if method == "bayes":
        raise ConfigurationError(
            f"{sweep.path}: method: bayes needs W&B's server: start it with wandb sweep and wandb agent, or "
            "draw at random here (--method random --count 20)"
        )
    if method == "grid":
        return _grid(sweep, limit)
    if limit is None:
        raise ConfigurationError("--count: nothing is given; say how many runs a random sweep shall have")
    return [_random(sweep, f"{seed}/{number}") for number in range(limit)]


def _grid(sweep: SweepFile, limit: int | None) -> list[Point]:
    choices: dict[str, list[Any]] = {}
    for name, spec in sweep.parameters.items():
        if "values" not in spec and "value" not in spec:
            raise ConfigurationError(
                f"{sweep.path}: parameters.{name}: a grid needs values, not {distribution(spec)}; or draw at "
                "random (--method random --count 20)"
            )
        choices[name] = spec["values"] if "values" in spec else [spec["value"]]
    size = prod(map(len, choices.values()))
    if limit is None and size > MOST_RUNS:
        raise ConfigurationError(f"{sweep.path}: parameters: {size:,} runs are too many; give --count")
    return [dict(zip(choices, values, strict=True)) for values in islice(product(*choices.values()), limit)]


def _random(sweep: SweepFile, seed: str) -> Point:
    random = Random(seed)
    return {name: draw(spec, random) for name, spec in sweep.parameters.items()}
