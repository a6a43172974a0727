"""Which runs train as one batch."""

from collections import Counter
from typing import Any

import pytest

from lit_aux.experiments import EXPERIMENTS, Options, cells
from lit_aux.experiments.reproduction import slices, title

GRID: dict[str, Any] = {"seeds": [0, 1, 2, 3], "n_main": [16, 64]}


@pytest.mark.parametrize("name", ["diagonal-rescaling", "relu-correlation", "relu-overlap", "fashion-vit"])
@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("most", [None, 1, 7])
def test_every_run_is_in_one_slice_of_its_kind(name: str, jobs: int, most: int | None) -> None:
    runs = cells(name, **GRID)
    found = slices(runs, most, jobs)
    assert Counter(run for group in found for run in group) == Counter(runs)
    diagonal = EXPERIMENTS[name].network == "diagonal"
    for group in found:
        kinds = {(r.setup, r.axes.get("rescale"), None if diagonal else r.axes["n_main"]) for r in group}
        assert len(kinds) == 1
        assert len(group) <= (most or 256)


def test_one_process_keeps_the_order_of_setups_and_sizes() -> None:
    found = slices(cells("relu-overlap", ["PT+FT", "MTL"], **GRID))
    places = [(group[0].setup, group[0].axes["n_main"]) for group in found]
    assert places == [(setup, n) for setup in ("PT+FT", "MTL") for n in (16, 64) for _ in range(4)]
    assert {len(group) for group in found} == {8}
    assert all(len({run.axes["seed"] for run in group}) == 1 for group in found)


def test_ridge_and_gpus_take_larger_slices() -> None:
    ridge = slices(cells("relu-overlap", ["STL (NTK)", "PT+FT (LP)"], **GRID))
    assert [len(group) for group in ridge] == [32] * 4
    assert [len(group) for group in slices(cells("relu-overlap", "STL", **GRID), gpu=True)] == [32] * 2


def test_diagonal_networks_mix_sizes() -> None:
    runs = cells("diagonal-overlap", ["STL", "MTL"], seeds=[0, 1, 2, 3], n_main=[16, 64])
    assert [title(group) for group in slices(runs)] == ["STL, n 16 to 64", "MTL, n 16 to 64"]
    for jobs, seeds in ((2, [2, 2]), (3, [1, 1, 1, 1]), (8, [1, 1, 1, 1])):
        found = slices(runs, jobs=jobs)
        assert [group[0].setup for group in found] == ["MTL"] * len(seeds) + ["STL"] * len(seeds)
        assert [len({run.axes["seed"] for run in group}) for group in found] == seeds * 2


def test_nothing_published_of_diagonal_networks_depends_on_n_main() -> None:
    for name in ("diagonal-overlap", "diagonal-sparsity", "diagonal-rescaling"):
        for steps in (None, 100):
            for group in slices(cells(name, seeds=[0, 1], options=Options(max_steps=steps))):
                assert len({run.axes["n_main"] for run in group}) == 6
                assert len({run.protocol for run in group}) == 1


def test_several_processes_begin_with_what_takes_longest() -> None:
    runs = cells("relu-overlap", ["STL", "STL (LP)", "MTL"], seeds=[0, 1], n_main=[16, 512])
    found = [(group[0].setup, group[0].axes["n_main"]) for group in slices(runs, jobs=2)]
    assert list(dict.fromkeys(found)) == [
        ("MTL", 512),
        ("MTL", 16),
        ("STL", 512),
        ("STL (LP)", 512),
        ("STL", 16),
        ("STL (LP)", 16),
    ]
