"""FeatureAlignment: whose teacher it asks for, what it measures, and that it changes nothing."""

import math
from typing import Any

import pytest
import torch
from callback_helpers import Foreign, train_loader, trainer
from lightning.pytorch.loggers import CSVLogger
from student_helpers import INPUTS, Data, ReLUStudents, Students, Teacher, draw, trained
from torch import nn

from lit_aux.callbacks import FeatureAlignment
from lit_aux.errors import ConfigurationError
from lit_aux.functional import feature_alignment


def teachers() -> dict[tuple[int, str], Teacher]:
    """Other teachers for every replica and task, of different numbers of units."""
    return {
        (r, task): Teacher(draw(1 + r + i, INPUTS, seed=10 * r + i), draw(1 + r + i))
        for r in range(2)
        for i, task in enumerate(("aux", "main"))
    }


@pytest.mark.parametrize(
    ("phase_tasks", "tasks", "asked"),
    [
        (None, None, {"main": ""}),
        (("main", "aux"), None, {"main": ""}),
        (("aux",), None, {"aux": ""}),
        (("main",), ["aux"], {"aux": ""}),
        (("main",), ["aux", "main"], {"aux": "_aux", "main": "_main"}),
    ],
)
def test_the_data_are_asked_for_each_replicas_teacher(
    tmp_path: Any, phase_tasks: Any, tasks: Any, asked: dict[str, str]
) -> None:
    students, data = ReLUStudents(), Data(teachers())
    module = Students(students) if phase_tasks is None else Students(students, "some", phase_tasks)
    callback = FeatureAlignment("net.first", k=[2, 3], tasks=tasks)
    logger = CSVLogger(tmp_path)
    trainer(tmp_path, callback, max_epochs=1, logger=logger).fit(module, datamodule=data)
    last = [row for row in callback.results if row.epoch == 1]
    assert [row.measure for row in last] == [f"alignment_k{k}{end}" for end in asked.values() for k in (2, 3)]
    pairs = [(task, k) for task in asked for k in (2, 3)]
    for row, (task, k) in zip(last, pairs, strict=True):
        for r in range(2):
            student, teacher = students.first["weight"][r], data.teachers[r, task].directions
            assert row.values[r] == pytest.approx(feature_alignment(student, teacher, k).item(), rel=1e-12)
    prefix = "" if phase_tasks is None else "some/"
    logged = logger.experiment.metrics_keys
    assert {f"{prefix}net.first/{row.measure}" for row in last} <= set(logged)


def test_training_is_bit_for_bit_what_it_is_without() -> None:
    def make() -> Students:
        return Students(ReLUStudents())

    callback = FeatureAlignment("net.first", k=3, every_n_epochs=1, similarity="pearson")
    alone, measured = trained(make, Data()), trained(make, Data(teachers()), callback)
    assert len(callback.results) == 3
    assert all(torch.equal(alone[name], measured[name]) for name in alone)


@pytest.mark.parametrize("kind", ["tensor", "object", "one a replica"])
def test_a_given_teacher(tmp_path: Any, kind: str) -> None:
    directions = draw(2, 3, INPUTS) if kind == "one a replica" else draw(3, INPUTS)
    given = Teacher(directions, draw(3)) if kind == "object" else directions
    students, callback = ReLUStudents(), FeatureAlignment("net.first", given, 4, similarity="pearson")
    trainer(tmp_path, callback, max_epochs=1).fit(Students(students), datamodule=Data())
    expected = feature_alignment(students.first["weight"], directions, 4, similarity="pearson")
    assert callback.results[-1].values == pytest.approx(expected.tolist(), rel=1e-12)
    assert len(expected) == 2


def test_a_plain_layer_of_a_strangers_project(tmp_path: Any) -> None:
    module = Foreign(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)))
    callback = FeatureAlignment("net.1", draw(3, 16), 2)
    trainer(tmp_path, callback, max_epochs=1).fit(module, train_loader())
    expected = feature_alignment(module.net[1].weight, draw(3, 16), 2).item()
    assert callback.results[-1].values == pytest.approx([expected])


def test_a_replica_that_diverged_is_nan(tmp_path: Any) -> None:
    students = ReLUStudents()
    with torch.no_grad():
        students.first["weight"][1] = torch.inf
    callback = FeatureAlignment("net.first", k=2)
    with pytest.warns(UserWarning, match="undefined for replica 1: weights: has NaN"):
        trainer(tmp_path, callback, fast_dev_run=True).fit(Students(students), datamodule=Data(teachers()))
    first, second = callback.results[0].values
    assert math.isnan(second)
    assert callback.results[0].value == first


@pytest.mark.parametrize(
    ("teacher", "options", "message"),
    [
        (None, {"k": [1, 13]}, "k: 13 clusters of the 12 units"),
        (draw(3, 4), {}, r"teacher: directions of shape \(3, 4\) for 2 replicas with 5 inputs"),
        (draw(5), {}, r"teacher: directions of shape \(5,\)"),
        (draw(3, 3, 5), {}, r"teacher: directions of shape \(3, 3, 5\) for 2 replicas"),
        ("a teacher", {}, "teacher: 'a teacher' is no tensor and has no directions"),
    ],
)
def test_unfit_teachers_are_refused_before_training(
    tmp_path: Any, teacher: Any, options: Any, message: str
) -> None:
    callback = FeatureAlignment("net.first", teacher, **options)
    with pytest.raises(ConfigurationError, match=message) as caught:
        trainer(tmp_path, callback).fit(Students(ReLUStudents()), datamodule=Data(teachers()))
    assert "\n" not in str(caught.value)


def test_data_without_teachers_are_refused(tmp_path: Any) -> None:
    message = r"teacher: not given, and the data \(NoneType\) have no teacher\(replica, task\)"
    module = Foreign(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 3)))
    with pytest.raises(ConfigurationError, match=message) as caught:
        trainer(tmp_path, FeatureAlignment("net.1")).fit(module, train_loader())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity": "dot"}, "similarity: 'dot' is unknown"),
        ({"teacher": draw(3, 5), "tasks": ["main"]}, "tasks: .* with teacher Tensor"),
        ({"tasks": []}, r"tasks: \[\]"),
        ({"k": []}, r"k: \[\] is not"),
    ],
)
def test_bad_options_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        FeatureAlignment("net.first", **options)
