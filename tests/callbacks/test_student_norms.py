"""StudentNorms: numbers by hand with numpy, of students and of teachers, and that training is untouched."""

from typing import Any

import numpy as np
import pytest
import torch
from callback_helpers import Foreign, train_loader, trainer
from lightning.pytorch.loggers import CSVLogger
from student_helpers import INPUTS, Data, LinearStudents, ReLUStudents, Students, Teacher, draw, trained

from lit_aux.callbacks import StudentNorms
from lit_aux.errors import ConfigurationError


def linear_teachers() -> dict[tuple[int, str], torch.Tensor]:
    """Of replica 0's main entries two of three are auxiliary ones too, of replica 1's the only one."""
    aux = torch.tensor([0.0, 0.6, -0.8, 0.0, 0.0])
    return {
        (0, "aux"): aux,
        (1, "aux"): aux,
        (0, "main"): torch.tensor([0.0, 2.0, -1.0, 0.0, 2.0]),
        (1, "main"): torch.tensor([0.0, 0.0, 3.0, 0.0, 0.0]),
    }


def values(callback: StudentNorms, layer: str, epoch: int) -> dict[str, np.ndarray]:
    rows = [row for row in callback.results if (row.layer, row.epoch) == (layer, epoch)]
    return {row.measure: np.array(row.values) for row in rows}


def top(beta: np.ndarray, k: int) -> float:
    squares = sorted((beta**2).tolist(), reverse=True)
    return sum(squares[:k]) / sum(squares)


def test_a_linear_student_and_its_teachers(tmp_path: Any) -> None:
    students, callback, logger = LinearStudents(), StudentNorms(), CSVLogger(tmp_path)
    module = Students(students, "finetune", ("main",))
    trainer(tmp_path, callback, logger=logger).fit(module, datamodule=Data(linear_teachers()))
    beta = students.beta.detach().double().numpy()[:, 0]
    found = values(callback, "student", 2)
    assert list(found) == ["l1", "l2", "l12", "top_share", "aux_share"]
    np.testing.assert_allclose(found["l1"], np.abs(beta).sum(1))
    np.testing.assert_allclose(found["l12"], found["l1"])
    np.testing.assert_allclose(found["l2"], np.linalg.norm(beta, axis=1))
    np.testing.assert_allclose(found["top_share"], [top(beta[0], 3), top(beta[1], 1)])
    np.testing.assert_allclose(found["aux_share"], (beta[:, 1:3] ** 2).sum(1) / (beta**2).sum(1))
    told = values(callback, "teacher", 0)
    assert told.keys() == found.keys()
    np.testing.assert_allclose(told["l1"], [5, 3])
    np.testing.assert_allclose(told["l2"], [3, 3])
    np.testing.assert_allclose(told["top_share"], [1, 1])
    np.testing.assert_allclose(told["aux_share"], [5 / 9, 1])
    assert not values(callback, "teacher", 2)
    assert {"finetune/student/l12", "finetune/teacher/aux_share"} <= set(logger.experiment.metrics_keys)


def test_several_tasks_count_together_in_norms_and_each_in_shares(tmp_path: Any) -> None:
    students, callback = LinearStudents(tasks=("main", "aux")), StudentNorms(top_k=[1, 2])
    module = Students(students, "train", ("main", "aux"))
    trainer(tmp_path, callback, max_epochs=1).fit(module, datamodule=Data(linear_teachers()))
    beta = students.beta.detach().double().numpy()
    found = values(callback, "student", 1)
    np.testing.assert_allclose(found["l1"], np.abs(beta).sum((1, 2)))
    np.testing.assert_allclose(found["l2"], np.sqrt((beta**2).sum((1, 2))))
    np.testing.assert_allclose(found["l12"], np.sqrt((beta**2).sum(1)).sum(1))
    for i, task in enumerate(("main", "aux")):
        for k in (1, 2):
            np.testing.assert_allclose(found[f"top{k}_share_{task}"], [top(b, k) for b in beta[:, i]])
        expected = (beta[:, i, 1:3] ** 2).sum(1) / (beta[:, i] ** 2).sum(1)
        np.testing.assert_allclose(found[f"aux_share_{task}"], expected)
    told = values(callback, "teacher", 0)
    np.testing.assert_allclose(told["l12"], [np.hypot(2, 0.6) + np.hypot(1, 0.8) + 2, 0.6 + np.hypot(3, 0.8)])
    np.testing.assert_allclose(told["aux_share_aux"], [1, 1])


def test_only_the_phases_task_counts(tmp_path: Any) -> None:
    students, callback = LinearStudents(tasks=("main", "aux")), StudentNorms()
    module = Students(students, "finetune", ("main",))
    trainer(tmp_path, callback, max_epochs=1).fit(module, datamodule=Data(linear_teachers()))
    expected = students.beta[:, 0].detach().double().abs().sum(1)
    np.testing.assert_allclose(values(callback, "student", 1)["l1"], expected)


@pytest.mark.parametrize(
    ("tasks", "rows"), [(("main",), [2]), (("aux",), [0, 1]), (("main", "aux"), [0, 1, 2])]
)
def test_a_relu_student(tmp_path: Any, tasks: tuple[str, ...], rows: list[int]) -> None:
    students, callback = ReLUStudents(2, {"aux": 2, "main": 1}), StudentNorms()
    trainer(tmp_path, callback, max_epochs=1).fit(Students(students, "some", tasks), train_loader_of())
    first = students.first["weight"].detach().double().numpy()
    readout = students.readout["weight"].detach().double().numpy()[:, rows]
    sizes = np.linalg.norm(first, axis=2)
    found = values(callback, "student", 1)
    np.testing.assert_allclose(found["F_1"], (np.abs(readout).sum(1) * sizes).sum(1))
    np.testing.assert_allclose(found["F_12"], (np.linalg.norm(readout, axis=1) * sizes).sum(1))
    assert not values(callback, "teacher", 0), "no data module, no teacher"


def train_loader_of() -> Any:
    return Data().train_dataloader()


def test_relu_teachers_share_units_of_one_direction(tmp_path: Any) -> None:
    directions = torch.linalg.qr(draw(INPUTS, INPUTS))[0]
    mixed = 0.9 * directions[1] + 0.19**0.5 * directions[3]
    teachers = {
        (0, "aux"): Teacher(directions[:2], torch.tensor([0.3, 0.3])),
        # The first unit is the auxiliary one at twice the length, the second one only correlates with it.
        (0, "main"): Teacher(torch.stack([2 * directions[0], mixed]), torch.tensor([-0.2, 0.5])),
        (1, "aux"): Teacher(directions[:1], torch.tensor([1.0])),
        (1, "main"): Teacher(-directions[:1], torch.tensor([1.0])),
    }
    callback = StudentNorms()
    module = Students(ReLUStudents(2, {"main": 1, "aux": 1}), "train", ("main", "aux"))
    trainer(tmp_path, callback, max_epochs=1).fit(module, datamodule=Data(teachers))
    told = values(callback, "teacher", 0)
    np.testing.assert_allclose(told["F_1"], [0.3 + 0.3 + 0.4 + 0.5, 2], rtol=1e-6)
    np.testing.assert_allclose(told["F_12"], [np.hypot(0.3, 0.4) + 0.3 + 0.5, 2], rtol=1e-6)


def test_a_strangers_layers_by_name(tmp_path: Any) -> None:
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    )
    module, callback = Foreign(net), StudentNorms(first="net.1", readout="net.3")
    trainer(tmp_path, callback, max_epochs=1).fit(module, train_loader())
    sizes = net[1].weight.detach().double().norm(dim=1)
    expected = (net[3].weight.detach().double().norm(dim=0) * sizes).sum().item()
    assert values(callback, "student", 1)["F_12"] == pytest.approx([expected])


@pytest.mark.parametrize("net", [ReLUStudents, LinearStudents])
def test_training_is_bit_for_bit_what_it_is_without(net: Any) -> None:
    def make() -> Students:
        return Students(net())

    teachers = (
        linear_teachers()
        if net is LinearStudents
        else {(r, task): Teacher(draw(3, INPUTS), draw(3)) for r in range(2) for task in ("aux", "main")}
    )
    callback = StudentNorms(every_n_epochs=1)
    alone, measured = trained(make, Data()), trained(make, Data(teachers), callback)
    assert {row.layer for row in callback.results} == {"student", "teacher"}
    assert all(torch.equal(alone[name], measured[name]) for name in alone)


def test_modules_without_such_weights_are_refused(tmp_path: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"first: 'net\.first\.weight' is unknown") as caught:
        trainer(tmp_path, StudentNorms()).fit(Foreign(), train_loader())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"), [({"tasks": []}, r"tasks: \[\]"), ({"top_k": 0}, "top_k: 0 is not")]
)
def test_bad_options_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        StudentNorms(**options)
