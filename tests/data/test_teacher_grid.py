"""Replicas from lists and cells, what they share, and what is refused; for both kinds of teacher."""

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import LightningDataModule
from teacher_helpers import diagonal, relu

from lit_aux.data.teacher_base import TeacherDataModule, TensorCache
from lit_aux.errors import ConfigurationError


def test_a_single_replica_is_the_default():
    assert diagonal().replicas == [{"seed": 0, "n_main": 16, "overlap": 4, "k_main": 8}]
    zero = "|".join(["0.0"] * 6)
    assert relu(correlation=0).replicas == [
        {"seed": 0, "n_main": 16, "k_main": 6, "correlation": zero, "magnitude": 1.0}
    ]


def test_lists_span_a_grid_in_which_those_with_equal_inputs_are_neighbours():
    data = diagonal(seed=[1, 0], n_main=[32, 16], overlap=[8, 0], k_main=8)
    found = [(r["seed"], r["n_main"], r["overlap"]) for r in data.replicas]
    assert data.grid_size == 8
    assert found == sorted((s, n, o) for s in (0, 1) for n in (16, 32) for o in (0, 8))
    assert list(data.replicas[0]) == ["seed", "n_main", "overlap", "k_main"]


def test_correlations_broadcast_over_units_and_span_an_axis():
    data = relu(k_main=[2, 1], correlation=["0.9", 0, "1"], magnitude=[1, 0.5])
    assert data.grid_size == 12
    assert {r["correlation"] for r in data.replicas if r["k_main"] == 1} == {"0.0", "0.9", "1.0"}
    assert {r["correlation"] for r in data.replicas if r["k_main"] == 2} == {"0.0|0.0", "0.9|0.9", "1.0|1.0"}
    assert {r["magnitude"] for r in data.replicas} == {0.5, 1.0}
    order = [r["correlation"] for r in relu(k_main=2, correlation=[[1, 0], "0|1"]).replicas]
    assert order == ["0.0|1.0", "1.0|0.0"]


@pytest.mark.parametrize("value", [[1, 0.9, 0], "1.0|0.9|0.0", ["1|0.9|0"], [[1, 0.9, 0.0]]])
def test_ways_to_write_one_list_of_correlations(value):
    assert [r["correlation"] for r in relu(k_main=3, correlation=value).replicas] == ["1.0|0.9|0.0"]


def test_cells_take_the_place_of_the_product():
    cells = [{"k_main": 8, "overlap": 8}, {"k_main": 2, "overlap": 0}, {"k_main": 2, "overlap": 2, "seed": 1}]
    data = diagonal(cells=cells, n_main=8)
    assert data.replicas == [
        {"seed": 0, "n_main": 8, "overlap": 0, "k_main": 2},
        {"seed": 0, "n_main": 8, "overlap": 8, "k_main": 8},
        {"seed": 1, "n_main": 8, "overlap": 2, "k_main": 2},
    ]
    assert relu(cells=[{"correlation": [1, 0], "k_main": 2}]).replicas[0]["correlation"] == "1.0|0.0"


def test_the_seed_of_seed_everything_is_the_default(monkeypatch):
    assert diagonal(seed=None).replicas[0]["seed"] == 0
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert diagonal(seed=None).replicas[0]["seed"] == 7
    assert relu(seed=0).replicas[0]["seed"] == 0


@pytest.mark.parametrize(
    ("arguments", "replicas"),
    [
        (["--data.correlation=1.0|0.5", "--data.k_main=2"], ["1.0|0.5"]),
        (["--data.correlation=[1.0, 0.5]", "--data.k_main=2"], ["1.0|0.5"]),
        (["--data.correlation=0.5", "--data.k_main=2"], ["0.5|0.5"]),
        (["--data.correlation=[0.0|1.0, 1.0|0.5]", "--data.k_main=2"], ["0.0|1.0", "1.0|0.5"]),
        (["--data.correlation=[[0, 1], [1, 0.5]]", "--data.k_main=2"], ["0.0|1.0", "1.0|0.5"]),
        (["--data.seed=[0, 1]", "--data.k_main=1"], ["1.0", "1.0"]),
        (["--data.cells=[{correlation: 0|1, k_main: 2}]"], ["0.0|1.0"]),
    ],
)
def test_options_from_the_command_line(arguments, replicas):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
    built = instantiate(parser.parse_args(["--data=ReLUTeacherDataModule", *arguments])).data
    assert [replica["correlation"] for replica in built.replicas] == replicas


GRIDS = {
    "diagonal": lambda **options: diagonal(seed=[0, 1], n_main=[16, 32], overlap=[0, 8], **options),
    "relu": lambda **options: relu(seed=[0, 1], n_main=[16, 32], correlation=["0", "0.9"], **options),
}


@pytest.mark.parametrize("sampling", ["published", "independent"])
@pytest.mark.parametrize("kind", GRIDS)
def test_replicas_share_the_very_inputs(kind, sampling):
    data: TeacherDataModule = GRIDS[kind](sampling=sampling)
    for i, one in enumerate(data.replicas):
        for j, other in enumerate(data.replicas):
            seed, n = one["seed"] == other["seed"], one["n_main"] == other["n_main"]
            for task in data.tasks:
                (x, y), (u, v) = data.train_set(i, task), data.train_set(j, task)
                shared = seed and (n or task == "aux")
                assert (x is u) == shared
                assert (y is v) == (seed if task == "aux" else i == j)
                assert shared or x.shape != u.shape or not torch.equal(x, u)
                same_test = seed and (n or task == "aux" or sampling == "independent")
                assert (data.test_set(i, task)[0] is data.test_set(j, task)[0]) == same_test


@pytest.mark.parametrize("sampling", ["published", "independent"])
@pytest.mark.parametrize("kind", GRIDS)
def test_more_main_rows_begin_with_the_fewer(kind, sampling):
    data = GRIDS[kind](sampling=sampling)
    few, many = (next(i for i, r in enumerate(data.replicas) if r["n_main"] == n) for n in (16, 32))
    assert torch.equal(data.train_set(few, "main")[0], data.train_set(many, "main")[0][:16])
    torch.testing.assert_close(data.train_set(few, "main")[1], data.train_set(many, "main")[1][:16])


@pytest.mark.parametrize("make", [diagonal, relu])
def test_independent_rows_do_not_move_each_other(make):
    small, large = make(sampling="independent"), make(sampling="independent", n_main=17, n_aux=40, n_test=50)
    assert torch.equal(small.train_set(0, "aux")[0], large.train_set(0, "aux")[0][: small.n_aux])
    assert torch.equal(small.train_set(0, "main")[0], large.train_set(0, "main")[0][:16])
    for task in small.tasks:
        assert torch.equal(small.test_set(0, task)[0], large.test_set(0, task)[0][:48])


@pytest.mark.parametrize("make", [diagonal, relu])
def test_shapes_and_dtypes(make):
    for dtype in (torch.float32, torch.float64):
        data = make(dtype=str(dtype).removeprefix("torch."))
        for task, n in (("main", 16), ("aux", data.n_aux)):
            assert data.train_size(task) == n
            for (x, y), rows in ((data.train_set(0, task), n), (data.test_set(0, task), 48)):
                assert (x.shape, y.shape) == ((rows, data.in_features), (rows, 1))
                assert x.dtype == y.dtype == dtype
                torch.testing.assert_close(
                    x.square().mean(dim=1), torch.ones(rows, dtype=dtype), atol=1e-6, rtol=0
                )
    # both precisions hold the same numbers, drawn in float32
    wide, narrow = make(), make(dtype="float32")
    assert torch.equal(wide.train_set(0, "main")[0].float(), narrow.train_set(0, "main")[0])
    assert make(n_main=[16, 32]).train_size("main") == 32


def test_test_sets_do_not_fill_the_memory():
    data = diagonal(seed=[0, 1, 2, 3])
    data._test.limit = 2 * 48 * 65 * 8  # two inputs and their targets
    first, _ = data.test_set(0, "main")
    assert data.test_set(0, "main")[0] is first
    for replica in range(4):
        data.test_set(replica, "main")
        assert data._test.nbytes <= data._test.limit
    assert len(data._test) == 4
    again, _ = data.test_set(0, "main")
    assert again is not first
    assert torch.equal(again, first)


def test_a_cache_drops_what_was_used_longest_ago_and_keeps_the_newest():
    cache = TensorCache(limit=2 * 8)
    kept = {name: cache.get(name, lambda: torch.zeros(1, dtype=torch.float64)) for name in "ab"}
    assert cache.get("a", lambda: pytest.fail("made again")) is kept["a"]
    cache.get("c", lambda: torch.zeros(1, dtype=torch.float64))
    assert cache.get("a", lambda: pytest.fail("made again")) is kept["a"]
    assert cache.get("b", lambda: torch.ones(1, dtype=torch.float64)) is not kept["b"]
    large = cache.get("large", lambda: torch.zeros(9))
    assert (len(cache), cache.nbytes) == (1, 36)
    assert cache.get("large", lambda: pytest.fail("made again")) is large


CHANGES = [
    {"seed": 1},
    {"seed": [0, 1]},
    {"n_aux": 25},
    {"k_aux": 9},
    {"in_features": 65},
    {"sampling": "independent"},
    {"dtype": "float32"},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize("make", [diagonal, lambda **o: relu(**({"correlation": 0} | o))])
def test_fingerprint_changes_with(make, change):
    for tasks in (["aux"], ["main"], ["main", "aux"]):
        assert make(**change).fingerprint(tasks) != make().fingerprint(tasks)
        assert make().fingerprint(tasks) == make().fingerprint(tasks)


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (diagonal, {"n_main": 32}),
        (diagonal, {"overlap": 3}),
        (diagonal, {"k_main": 7}),
        (diagonal, {"n_main": [16, 32], "overlap": [0, 4]}),
        (relu, {"correlation": 0.9}),
        (relu, {"magnitude": 0.5}),
        (relu, {"k_main": 5}),
    ],
)
def test_the_fingerprint_of_the_auxiliary_task_knows_nothing_of_the_main_one(make, change):
    assert make(**change).fingerprint(["aux"]) == make().fingerprint(["aux"])
    assert make(**change).fingerprint(["main"]) != make().fingerprint(["main"])
    one, other = make(**change), make()
    for data in (one, other):
        data.set_phase(["aux"])
    assert torch.equal(one.train_set(0, "aux")[1], other.train_set(0, "aux")[1])


def test_what_the_fingerprint_does_not_depend_on():
    both = ["main", "aux"]
    for make in (diagonal, relu):
        assert make(n_test=5, blocks_per_epoch=3).fingerprint(both) == make().fingerprint(both)
        assert make().fingerprint(both) == make().fingerprint(both[::-1])
        assert make().fingerprint(both, "sequential") != make().fingerprint(both)
        assert make().fingerprint(["main"], "sequential") == make().fingerprint(["main"])
        few, many = (make(sampling="independent", n_aux=n) for n in (24, 25))
        assert few.fingerprint(["main"]) == many.fingerprint(["main"])
    assert relu(output_scale="units").fingerprint(["aux"]) != relu().fingerprint(["aux"])


def test_loaders_and_phases():
    data = diagonal(blocks_per_epoch=3)
    assert isinstance(data, LightningDataModule)
    assert (data.tasks, data.num_classes) == (["aux", "main"], {"main": 1, "aux": 1})
    assert list(data.train_dataloader()) == [0, 1, 2]
    assert (list(data.test_dataloader()), list(data.predict_dataloader())) == ([0], [0])
    assert data.val_dataloader() == []
    loader = data.train_dataloader()
    assert next(iter(loader)) == 0
    resumed = data.train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    assert list(resumed) == [1, 2]
    data.setup("fit")
    data.set_phase(["aux"], "sequential", 2)
    data.set_phase()
    for arguments, message in (
        ((["man"],), "'man' is unknown; did you mean 'main'"),
        (([],), "at least one task"),
        ((None, "sequental"), "did you mean 'sequential'"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            data.set_phase(*arguments)
    for ask in (data.train_size, *(lambda t, f=f: f(0, t) for f in (data.train_set, data.teacher))):
        with pytest.raises(ConfigurationError, match="did you mean 'main'"):
            ask("man")


BAD = [
    (diagonal, {"overlap": 9}, "--data.overlap 9: must be at most --data.k_main, which is 8"),
    (diagonal, {"overlap": 9, "k_main": 10}, "--data.overlap 9: must be at most --data.k_aux, which is 8"),
    (diagonal, {"overlap": -1}, "--data.overlap -1: must be at least 0"),
    (
        diagonal,
        {"overlap": [0, 4], "k_main": [2, 8]},
        "--data.overlap 4: must be at most --data.k_main, which is 2",
    ),
    (diagonal, {"k_main": 0}, "--data.k_main 0: must be at least 1"),
    (diagonal, {"k_main": 9}, "--data.k_main 9: the published sampling"),
    (diagonal, {"in_features": 11}, "--data.in_features 11: .* need at least 12"),
    (diagonal, {"k_aux": 0}, "--data.k_aux 0: must be at least 1"),
    (diagonal, {"n_main": 0}, "--data.n_main 0: must be at least 1"),
    (diagonal, {"n_main": "16"}, "--data.n_main 16: must be a whole number"),
    (diagonal, {"n_main": 16.5}, "--data.n_main 16.5: must be a whole number"),
    (diagonal, {"n_main": []}, r"--data.n_main \[\]: give at least one"),
    (diagonal, {"seed": []}, r"--data.seed \[\]: give at least one"),
    (diagonal, {"seed": [1, 0, 1]}, "--data.seed: 1 is given twice"),
    (diagonal, {"seed": -1}, "--data.seed -1: must be at least 0"),
    (diagonal, {"seed": 2**32}, "--data.seed 4294967296: must be at most"),
    (diagonal, {"n_aux": 0}, "--data.n_aux 0: must be at least 1"),
    (diagonal, {"n_test": 0}, "--data.n_test 0: must be at least 1"),
    (diagonal, {"blocks_per_epoch": 0}, "--data.blocks_per_epoch 0: must be at least 1"),
    (diagonal, {"sampling": "publised"}, "--data.sampling: 'publised' is unknown; did you mean 'published'"),
    (diagonal, {"dtype": "float16"}, "--data.dtype: 'float16' is unknown; did you mean"),
    (diagonal, {"cells": []}, r"--data.cells \[\]: give at least one"),
    (diagonal, {"cells": [3]}, "--data.cells: 3 must name its values"),
    (diagonal, {"cells": [{"sead": 0}]}, "--data.cells: 'sead' is unknown; did you mean 'seed'"),
    (diagonal, {"cells": [{"seed": 0}, {"n_main": 16}]}, "--data.cells: .*'seed': 0.* is there twice"),
    (diagonal, {"cells": [{"seed": 0}], "n_main": [8, 16]}, "--data.cells: .* leaves n_main open"),
    (diagonal, {"cells": [{"seed": [0, 1]}]}, r"--data.seed \[0, 1\]: must be a whole number"),
    (relu, {"correlation": 1.5}, "--data.correlation 1.5: .* from -1 to 1"),
    (relu, {"correlation": float("nan")}, "--data.correlation nan: .* from -1 to 1"),
    (relu, {"correlation": "1.0|x"}, r"--data.correlation 1.0\|x: 'x' must be a number"),
    (relu, {"correlation": []}, r"--data.correlation \[\]: give at least one"),
    (relu, {"correlation": [1.0, 0.9]}, r"--data.correlation 1.0\|0.9: 2 numbers for k_main 6"),
    (relu, {"correlation": ["1", [1.0] * 6]}, "--data.correlation: .* is there twice"),
    (relu, {"correlation": 0, "k_aux": 10}, "--data.in_features 15: 10 auxiliary units and 6 .* need 16"),
    (relu, {"k_aux": 16}, "--data.in_features 15: 16 auxiliary units and 0 .* need 16"),
    (relu, {"k_main": 7}, "--data.correlation 1.0: main unit 7 has no auxiliary unit"),
    (relu, {"magnitude": 0}, "--data.magnitude 0: must be a finite number above 0"),
    (relu, {"magnitude": [1, 1.0]}, "--data.magnitude: 1.0 is given twice"),
    (relu, {"output_scale": "sqr"}, "--data.output_scale: 'sqr' is unknown; did you mean 'sqrt'"),
    (relu, {"in_features": 1}, "--data.in_features 1: must be at least 2"),
]


@pytest.mark.parametrize(
    ("make", "options", "message"), BAD, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_bad_input_is_refused_in_one_line(make, options, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        make(**options)
    assert "\n" not in str(caught.value)
