"""Which runs of a grid train as one batch, and in which order batches are begun."""

from collections.abc import Iterable, Sequence
from math import ceil
from typing import Any

from lit_aux.experiments.run import Run

_RIDGE = ("(LP)", "(NTK)")


def slices(
    runs: Sequence[Run], most: int | None = None, jobs: int = 1, gpu: bool = False, solved: bool = False
) -> list[list[Run]]:
    """Group runs that can train as one batch: of one experiment, setup and rescale factor.

    ReLU networks and images have one n_main in a group. Diagonal networks mix them, since what their replicas
    share are the inputs of the auxiliary task. Runs of one seed, which share inputs, stay together as far as
    they can.

    Args:
        runs: In the order in which they should be done.
        most: Most runs in a group; where None, as many as is good for the kind of network.
        jobs: How many groups will be under way at a time. For one, groups keep the order of the runs; for
            several, the longest come first, and diagonal networks are divided by seeds.
        gpu: Whether they run on a GPU.
        solved: Whether they are solved instead of trained: then all runs of a seed make a group, since
            drawing inputs takes longer than solving.
    """
    kinds: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        size = None if _network(run) == "diagonal" else run.axes["n_main"]
        kind = (run.axes["seed"],) if solved else (run.setup, run.axes.get("rescale"), size)
        kinds.setdefault((run.experiment, *kind), []).append(run)
    groups: list[list[Run]] = []
    for alike in kinds.values():
        limit = most or (len(alike) if solved else _most(alike[0], gpu))
        divided = _network(alike[0]) == "diagonal" and not solved
        groups += _packed(alike, limit, min(limit, ceil(len(alike) / jobs)) if divided else limit)
    return groups if jobs == 1 else sorted(groups, key=_cost, reverse=True)


def title(group: Sequence[Run]) -> str:
    """Return what a person calls a group: its setup and n_main."""
    sizes = sorted({run.axes["n_main"] for run in group})
    span = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    setups = ", ".join(dict.fromkeys(run.setup for run in group))
    return f"{setups}, n {span}"


def _network(run: Run) -> str:
    return "image" if run.protocol is None else run.protocol.network


def _most(run: Run, gpu: bool) -> int:
    """Return how many runs are good for one batch."""
    if _network(run) == "diagonal":
        return 256
    # On a CPU, ReLU students share nothing: small groups, so that rows come early and workers balance.
    return 8 if _network(run) == "relu" and not gpu and not run.setup.endswith(_RIDGE) else 64


def _packed(runs: Iterable[Run], most: int, good: int) -> list[list[Run]]:
    """Put runs into groups of up to ``good``; a seed's are divided only where they are more than ``most``."""
    seeds: dict[int, list[Run]] = {}
    for run in runs:
        seeds.setdefault(run.axes["seed"], []).append(run)
    groups: list[list[Run]] = []
    for own in seeds.values():
        pieces = ceil(len(own) / most)
        for i in range(pieces):
            piece = own[i * len(own) // pieces : (i + 1) * len(own) // pieces]
            if groups and len(groups[-1]) + len(piece) <= good:
                groups[-1] += piece
            else:
                groups.append(piece)
    return groups


def _cost(group: Sequence[Run]) -> float:
    """Return about how long a group takes, in no unit: the rows that it trains on."""
    return sum(_rows(run) for run in group)


def _rows(run: Run) -> float:
    if run.protocol is None:
        return 1.0
    rows: float = run.axes["n_main"] + (run.protocol.n_aux if run.setup == "MTL" else 0)
    return rows / 20 if run.setup.endswith(_RIDGE) else rows
