"""The grids are the paper's, and what cannot be is said in one line."""

import csv
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lit_aux.cli.reproduce import _parse
from lit_aux.errors import ConfigurationError
from lit_aux.experiments import EXPERIMENTS, Options, cells
from lit_aux.experiments.reproduction import slices

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
COUNTS = {
    # setups x places x n_main x seeds
    "diagonal-overlap": 5 * 4 * 6 * 6,
    "diagonal-sparsity": 5 * (5 * 2) * 6 * 6,
    "diagonal-rescaling": 2 * (5 * 2 * 4) * 6 * 6,
    "relu-overlap": 7 * 8 * 6 * 6,
    "relu-sparsity": 3 * (6 * 2) * 6 * 6,
    "relu-rescaling": (5 + 5) * (6 * 2) * 6 * 6,
    "relu-correlation": 2 * (5 * 5) * 6,  # seed 0 alone
    "relu-large": 3 * 4 * 5 * 6,
    "cifar100-resnet18": (3 + 5) * 7 * 6,
    "cifar100-vit": (3 + 5) * 7 * 6,
    "fashion-resnet18": (2 + 4) * 2 * 6,
    "fashion-vit": (2 + 4) * 2 * 6,
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_size_of_every_grid(name: str) -> None:
    runs = cells(name)
    assert len(runs) == COUNTS[name] == EXPERIMENTS[name].size
    assert len({run.run_hash for run in runs}) == len(runs)
    assert set(COUNTS) == set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_long_grid_says_so_and_names_a_part_that_is_short(name: str) -> None:
    found, runs = EXPERIMENTS[name], COUNTS[name]
    said = found.takes(runs)
    assert bool(said) == (found.seconds is None or runs * found.seconds > 600)
    if said:
        words = shlex.split(said.partition("a short part: ")[2])
        given = _parse([name, *words]).as_dict()
        part = cells(name, given["setups"], given["seeds"], given["n_main"])
        assert 0 < len(part) <= runs / 10
        assert found.seconds is None or len(part) * found.seconds < 600


def test_the_whole_of_relu_overlap_takes_what_the_page_says() -> None:
    page = (Path(__file__).parents[2] / "docs/reproduction.md").read_text()
    minutes = re.search(r"`lit-aux reproduce relu-overlap` \| 2,016 \| (\d+) min", page)
    assert minutes is not None
    said = re.search(r"about (\d+) minutes", EXPERIMENTS["relu-overlap"].takes(2016))
    assert said is not None
    assert abs(int(said[1]) - int(minutes[1])) <= 5


def test_relu_overlap_trains_864_runs() -> None:
    runs = cells("relu-overlap")
    assert sum("(" not in run.setup for run in runs) == 864
    assert Counter(run.setup for run in runs) == dict.fromkeys(EXPERIMENTS["relu-overlap"].setups, 8 * 6 * 6)


@pytest.mark.parametrize("name", ["relu_overlap", "diagonal_overlap"])
def test_cells_are_those_of_the_published_table(name: str) -> None:
    file = REFERENCE / f"{name}.csv"
    if not file.is_file():
        pytest.skip(f"no {file}")
    axis = "correlation" if name == "relu_overlap" else "overlap"
    with file.open() as table:
        theirs = {(r["setup"], int(r["seed"]), int(r["n_main"]), r[axis]) for r in csv.DictReader(table)}
    ours = set()
    for run in cells(name.replace("_", "-")):
        value = run.axes[axis]
        text = "|".join(map(str, value)) if isinstance(value, tuple) else str(value)
        ours.add((run.setup, run.axes["seed"], run.axes["n_main"], text))
    assert ours == theirs


def only(name: str, **choice: Any) -> Any:
    """Return the one run of a choice."""
    (run,) = cells(name, seeds=0, **choice)
    return run


def test_published_constants() -> None:
    stl = only("diagonal-overlap", setups="STL", n_main=16, overlap=0).protocol
    assert (stl.lr, stl.max_steps, stl.threshold, stl.divergence_limit) == (0.1, 10**6, 1e-10, 100)
    assert (stl.duration, stl.pretrain_duration) == (pytest.approx(1e5), 5e5)
    assert (stl.in_features, stl.k_aux, stl.n_aux, stl.init_scale, stl.batch_size) == (
        1000,
        40,
        1024,
        1e-3,
        None,
    )
    sparse = only("diagonal-sparsity", setups="MTL", n_main=16, k_main=5, overlap=0).protocol
    assert sparse.duration == pytest.approx(1e4)

    choice = {"n_main": 512, "correlation": 0.9, "k_main": 6}
    finetuned = only("relu-overlap", setups="PT+FT", **choice).protocol
    assert (finetuned.lr, finetuned.pretrain_lr, finetuned.batch_size) == (1.0, 0.1, 128)
    assert (finetuned.max_steps, finetuned.pretrain_max_steps) == (4 * 10**5, 10**5)
    assert (finetuned.threshold, finetuned.divergence_limit) == (1e-8, 1000)
    joint = only("relu-overlap", setups="MTL", **choice).protocol
    assert (joint.lr, joint.divergence_limit, joint.max_steps) == (1.0, 100, 12 * 10**5)
    rates = {s: only("relu-sparsity", setups=s, **choice).protocol.lr for s in ("STL", "MTL", "PT+FT")}
    assert rates == {"STL": 0.1, "MTL": 1.0, "PT+FT": 0.1}
    large = only("relu-large", setups="STL", n_main=64, correlation=0).protocol
    assert (large.in_features, large.k_aux, large.hidden) == (100, 40, 1000)


@pytest.mark.parametrize(("s", "scale"), [(1, 1e-3), (0.1, 1e-4), (0.01, 1e-5), (0.001, 1e-6)])
def test_diagonal_rescaling_moves_the_small_weights_too(s: float, scale: float) -> None:
    choice = {"n_main": 16, "k_main": 5, "overlap": 0, "rescale": s}
    scratch = only("diagonal-rescaling", setups="STL", **choice)
    tuned = only("diagonal-rescaling", setups="PT+FT", **choice)
    assert scratch.axes["rescale"] == tuned.axes["rescale"] == s
    assert scratch.protocol.init_scale == tuned.protocol.readout_scale == scale
    assert tuned.protocol.init_scale == 1e-3  # one pretraining serves every s


@pytest.mark.parametrize(("s", "scale"), [(0.01, 1e-5), (1, 1e-3), (100, 0.1)])
def test_relu_rescaling_moves_the_start_of_single_task_training(s: float, scale: float) -> None:
    choice = {"n_main": 16, "k_main": 5, "correlation": 0, "rescale": s}
    scratch = only("relu-rescaling", setups="STL", **choice).protocol
    tuned = only("relu-rescaling", setups="PT+FT", **choice).protocol
    assert scratch.init_scale == scale
    assert tuned.init_scale == tuned.readout_scale == 1e-3  # one pretraining serves every s


def test_sparsity_shares_all_or_none() -> None:
    places = {(run.axes["k_main"], run.axes["overlap"]) for run in cells("diagonal-sparsity")}
    assert places == {(k, shared) for k in (5, 10, 20, 30, 40) for shared in (0, k)}
    runs = cells("relu-sparsity")
    assert {run.axes["correlation"] for run in runs} == {(c,) * k for k in range(1, 7) for c in (0.0, 1.0)}


def test_rescale_belongs_to_runs_that_pretrain() -> None:
    runs = cells("relu-rescaling", ["STL", "PT+FT (NTK)"], 0, 16, k_main=6, correlation=1)
    assert [run.axes.get("rescale") for run in runs] == 2 * [0.01, 0.1, 1.0, 10.0, 100.0]
    other = cells("relu-rescaling", "STL (NTK)", 0, 16, k_main=6, correlation=1)
    assert [run.axes.get("rescale") for run in other] == [None]


def test_order_and_choices() -> None:
    runs = cells("relu-overlap", ["PT+FT", "STL"], [1, 0, 1], [64, 16], correlation=["1|1|1|0|0|0", 0])
    assert [run.setup for run in runs] == ["PT+FT"] * 8 + ["STL"] * 8
    assert [run.axes["n_main"] for run in runs[:8]] == [16] * 4 + [64] * 4
    assert [run.axes["seed"] for run in runs[:4]] == [1, 0, 1, 0]
    assert {run.axes["correlation"] for run in runs} == {(1, 1, 1, 0, 0, 0), (0,) * 6}
    assert (
        cells("relu-overlap", ["PT+FT", "STL"], [1, 0], [16, 64], correlation=[[1, 1, 1, 0, 0, 0], 0.0])
        == runs
    )


def test_slices_hold_one_setup_and_n_main_and_keep_seeds_together() -> None:
    runs = cells("relu-overlap", ["STL", "MTL"], [0, 1, 2, 3], [16, 64])
    found = slices(runs, 16)
    assert Counter(run for group in found for run in group) == Counter(runs)
    assert max(map(len, found)) == 16
    for group in found:
        assert len({(run.setup, run.axes["n_main"]) for run in group}) == 1
        assert len({run.axes["seed"] for run in group}) == 2  # eight correlations each
    assert len(slices(runs, 1000)) == 4


def test_options_are_part_of_a_run_where_numbers_depend_on_them() -> None:
    def hashes(**options: Any) -> set[str]:
        return {run.run_hash for run in cells("relu-overlap", "STL", 0, 16, Options(**options))}

    plain = hashes()
    for same in ({"device": "cpu"}, {"replicas_per_slice": 3}, {"store": Path("x")}, {"dtype": "float32"}):
        assert hashes(**same) == plain
    different = [{"tolerance": 0.1}, {"max_steps": 7}, {"sampling": "independent"}, {"dtype": "float64"}]
    for change in [*different, {"integrator": "gradient_descent"}, {"output_scale": "units"}, {"stride": 1}]:
        assert not hashes(**change) & plain
    descent = {"integrator": "gradient_descent"}
    assert hashes(**descent) == hashes(**descent, tolerance=0.5)
    assert hashes(**descent) != hashes(**descent, patience=None)
    assert hashes(patience=7) == plain  # of flow, and of networks that are not pretrained
    assert hashes(pretrain_integrator="gradient_flow") == plain
    assert cells("relu-overlap", "STL", 0, 16, Options(max_steps=7))[0].protocol.max_steps == 7  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("relu-overlap", {}, "gradient_descent"),
        ("relu-overlap", {"pretrain_integrator": "gradient_flow"}, "gradient_flow"),
        ("relu-overlap", {"sampling": "independent"}, "gradient_flow"),
        ("relu-overlap", {"integrator": "Adam"}, "Adam"),
        ("diagonal-overlap", {}, "gradient_flow"),
        ("diagonal-overlap", {"pretrain_integrator": "gradient_descent"}, "gradient_descent"),
        ("diagonal-overlap", {"integrator": "exact"}, "exact"),
    ],
)
def test_what_pretrains(name: str, options: dict[str, Any], expected: str) -> None:
    given = Options(**options)
    network = EXPERIMENTS[name].network
    assert given.of_pretraining(network).integrator == expected
    told = cells(name, "PT+FT", 0, 16, given)[0].options.get("pretrain_integrator", given.integrator)
    assert told == expected
    assert "pretrain_integrator" not in cells(name, "STL", 0, 16, given)[0].options


BAD = [
    ("relu-overlp", {}, ["EXPERIMENT", "'relu-overlap'"]),
    ("relu-overlap", {"setups": ["STL", "PT+FTT"]}, ["--setups", "'PT+FTT'", "'PT+FT'"]),
    ("diagonal-overlap", {"setups": "STL (NTK)"}, ["--setups", "diagonal-overlap", "STL (LP)"]),
    ("diagonal-overlap", {"overlap": 41}, ["--overlap 41", "40"]),
    ("diagonal-overlap", {"overlap": -1}, ["--overlap -1"]),
    ("diagonal-overlap", {"overlap": "some"}, ["--overlap 'some'", "'all'"]),
    ("diagonal-sparsity", {"overlap": 20, "k_main": [40, 10]}, ["--overlap 20", "10"]),
    ("diagonal-sparsity", {"k_main": 41}, ["--k-main 41", "40", "independent"]),
    (
        "diagonal-sparsity",
        {"k_main": 990, "overlap": 0, "options": Options(sampling="independent")},
        ["--k-main 990"],
    ),
    ("diagonal-overlap", {"correlation": 1}, ["--correlation", "diagonal-overlap", "overlap"]),
    ("diagonal-overlap", {"colour": 1}, ["'colour'"]),
    ("relu-overlap", {"correlation": 1.5}, ["--correlation 1.5", "-1 and 1"]),
    ("relu-overlap", {"correlation": "x|1"}, ["--correlation 'x|1'"]),
    ("relu-overlap", {"correlation": [[1, 0]]}, ["--correlation 1.0|0.0", "6"]),
    ("relu-overlap", {"correlation": float("nan")}, ["--correlation nan"]),
    ("relu-sparsity", {"k_main": 10}, ["--k-main 10", "15", "6"]),
    ("relu-overlap", {"magnitude": 0}, ["--magnitude 0"]),
    ("relu-rescaling", {"rescale": "half"}, ["--rescale 'half'"]),
    ("relu-rescaling", {"rescale": -1}, ["--rescale -1"]),
    ("relu-overlap", {"n_main": 0}, ["--n-main 0"]),
    ("relu-overlap", {"n_main": [16, "many"]}, ["--n-main 'many'", "whole number"]),
    ("relu-overlap", {"n_main": 16.5}, ["--n-main 16.5"]),
    ("relu-overlap", {"seeds": True}, ["--seeds True"]),
    ("relu-overlap", {"seeds": []}, ["--seeds []", "empty"]),
    ("relu-overlap", {"seeds": 2**32}, ["--seeds 4294967296"]),
]


@pytest.mark.parametrize(("name", "choice", "expected"), BAD, ids=[f"{b[0]} {b[1]}"[:60] for b in BAD])
def test_bad_choices(name: str, choice: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ConfigurationError) as error:
        cells(name, **choice)
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in expected), message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"integrator": "gradient_flo"}, "gradient_flow"),
        ({"integrator": "adam"}, "'Adam'"),
        ({"tolerance": 0.0}, "--tolerance"),
        ({"max_steps": 0}, "--max-steps"),
        ({"stride": 0}, "--stride"),
        ({"patience": 0}, "--patience"),
        ({"pretrain_integrator": "gradient_flo"}, "--pretrain-integrator"),
        ({"pretrain_integrator": "exact"}, "--pretrain-integrator exact"),
        ({"pretrain_integrator": "Adam", "integrator": "exact"}, "--pretrain-integrator Adam"),
        ({"dtype": "float16"}, "float"),
        ({"sampling": "public"}, "published"),
    ],
)
def test_bad_options(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        Options(**options)
    assert Options(integrator="Adam").integrator == "Adam"
