"""From what was asked for to single runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import inf, isfinite
from typing import Any

from lit_aux.errors import ConfigurationError, unknown_name
from lit_aux.experiments.grids import ALL, EXPERIMENTS, Experiment, experiment
from lit_aux.experiments.options import Options
from lit_aux.experiments.protocol import published
from lit_aux.experiments.run import Run
from lit_aux.ranges import MOST, SCALE


def cells(
    name: str,
    setups: Any = None,
    seeds: Any = None,
    n_main: Any = None,
    options: Options | None = None,
    details: Mapping[str, Mapping[str, Any]] | None = None,
    **axes: Any,
) -> list[Run]:
    """Return the runs of an experiment in the order in which they should be done.

    Every choice is one value or a list; None is what the paper did. Setups keep their order, within one the
    smallest n_main comes first, and seeds are innermost.

    Args:
        name: An experiment of :data:`~lit_aux.experiments.EXPERIMENTS`.
        setups: Which of its setups.
        seeds: Whole numbers.
        n_main: Rows, or images, of the main task.
        options: How runs are carried out.
        details: For images, all else on which the numbers of a setup depend, by setup.
        **axes: ``overlap``, ``k_main``, ``correlation`` (for all units one number; else a list, or text like
            ``1|1|0``, with one for each), ``magnitude`` and ``rescale``, where the experiment has them.

    Raises:
        ConfigurationError: For what is unknown, of the wrong kind or impossible; the message is one line.
    """
    options = options or Options()
    found = experiment(name)
    wanted = chosen_setups(setups, found)
    if options.integrator == "exact":
        wanted = _solvable(found, wanted, given=setups is not None)
    chosen_seeds = whole("--seeds", seeds, found.seeds, 0, 2**32 - 1)
    sizes = sorted(whole("--n-main", n_main, found.n_main, 1, MOST))
    grid = list(_grid(found, chosen_axes(axes, found), options))
    runs: dict[str, Run] = {}
    for setup, n, place, seed in product(wanted, sizes, grid, chosen_seeds):
        run_axes = {"seed": seed, "n_main": n, **place}
        if setup not in found.rescale_setups:
            run_axes.pop("rescale", None)
        run = _run(found, setup, run_axes, options, (details or {}).get(setup, {}))
        runs.setdefault(run.run_hash, run)
    return list(runs.values())


def _solvable(found: Experiment, wanted: Sequence[str], *, given: bool) -> list[str]:
    """Return the setups that are solved instead of trained; refuse others if they were asked for."""
    if found.network != "diagonal":
        raise ConfigurationError(
            f"--integrator exact: {found.name} has no networks that can be solved; diagonal ones can"
        )
    solvable = [setup for setup in wanted if setup != "MTL"]
    if (given and len(solvable) < len(wanted)) or not solvable:
        raise ConfigurationError(
            "--integrator exact: MTL trains two outputs and cannot be solved; name other setups, or train it "
            "by gradient_flow"
        )
    return solvable


def _run(
    found: Experiment, setup: str, axes: dict[str, Any], options: Options, details: Mapping[str, Any]
) -> Run:
    if found.network == "image":
        return Run(found.name, setup, axes, None, details)
    protocol = published(found.name, setup, axes, found.in_features, found.k_aux)
    changes: dict[str, Any] = {"dtype": options.resolved_dtype(found.network)}
    if options.max_steps is not None:
        changes |= {"max_steps": options.max_steps, "pretrain_max_steps": options.max_steps}
    scales = options.output_scales(found.output_scale)
    return Run(
        found.name,
        setup,
        axes,
        replace(protocol, **changes),
        options.of_results(found.network, scales, pretrained=setup.startswith("PT+FT")),
    )


def _grid(found: Experiment, axes: Mapping[str, Sequence[Any]], options: Options) -> Iterable[dict[str, Any]]:
    """Yield every place of the grid, seed and n_main left out."""
    for values in product(*axes.values()):
        place = dict(zip(axes, values, strict=True))
        if found.network == "diagonal":
            if options.sampling == "published" and place["k_main"] > found.k_aux:
                raise ConfigurationError(
                    f"--k-main {place['k_main']}: published sampling draws {found.k_aux} signs; give no "
                    "more, or --sampling independent"
                )
            place["overlap"] = _overlap(place["overlap"], place["k_main"], found)
        elif found.network == "relu":
            _check_units(place["k_main"], found)
            place["correlation"] = _correlation(place["correlation"], place["k_main"])
        yield place


def _overlap(overlap: int | str, k_main: int, found: Experiment) -> int:
    most = min(k_main, found.k_aux)
    shared = most if isinstance(overlap, str) else overlap
    if shared > most:
        raise ConfigurationError(
            f"--overlap {shared}: at most {most} of {k_main} main entries can be among the {found.k_aux} "
            "auxiliary ones"
        )
    if found.k_aux + k_main - shared > found.in_features:
        raise ConfigurationError(
            f"--k-main {k_main}: with {found.k_aux} auxiliary entries, {shared} of them shared, there are "
            f"more than {found.in_features} inputs"
        )
    return shared


def _check_units(k_main: int, found: Experiment) -> None:
    most = min(found.k_aux, found.in_features - found.k_aux)
    if k_main > most:
        raise ConfigurationError(
            f"--k-main {k_main}: {found.name} has {found.k_aux} auxiliary units and {found.in_features} "
            f"inputs, so there can be at most {most} main units"
        )


def _correlation(value: float | tuple[float, ...], k_main: int) -> tuple[float, ...]:
    if isinstance(value, float):
        return (value,) * k_main
    if len(value) != k_main:
        text = "|".join(str(part) for part in value)
        raise ConfigurationError(
            f"--correlation {text}: has {len(value)} entries; give one number, or one for each main unit "
            f"(--k-main {k_main})"
        )
    return value


AXES = ("overlap", "k_main", "correlation", "magnitude", "rescale")


def chosen_setups(given: Any, found: Experiment) -> list[str]:
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


def chosen_axes(given: Mapping[str, Any], found: Experiment) -> dict[str, list[Any]]:
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
    return [_read_correlation(value) for value in listed("--correlation", given, default)]


def _read_correlation(value: Any) -> float | tuple[float, ...]:
    """Return one number for all units, or a tuple with one for each."""
    if isinstance(value, str):
        try:
            parts: list[Any] = [float(part) for part in value.split("|")]
        except ValueError:
            raise ConfigurationError(
                f"--correlation {value!r}: must be a number, or one for each main unit as in 1|1|0"
            ) from None
        return _read_correlation(parts if "|" in value else parts[0])
    if isinstance(value, list | tuple):
        return tuple(_bounded(part) for part in value)
    return _bounded(value)


def _bounded(value: Any) -> float:
    number = _number("--correlation", value)
    if abs(number) > 1:
        raise ConfigurationError(f"--correlation {value!r}: must lie between -1 and 1")
    return number
