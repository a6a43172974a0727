"""Grids whose runs are solved: their numbers, which runs can be solved, and what a slice shares."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_aux.cli import main
from lit_aux.errors import ConfigurationError
from lit_aux.experiments import Options, ResultsTable, Run, cells
from lit_aux.experiments.reproduction import slices, title
from lit_aux.experiments.students import train_slice

EXACT = Options(integrator="exact", device="cpu")
Row = dict[str, Any]


def solve(runs: list[Run], store: Path, options: Options = EXACT) -> dict[tuple[Any, ...], Row]:
    torch.set_num_threads(1)
    rows: dict[tuple[Any, ...], Row] = {}

    def emit(run: Run, row: Row, measures: list[Row]) -> None:
        norms = {
            measure["measure"]: measure["value"] for measure in measures if measure["layer"] == "student"
        }
        rows[run.setup, run.axes["overlap"], run.axes["n_main"], run.axes.get("rescale")] = {**row, **norms}

    changed = Options(**{**vars(options), "store": store})
    train_slice(runs, changed, lambda *_: None, emit)
    return rows


def test_published_draws_give_the_known_limits(tmp_path: Path) -> None:
    """From exactly pretrained weights; small-step descent in float32 ends within .2 % of them."""
    runs = cells("diagonal-overlap", ["PT+FT"], 0, [16, 32, 64], EXACT, overlap=[0, 20])
    found = solve(runs, tmp_path)
    for place, expected in {(0, 16): 2.0088, (0, 32): 2.6368, (20, 64): 0.84290}.items():
        row = found["PT+FT", *place, 1.0]
        assert row["loss_final"] == pytest.approx(expected, rel=5e-5)
        assert row["solver"] == "exact"
        assert row["converged"]


def test_published_single_task_losses_are_off_by_their_step(tmp_path: Path) -> None:
    """Seed 0, overlap 20, n 256: .0052572 was published, by steps of .1; descent by .02 ends at .0050577."""
    runs = cells("diagonal-overlap", ["STL", "STL (LP)"], 0, [128, 256], EXACT, overlap=[0, 20, 40])
    found = solve(runs, tmp_path)
    limit = found["STL", 20, 256, None]["loss_final"]
    assert (0.0052572 - limit) / (0.0050577 - limit) == pytest.approx(5, rel=0.1)
    # a probe of a random network is far from convergence when the clock ends
    assert not found["STL (LP)", 0, 128, None]["converged"]
    assert found["STL (LP)", 0, 128, None]["steps"] == 1_000_000
    assert found["STL", 0, 128, None]["l2"] > 0


def test_setups_of_a_slice_share_inputs_and_no_numbers(tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"seeds": 0, "n_main": [16, 32], "overlap": [0, 40]}
    setups = ["STL", "PT+FT", "STL (LP)", "PT+FT (LP)"]
    runs = cells("diagonal-overlap", setups, options=EXACT, **chosen)
    (group,) = slices(runs, jobs=2, solved=True)
    assert title(group) == "STL, PT+FT, STL (LP), PT+FT (LP), n 16 to 32"
    together = solve(group, tmp_path)
    assert len(together) == 16
    for setup in setups:
        alone = solve(cells("diagonal-overlap", setup, options=EXACT, **chosen), tmp_path)
        for place, row in alone.items():
            for name in ("loss_best", "loss_final", "l1"):
                assert together[place][name] == pytest.approx(row[name], rel=1e-9), (place, name)


def test_a_group_for_each_seed() -> None:
    runs = cells("diagonal-rescaling", seeds=[0, 1], options=EXACT)
    found = slices(runs, jobs=2, solved=True)
    assert [{run.axes["seed"] for run in group} for group in found] == [{0}, {1}]
    assert [len(group) for group in found] == [480, 480]


def test_all_setups_but_mtl_by_default() -> None:
    assert {run.setup for run in cells("diagonal-sparsity", options=EXACT)} == {
        "STL",
        "PT+FT",
        "STL (LP)",
        "PT+FT (LP)",
    }
    with pytest.raises(ConfigurationError, match="MTL trains two outputs and cannot be solved"):
        cells("diagonal-sparsity", ["STL", "MTL"], options=EXACT)
    with pytest.raises(ConfigurationError, match="relu-overlap has no networks that can be solved"):
        cells("relu-overlap", options=EXACT)


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results.csv"
    command = ["reproduce", "diagonal-overlap", "--integrator", "exact", "--seeds", "0", "--n-main", "16"]
    command += ["--overlap", "40", "--out", str(out), "--jobs", "1"]
    assert main([*command, "--setups", "STL"]) == 0
    assert main([*command, "--setups", "[STL, PT+FT]"]) == 0
    with ResultsTable(out) as table:
        rows = table.rows()
        assert {row["run"] for row in table.measures()} == table.done()
    assert [(row["setup"], row["solver"]) for row in rows] == [("STL", "exact"), ("PT+FT", "exact")]
    assert main([*command, "--setups", "MTL"]) == 2
    assert "cannot be solved" in capsys.readouterr().err
