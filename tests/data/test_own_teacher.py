"""A teacher of one's own: what it draws, which grid its options span, and what is refused."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_aux.data import OwnTeacherDataModule, ReLUTeacher
from lit_aux.data.teacher_options import TAKEN
from lit_aux.errors import ConfigurationError
from lit_aux.runs.table import COLUMNS

SMALL: dict[str, Any] = {"seed": 0, "n_main": 4, "in_features": 6, "n_aux": 8, "n_test": 5}


class Rotated(OwnTeacherDataModule):
    """Linear teachers, the main one turned away from the auxiliary one."""

    def __init__(self, rotation: float | list[float] = 0.0, noise: float = 0.0, **kwargs: Any) -> None:
        super().__init__(rotation=rotation, noise=noise, **{**SMALL, **kwargs})

    def draw_teacher(self, task: str, options: Mapping[str, Any], generator: torch.Generator) -> Any:
        shared, fresh = torch.randn(2, self.in_features, generator=generator)
        if task == "aux":
            return shared
        return (1 - options["rotation"]) * shared + options["rotation"] * fresh

    def training_targets(
        self, task: str, targets: Tensor, options: Mapping[str, Any], generator: torch.Generator
    ) -> Tensor:
        return targets + options["noise"] * torch.randn(targets.shape, generator=generator)


class Plain(OwnTeacherDataModule):
    """What a test's function draws."""

    def __init__(self, draw: Callable[..., Any] | None = None, **kwargs: Any) -> None:
        self.draw = draw
        super().__init__(draw=None, **{**SMALL, **kwargs})

    def draw_teacher(self, task: str, options: Mapping[str, Any], generator: torch.Generator) -> Any:
        assert self.draw is not None
        return self.draw(task, generator)


def of_options(**annotations: Any) -> Any:
    """Return a class whose constructor takes options with these annotations, and hands them on."""

    names = ", ".join(f"{name}: annotations[{name!r}]" for name in annotations)
    handed = ", ".join(f"{name}={name}" for name in annotations)
    space: dict[str, Any] = {"annotations": annotations, "Linear": Linear}
    exec(f"def __init__(self, {names}, **kwargs): Linear.__init__(self, {handed}, **kwargs)", space)
    return type("Made", (Linear,), {"__init__": space["__init__"]})


class Linear(OwnTeacherDataModule):
    """Linear teachers with what is drawn first."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**SMALL, **kwargs})

    def draw_teacher(self, task: str, options: Mapping[str, Any], generator: torch.Generator) -> Tensor:
        return torch.randn(self.in_features, generator=generator)


def test_lists_span_a_grid_and_single_values_do_not() -> None:
    data = Rotated([0, 0.5], 0.1, seed=[0, 1], n_main=[4, 8])
    assert data.grid_size == 8
    assert [list(cell.values()) for cell in data.replicas[:3]] == [[0, 4, 0.0], [0, 4, 0.5], [0, 8, 0.0]]
    assert data.own_options(1) == {"rotation": 0.5, "noise": 0.1}
    assert data.options()["rotation"] == [0.0, 0.5]
    assert data.settings()["noise"] == 0.1
    cells = Rotated(cells=[{"rotation": 1, "n_main": 3}, {"rotation": 0}])
    assert [(cell["n_main"], cell["rotation"]) for cell in cells.replicas] == [(3, 1.0), (4, 0.0)]


def test_targets_are_what_the_teacher_says_of_the_inputs() -> None:
    data = Rotated([0, 0.25, 1], seed=[3])
    beta = [data.teacher(replica, "main") for replica in range(3)]
    assert torch.equal(data.teacher(0, "aux"), beta[0])
    torch.testing.assert_close(beta[1], 0.75 * beta[0] + 0.25 * beta[2], rtol=1e-6, atol=1e-7)
    x, y = data.train_set(1, "main")
    assert (x.shape, y.shape, y.dtype) == ((4, 6), (4, 1), torch.float64)
    torch.testing.assert_close(y[:, 0], (x * beta[1]).sum(1))
    assert data.train_set(0, "main")[0] is x
    x, y = data.test_set(1, "main")
    torch.testing.assert_close(y[:, 0], (x * beta[1]).sum(1))


def test_noise_is_in_training_targets_alone_and_the_same_in_every_process() -> None:
    clean, noisy, again = Rotated(n_main=200), Rotated(noise=0.5, n_main=200), Rotated(noise=0.5, n_main=200)
    noise = noisy.train_set(0, "main")[1] - clean.train_set(0, "main")[1]
    assert 0.4 < float(noise.std()) < 0.6
    assert torch.equal(noisy.train_set(0, "main")[1], again.train_set(0, "main")[1])
    assert torch.equal(noisy.test_set(0, "main")[1], clean.test_set(0, "main")[1])
    for data in (clean, noisy):
        data.setup("fit")


def test_replicas_share_the_auxiliary_targets_of_the_options_that_are_read() -> None:
    data = Rotated([0, 0.5], seed=[0, 1])
    first, second, other = (data.train_set(replica, "aux")[1] for replica in (0, 1, 2))
    assert first is second
    assert not torch.equal(first, other)

    class Scaled(Rotated):
        def draw_teacher(self, task: str, options: Mapping[str, Any], generator: torch.Generator) -> Any:
            return (1 + options["rotation"]) * super().draw_teacher("aux", options, generator)

    scaled = Scaled([0, 0.5])
    torch.testing.assert_close(1.5 * scaled.train_set(0, "aux")[1], scaled.train_set(1, "aux")[1])


def test_fingerprints_know_the_options() -> None:
    def prints(data: OwnTeacherDataModule) -> list[str]:
        return [data.fingerprint(tasks) for tasks in (["aux"], ["main"], ["aux", "main"])]

    usual = prints(Rotated([0, 0.5]))
    assert usual == prints(Rotated([0, 0.5]))
    turned = prints(Rotated([0, 0.25]))
    assert turned[0] == usual[0]  # the auxiliary teacher does not read it
    assert not {*turned[1:]} & {*usual[1:]}
    assert not {*prints(Rotated([0, 0.5], noise=0.1))} & {*usual}
    assert not {*prints(Rotated([0, 0.5], in_features=7))} & {*usual}


@pytest.mark.parametrize(
    ("annotation", "given", "expected"),
    [
        (float | list[float], 1, [1.0]),
        (list[float], [0, 2], [0.0, 2.0]),
        (int | list[int], [3, 1], [1, 3]),
        (str | list[str], ["b", "a"], ["a", "b"]),
        (bool | list[bool], [True, False], [False, True]),
        (Any, [1, 2.5], [1, 2.5]),
        (Any, "word", ["word"]),
    ],
)
def test_an_annotation_with_a_list_is_an_axis(annotation: Any, given: Any, expected: list[Any]) -> None:
    data = of_options(size=annotation)(size=given)
    values = [cell["size"] for cell in data.replicas]
    assert values == expected
    assert [type(value) for value in values] == [type(value) for value in expected]


@pytest.mark.parametrize(
    ("annotation", "given", "expected"),
    [
        (float, 1, 1.0),
        (int, 2, 2),
        (float | None, None, None),
        (dict[str, float], {"a": 1.5}, {"a": 1.5}),
        (tuple[float, float], (1.0, 2.0), (1.0, 2.0)),
    ],
)
def test_any_other_is_one_value_for_all(annotation: Any, given: Any, expected: Any) -> None:
    data = of_options(size=annotation)(size=given, seed=[0, 1])
    assert [data.own_options(replica) for replica in (0, 1)] == [{"size": expected}] * 2
    assert "size" not in data.replicas[0]


def test_a_class_of_a_class_has_the_options_of_both() -> None:
    class Farther(Rotated):
        def __init__(self, scale: float | list[float] = 1.0, **kwargs: Any) -> None:
            super().__init__(scale=scale, **kwargs)

    class Fixed(Rotated):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(rotation=0.5, **kwargs)

    assert Farther(scale=[1, 2], rotation=[0, 1]).own_options(3) == {"rotation": 1, "noise": 0, "scale": 2}
    assert Fixed().own_options(0) == {"rotation": 0.5, "noise": 0.0}


class Keeps(OwnTeacherDataModule):
    """Forgets to hand an option on."""

    def __init__(self, rotation: float | list[float] = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rotation = rotation

    def draw_teacher(self, task: str, options: Mapping[str, Any], generator: torch.Generator) -> Any:
        return torch.zeros(self.in_features)


def refusal(make: Callable[[], OwnTeacherDataModule]) -> str:
    """Return the one line with which options are refused."""
    with pytest.raises(ConfigurationError) as found:
        make().setup("fit")
    assert "\n" not in str(found.value)
    return str(found.value)


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: Rotated(rotation="far"), ["--data.rotation", "'far'", "a finite number"]),  # type: ignore[arg-type]
        (lambda: Rotated(rotation=[0, float("nan")]), ["--data.rotation", "nan", "a finite number"]),
        (lambda: Rotated(rotation=[[0, 1]]), ["--data.rotation", "[0, 1]", "a list within a list"]),  # type: ignore[list-item]
        (lambda: Rotated(rotation=[]), ["--data.rotation []", "at least one value"]),
        (lambda: Rotated(rotation=[1, 1.0]), ["--data.rotation", "given twice"]),
        (lambda: Rotated(rotation=True), ["--data.rotation", "True", "a finite number"]),
        (lambda: Rotated(noise=[0, 1]), ["--data.noise", "[0, 1]", "float | list[float]", "grid"]),  # type: ignore[arg-type]
        (lambda: Rotated(rotatoin=1), ["data: 'rotatoin'", "'rotation'"]),
        (lambda: Rotated(sampling="published"), ["data: 'sampling' is unknown"]),
        (lambda: Rotated(cells=[{"turn": 1}]), ["--data.cells", "'turn'", "known: seed, n_main, rotation"]),
        (lambda: Rotated(cells=[{"noise": 1}]), ["--data.cells", "'noise'"]),
        (lambda: Rotated(n_main=0), ["--data.n_main 0", "at least 1"]),
        (lambda: Keeps(rotation=1), ["Keeps", "'rotation'", "super().__init__(rotation=rotation, **kwargs)"]),
        (lambda: of_options(steps=int)(steps=1), ["Made", "steps", "choose another name"]),
        (lambda: of_options(overlap=float)(overlap=0.5), ["--data.overlap 0.5", "a whole number"]),
        (lambda: of_options(size=Any)(size=[1, "a"]), ["--data.size", "'a'", "words or numbers alone"]),
        (lambda: of_options(size=dict)(size={"a": torch}), ["--data.size", "cannot be told apart"]),
    ],
)
def test_options_that_do_not_fit(make: Callable[[], OwnTeacherDataModule], parts: list[str]) -> None:
    line = refusal(make)
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("draw", "parts"),
    [
        (lambda task, g: torch.zeros(7), ["coefficients of aux", "(7,)", "(6,)"]),
        (lambda task, g: "beta", ["the teacher of aux is str", "(6,)"]),
        (lambda task, g: lambda x: x, ["the teacher of aux gives (3, 6) for inputs (3, 6)", "(3,)"]),
        (lambda task, g: lambda x: 1.0, ["aux gives float", "return a tensor"]),
        (lambda task, g: lambda x: x.sum(1) / 0, ["aux gives targets that are not finite"]),
        (lambda task, g: lambda x: x @ torch.zeros(5), ["the teacher of aux cannot take inputs (3, 6)"]),
        (lambda task, g: torch.randn(6), ["two draws of the targets of aux differ", "generator"]),
        (lambda task, g: torch.zeros(6 if task == "aux" else 5), ["coefficients of main", "(5,)"]),
    ],
)
def test_what_is_no_teacher(draw: Callable[..., Any], parts: list[str]) -> None:
    line = refusal(lambda: Plain(draw))
    assert all(part in line for part in ["data: Plain: ", *parts]), line


def test_teachers_of_every_kind() -> None:
    w, v = torch.eye(6)[:2], torch.tensor([1.0, -2.0])
    expected = None
    for dtype in ("float32", "float64"):
        for drawn in (ReLUTeacher(w, v), lambda x: ReLUTeacher(w.to(x), v.to(x))(x)[:, None]):
            data = Plain(lambda task, g, drawn=drawn: drawn, dtype=dtype)
            x, y = data.train_set(0, "main")
            expected = x[:, :1].relu() - 2 * x[:, 1:2].relu()
            torch.testing.assert_close(y, expected)


def test_no_option_is_called_like_a_column_of_results() -> None:
    free = {"seed", "n_main", "overlap", "k_main", "correlation", "magnitude"}
    assert {*COLUMNS} - free <= {*TAKEN}
