"""From what was asked for to single runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from lit_aux.errors import ConfigurationError
from lit_aux.experiments import _values
from lit_aux.experiments.grids import Experiment, experiment
from lit_aux.experiments.options import Options
from lit_aux.experiments.protocol import published
from lit_aux.experiments.run import Run
from lit_aux.ranges import MOST


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
    wanted = _values.setups(setups, found)
    if options.integrator == "exact":
        wanted = _solvable(found, wanted, given=setups is not None)
    chosen_seeds = _values.whole("--seeds", seeds, found.seeds, 0, 2**32 - 1)
    sizes = sorted(_values.whole("--n-main", n_main, found.n_main, 1, MOST))
    grid = list(_grid(found, _values.axes(axes, found), options))
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
    return Run(found.name, setup, axes, replace(protocol, **changes), options.of_results(found.network))


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
