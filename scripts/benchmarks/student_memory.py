"""What a replica of a batch of students occupies: the tensors of a run under way, and the process."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_aux.integrators import GradientDescent, GradientFlow, Integrator, IntegratorState

from .plain_students import Batch, Row, diagonal, relu

INTEGRATORS: list[Integrator] = [GradientDescent(), GradientFlow()]


def held_bytes(*owners: object) -> int:
    """Return the bytes of all tensors that objects hold, directly or not, each storage once."""
    storages: dict[int, int] = {}
    seen: set[int] = set()
    waiting: list[Any] = list(owners)
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
        elif isinstance(thing, dict):
            waiting += thing.values()
        elif isinstance(thing, list | tuple):
            waiting += thing
        elif type(thing).__module__.startswith("lit_aux"):
            waiting += vars(thing).values()
    return sum(storages.values())


def under_way(
    kind: str, integrator: Integrator, replicas: int, quick: bool = False
) -> tuple[Batch, IntegratorState]:
    """Return a batch after three gradients of every replica; flow in float64, descent in float32."""
    dtype = "float64" if isinstance(integrator, GradientFlow) else "float32"
    students = diagonal(1, replicas, quick, dtype) if kind == "diagonal" else relu(replicas, quick, dtype)
    state = integrator.start(students.objective(), students.start())
    return students, integrator.advance(state, 3)


def occupied(kind: str, integrator: Integrator, replicas: int, quick: bool = False) -> int:
    """Return the bytes of a batch's tensors: weights, buffers, inputs and targets."""
    students, state = under_way(kind, integrator, replicas, quick)
    return held_bytes(state, students.net.weights())


def process_growth() -> list[float]:
    """Return the bytes per ReLU replica by which a fresh process grows (Linux), for each integrator."""
    command = [sys.executable, "-m", "benchmarks.student_memory"]
    answer = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    return [float(word) for word in answer.stdout.split()]


def _print_growth(few: int = 32, many: int = 160) -> None:
    """Print, for each integrator, what ``many`` replicas add to this process beyond what ``few`` do."""
    kept = []
    for integrator in INTEGRATORS:
        grown = []
        for replicas in (few, few, many):  # the first one is for what the libraries need at their first use
            before = _resident()
            kept.append(under_way("ReLU", integrator, replicas))
            grown.append(_resident() - before)
        print((grown[2] - grown[1]) / (many - few))


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def memory_rows(quick: bool) -> Iterator[Row]:
    """Measure diagonal and ReLU students under both integrators."""
    for kind in ("diagonal", "ReLU"):
        for integrator in INTEGRATORS:
            four, eight, sixteen = (occupied(kind, integrator, count, quick) for count in (4, 8, 16))
            growth = (sixteen - eight) / (eight - four)
            yield f"{kind}, {integrator.name}: bytes per replica", (sixteen - eight) / 8, ""
            yield "  growth from 8 to 16 replicas over that from 4 to 8", growth, "<= 2.02"
    if not quick:
        for integrator, growth in zip(INTEGRATORS, process_growth(), strict=True):
            yield f"ReLU, {integrator.name}: bytes per replica by which the process grows", growth, ""


if __name__ == "__main__":
    _print_growth()
