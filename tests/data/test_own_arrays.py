"""Arrays of one's own: what is read from them, how they are divided, and what is refused."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from arrays_helpers import kinds

from lit_aux.data import ArraysDataModule, DiabetesDataModule
from lit_aux.errors import ConfigurationError
from lit_aux.tasks import Task

X = np.arange(200.0).reshape(50, 4)
NAMES = np.array(["cat", "dog", "ant", "bee", "cat"] * 10)


class Series:
    """A column as data frames have it."""

    def __init__(self, values: Any, dtype: Any = None) -> None:
        self.values = np.asarray(values, dtype=dtype)

    def to_numpy(self) -> Any:
        """Return the column."""
        return self.values


class Frame:
    """A data frame as pandas and polars have it, as far as it is needed."""

    def __init__(self, **columns: Any) -> None:
        self._columns = columns

    @property
    def columns(self) -> list[str]:
        """Return the names."""
        return list(self._columns)

    def __getitem__(self, name: str) -> Series:
        return Series(self._columns[name])

    def to_numpy(self) -> Any:
        """Return the table, of objects where columns are of several types."""
        columns = [np.asarray(column) for column in self._columns.values()]
        mixed = len({column.dtype.kind for column in columns}) > 1
        return np.stack([column.astype(object) if mixed else column for column in columns], axis=1)


class Gaps(Series):
    """Whole numbers some of which are missing: floats, once they are an array."""

    dtype = np.dtype(np.int64)


class NAType:
    """What pandas has for what is missing."""


@pytest.mark.parametrize(
    ("y", "kind", "outputs", "held"),
    [
        (np.arange(50) % 3, "classification", 3, torch.int64),
        (torch.arange(50, dtype=torch.uint8) % 4, "classification", 4, torch.int64),
        (X[:, 0] > 50, "classification", 2, torch.int64),
        ([True, False] * 25, "classification", 2, torch.int64),
        (NAMES, "classification", 4, torch.int64),
        (Series(NAMES, object), "classification", 4, torch.int64),
        ((np.arange(50) % 3)[:, None], "classification", 3, torch.int64),
        (Series([0, 1, NAType(), 2, None] * 10, object), "classification", 3, torch.int64),
        (Gaps([0, np.nan, 1, 2, 1] * 10), "classification", 3, torch.int64),
        (X[:, 0], "regression", 1, torch.float32),
        (X[:, :2].astype(np.float16), "regression", 2, torch.float32),
        (Frame(a=X[:, 0], b=X[:, 1] + 0.5), "regression", 2, torch.float32),
        (X[:, :3] > 70, "multilabel", 3, torch.float32),
        ((X[:, :3] > 70).astype(int), "multilabel", 3, torch.float32),
    ],
)
def test_targets_tell_what_a_task_is(y: Any, kind: str, outputs: int, held: torch.dtype) -> None:
    data = ArraysDataModule({"main": (X, y)}, seed=0)
    task = data.task_types["main"]
    assert (task.kind, task.outputs) == (kind, outputs)
    assert data.num_classes == {"main": outputs}
    samples = data.samples("train", "main")
    assert samples.labels.dtype == held
    assert samples.inputs.dtype == torch.float32
    assert str(data) == f"ArraysDataModule, outputs of its tasks: main: {outputs}"


def test_names_are_numbered_in_the_order_of_the_alphabet() -> None:
    names = np.array(["b", "c", "a", None, "c"] * 10, dtype=object)
    data = ArraysDataModule({"main": (X, names)}, test={"main": (X[:2], ["c", "a"])})
    assert data.label_names == {"main": ["a", "b", "c"]}
    assert data.samples("test", "main").labels.tolist() == [2, 0]
    train = data.samples("train", "main")
    assert len(train) == 40
    assert [data.label_names["main"][label] for label in train.labels] == [names[row] for row in train.rows]


def test_inputs_stay_with_their_targets() -> None:
    frame = Frame(a=X[:, 0], b=X[:, 1].astype(int), c=X[:, 2] > 10)
    data = ArraysDataModule({"main": (frame, X[:, 0])}, n_main=20, n_val=5, seed=0)
    seen = []
    for split, size in (("train", 20), ("val", 5), ("test", 10)):
        samples = data.samples(split, "main")
        assert len(samples) == size
        assert torch.equal(samples.inputs[:, 0], samples.labels)
        assert samples.labels.tolist() == X[samples.rows.numpy(), 0].tolist()
        seen += samples.rows.tolist()
    assert len({*seen}) == 35


def test_dicts_and_tuples_are_cut_together_and_keep_their_types() -> None:
    tokens, mask = torch.arange(100).reshape(50, 2), np.ones((50, 2), dtype=bool)
    data = ArraysDataModule({"main": ({"tokens": tokens, "mask": mask}, X[:, 0])}, seed=0)
    x, y = next(iter(data.train_dataloader()))["main"]
    assert {name: part.dtype for name, part in x.items()} == {"tokens": torch.int64, "mask": torch.bool}
    assert torch.equal(x["tokens"][:, 0] * 2, y.long())
    (first, second), y = next(iter(ArraysDataModule({"main": ((X, X[:, 1]), X[:, 0])}).train_dataloader()))[
        "main"
    ]
    assert torch.equal(first[:, 0], y)
    assert second.shape == y.shape


def test_a_smaller_draw_is_part_of_a_larger_one() -> None:
    def rows(split: str = "train", task: str = "main", **options: Any) -> set[int]:
        arrays = {"main": (X, NAMES), "aux": (X, X[:, 0])}
        return {*ArraysDataModule(arrays, **{"seed": 0, **options}).samples(split, task).rows.tolist()}

    few, many = rows(n_main=8), rows(n_main=20)
    assert few < many
    labels = [NAMES[row] for row in few]
    assert all(labels.count(name) == 2 for name in {*NAMES}), "balanced"
    assert few == rows(n_main=8, n_aux=5)
    assert few != rows(n_main=8, seed=1)
    assert rows("test") == rows("test", "aux") == rows("test", n_main=8), "the same rows on one side"
    assert rows("val", n_val=7) == rows("val", "aux", n_val=7) == rows("val", n_val=7, n_main=8)
    assert not rows(n_val=7) & (rows("val", n_val=7) | rows("test", n_val=7))
    assert len(rows("val", n_main=8)) == 32
    assert len(rows("test", n_test=3)) == 3
    assert len(rows("test", test_fraction=0.5)) == 25


def test_nothing_may_be_held_out() -> None:
    data = ArraysDataModule({"main": (X, NAMES)}, test_fraction=0)
    assert data.train_size("main") == 50
    assert data.val_dataloader() == data.test_dataloader() == []


def test_own_validation_and_test_arrays() -> None:
    data = ArraysDataModule(
        {"main": (X, X[:, 0])},
        val={"main": (X[:6] + 1, X[:6, 0] + 1)},
        test={"main": (X[:4], X[:4, 0])},
        n_val=5,
    )
    assert [len(data.samples(split, "main")) for split in ("train", "val", "test")] == [50, 5, 4]
    assert torch.equal(data.samples("test", "main").labels, torch.as_tensor(X[:4, 0]).float())


def test_rows_without_a_target_do_not_train() -> None:
    y = np.where(np.arange(50) < 25, np.nan, X[:, 0] + 0.5)
    data = ArraysDataModule({"main": (X, y)}, seed=0)
    with pytest.warns(UserWarning, match="25 of 50 rows of task 'main' have no target"):
        train = data.samples("train", "main")
    assert not train.labels.isnan().any()
    assert len(data.samples("test", "main")) == 10, "predictions may be wanted of them"
    ignored = ArraysDataModule({"main": (X, np.arange(50) % 3)}, {"main": Task(2, ignore=2)})
    assert {*ignored.samples("train", "main").labels.tolist()} == {0, 1}


def test_standardized() -> None:
    x = np.concatenate([X * [1, 10, 0, 1], X[:, :1] % 7], axis=1)
    arrays = {"main": (x, X[:, 0]), "aux": (x, NAMES)}
    data = ArraysDataModule(arrays, standardize=True, standardize_targets=True, seed=0)
    train = data.samples("train", "main")
    assert train.inputs.mean(0).abs().max() < 1e-6
    deviation = train.inputs.std(0, correction=0)
    assert torch.allclose(deviation, torch.tensor([1.0, 1, 0, 1, 1]), atol=1e-6)
    assert train.labels.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    for split in ("train", "test"):
        samples = data.samples(split, "main")
        units = data.in_units("main", samples.labels)
        assert torch.allclose(units, torch.as_tensor(X[samples.rows.numpy(), 0]).float(), atol=1e-4)
        again = data.samples(split, "aux")
        assert torch.equal(again.inputs[again.rows.argsort()], samples.inputs[samples.rows.argsort()])
    few = ArraysDataModule(arrays, standardize=True, n_main=5, seed=0)
    assert few.fingerprint(["aux"]) == data.fingerprint(["aux"])
    assert torch.equal(data.in_units("aux", torch.ones(2)), torch.ones(2))


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"batch_size": 7}, {"n_main": 12}, {"standardize": True}, {"test_fraction": 0.1}]
)
def test_fingerprint_changes_with(change: dict[str, Any]) -> None:
    def fingerprint(**options: Any) -> str:
        return ArraysDataModule({"main": (X, X[:, 0])}, **{"seed": 0, **options}).fingerprint(["main"])

    assert fingerprint() == fingerprint()
    assert fingerprint() != fingerprint(**change)


def test_options_tell_arrays_apart_and_are_the_same_before_and_after_setup() -> None:
    one, other = (ArraysDataModule({"main": (X, X[:, 0] + shift)}, standardize=True) for shift in (0, 1e-3))
    assert one.options() != other.options()
    again = ArraysDataModule({"main": (X, X[:, 0])}, standardize=True)
    again.setup()
    assert again.options() == one.options()


def test_all_kinds_are_taken_as_they_are_said_to_be() -> None:
    for name, kind in kinds().items():
        data = ArraysDataModule(kind.arrays, kind.tasks)
        assert data.task_types == kind.tasks, name
        assert data.samples("train", "main").labels.shape[1:] == kind.arrays["main"][1].shape[1:]


def test_numbers_of_outputs_say_what_may_be_several_things() -> None:
    floats, whole = np.arange(50) % 3 * 1.0, np.arange(50)
    assert ArraysDataModule({"main": (X, floats)}, {"main": 3}).task_types["main"] == Task(3)
    assert ArraysDataModule({"main": (X, floats)}, {"main": 1}).task_types["main"] == Task(
        1, kind="regression"
    )
    assert ArraysDataModule({"main": (X, whole)}, {"main": 60}).task_types["main"] == Task(60)


def test_diabetes() -> None:
    data = DiabetesDataModule(seed=0, n_main=100, n={"sex": 50}, n_val=20)
    assert [data.train_size(task) for task in data.tasks] == [100, 50, 442 - 88 - 20]
    from sklearn.datasets import load_diabetes

    table = load_diabetes(scaled=False)
    columns = dict(zip(table.feature_names, table.data.T, strict=True))
    truth = {"main": table.target, "sex": columns["sex"] - 1, "bp": columns["bp"]}
    for task, y in truth.items():
        test = data.samples("test", task)
        assert np.allclose(data.in_units(task, test.labels), y[test.rows.numpy()], rtol=1e-5)
        assert test.rows.tolist() == data.samples("test", "main").rows.tolist()
    assert test.inputs.shape == (88, 8)
    assert np.corrcoef(test.inputs[:, 1], columns["bmi"][test.rows.numpy()])[0, 1] > 0.999


Y = X[:, 0] + 0.5


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ([1, 2], {}, "arrays: a list; give {task: (x, y)}"),
        ({}, {}, "arrays: {} is empty"),
        ({"a b": (X, Y)}, {}, "arrays: 'a b' cannot name a task"),
        ({"main": X}, {}, "arrays: 'main' has a ndarray; give the pair (x, y)"),
        ({"main": (X, Y[:40])}, {}, "arrays: task 'main' has 50 rows of inputs and 40 targets"),
        ({"main": (X[:0], Y[:0])}, {}, "arrays: targets of 'main' of shape (0,) are empty"),
        ({"main": (X[:0], Y)}, {}, "arrays: inputs of 'main' of shape (0, 4) are empty"),
        ({"main": (np.where(X == 8, np.nan, X), Y)}, {}, "arrays: inputs of 'main': 1 of 50 rows hold NaN"),
        (
            {"main": (Frame(a=X[:, 0], b=NAMES), Y)},
            {},
            "inputs of 'main' hold what is no number (in column 'b')",
        ),
        (
            {"main": (Frame(b=NAMES), Y)},
            {},
            "arrays: inputs of 'main' hold text such as 'ant' (in column 'b')",
        ),
        ({"main": (torch.eye(50).to_sparse(), Y)}, {}, "arrays: inputs of 'main' are a sparse or nested"),
        ({"main": ({"a": X, "b": X[:9]}, Y)}, {}, "differ in their number of rows (a: 50, b: 9)"),
        ({"main": ({}, Y)}, {}, "arrays: inputs of 'main' are an empty dict"),
        ({"main": ({1: X}, Y)}, {}, "1 is no name of an argument"),
        ({"main": (X, Y)}, {"tasks": {"aux": 2}}, "tasks: 'aux' has no arrays; there are those of main"),
        (
            {"main": (X, Y)},
            {"tasks": {"main": "two"}},
            "tasks: outputs of 'main': two must be a whole number",
        ),
        (
            {"main": (X, Y)},
            {"tasks": {"main": Task(2)}},
            "kind 'classification' takes whole numbers, and 0.5",
        ),
        ({"main": (X, np.arange(50) % 3)}, {"tasks": {"main": Task(2)}}, "takes classes 0 to 1, and they go"),
        ({"main": (X, np.arange(50) % 2 + 1)}, {"tasks": {"main": Task(2)}}, "subtract 1"),
        ({"main": (X, np.arange(50) % 3 + 1)}, {}, "whole numbers from 1 to 3; subtract 1"),
        ({"main": (X, np.arange(50) % 3 - 1)}, {}, "whole numbers from -1 to 1; number classes from 0"),
        ({"main": (X, np.zeros(50, int))}, {}, "are all 0; a classification needs two classes"),
        ({"main": (X, ["cat"] * 50)}, {}, "are all 'cat'; a classification needs two classes"),
        ({"main": (X, np.arange(50))}, {}, "from 0 to 49 over 50 rows, and may be classes or values"),
        ({"main": (X, np.arange(50) % 3 * 1.0)}, {}, "floats, and all whole numbers from 0 to 2; say what"),
        ({"main": (X, np.eye(4)[np.arange(50) % 4])}, {}, "are one-hot rows; say what is meant"),
        ({"main": (X, (X > 60) * 1.0)}, {}, "are floats, and all 0 or 1; say what they are"),
        (
            {"main": (X, X.astype(int))},
            {},
            "may be tokens or values; say which: tasks={...: Task(200, kind='tok",
        ),
        (
            {"main": (X, np.zeros((50, 3, 3), int))},
            {},
            "may be of several kinds; say which by tasks={...: Task",
        ),
        ({"main": (X, np.full(50, np.nan))}, {}, "arrays: targets of 'main': all are missing"),
        (
            {"main": (X, np.full(50, -100))},
            {"tasks": {"main": 2}},
            "arrays: targets of 'main': all are missing",
        ),
        (
            {"main": (X, np.full(50, -100))},
            {"tasks": {"main": Task(2)}},
            "task 'main' has no row with a target",
        ),
        (
            {"main": (X, Y)},
            {"tasks": {"main": Task(2, kind="regression")}},
            "takes 2 numbers a row, and they",
        ),
        ({"main": (X, NAMES)}, {"tasks": {"main": Task(1, kind="regression")}}, "takes 1 numbers a row, and"),
        (
            {"main": (X, np.where(Y > 99, np.inf, Y))},
            {},
            "takes finite numbers; NaN stands for a missing one",
        ),
        (
            {"main": (X, X[:, :2])},
            {"tasks": {"main": Task(2, kind="multilabel")}},
            "takes 0 to 1, and they go",
        ),
        (
            {"main": (X, X[:, 0].astype(int) - 100)},
            {"tasks": {"main": Task(1, kind="regression")}},
            "takes -100",
        ),
        ({"main": (X, Y)}, {"tasks": {"main": 2}}, "are a regression of 1 outputs, and tasks= says 2"),
        ({"main": (X, np.arange(50) % 3)}, {"tasks": {"main": 2}}, "are a classification of 3 outputs, and"),
        (
            {"main": (X, X.astype(int))},
            {"tasks": {"main": Task(9)}},
            "takes numbers of classes (N,), and they",
        ),
        ({"main": (X, Y)}, {"test": {"aux": (X, Y)}}, "test: 'aux' is unknown"),
        ({"main": (X, Y)}, {"test": {"main": (X[:, :3], Y)}}, "test: inputs of 'main' are not like those of"),
        (
            {"main": (X, NAMES)},
            {"val": {"main": (X, ["cow"] * 50)}},
            "val: targets of 'main': 'cow' is none of",
        ),
        ({"main": (X, NAMES)}, {"val": {"main": (X, Y)}}, "val: targets of 'main' are not named as those"),
        ({"main": (X, ["a", 1] * 25)}, {}, ""),
        ({"main": (X, np.array(["a", 1] * 25, dtype=object))}, {}, "hold names and numbers"),
        (
            {"main": (X, Y)},
            {"test_fraction": 1.0},
            "--data.test_fraction 1.0: must be at least 0 and below 1",
        ),
        ({"main": (X, Y)}, {"n_main": 41}, "--data.n_main 41: task 'main' has 40 training rows"),
        ({"main": (X, Y)}, {"n_val": 40}, "--data.n_val 40: task 'main' has 40 rows; leave some to train on"),
        ({"main": (X, NAMES)}, {"n_main": 3}, "--data.n_main 3: task 'main' has 4 classes, and a balanced"),
        ({"main": (X, Y)}, {"batch_size": 0}, "--data.batch_size 0"),
    ],
)
def test_what_does_not_fit_is_refused(arrays: Any, options: dict[str, Any], message: str) -> None:
    if not message:  # numpy makes names of the numbers
        assert ArraysDataModule(arrays, **options).label_names == {"main": ["1", "a"]}
        return
    with pytest.raises(ConfigurationError) as error:
        ArraysDataModule(arrays, **options)
    text = str(error.value)
    assert "\n" not in text
    assert all(re.search(re.escape(part), text) for part in message.split("|")), text
