"""KMeansInertia in anybody's Trainer: what it measures, when, and that it changes nothing."""

import csv
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from callback_helpers import Foreign, train_loader, trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from student_helpers import Data, ReLUStudents, Students, trained
from torch import nn

from lit_aux.callbacks import KMeansInertia, WeightMeasurement, WeightRescaling
from lit_aux.errors import ConfigurationError
from lit_aux.functional import kmeans_inertia


class Watch(pl.Callback):
    """Keeps the first layer's weights at the start and after every epoch."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.weights.append(pl_module.net.first["weight"].detach().clone())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.on_train_start(trainer, pl_module)


def test_every_replica_is_measured_and_the_mean_is_logged(tmp_path: Any) -> None:
    callback, watch, logger = KMeansInertia("net.first.weight", [2, 3]), Watch(), CSVLogger(tmp_path)
    callback.every_n_epochs = 2
    fit = trainer(tmp_path, watch, callback, logger=logger, max_epochs=3)
    fit.fit(Students(ReLUStudents(), "finetune", ("main",)), datamodule=Data())
    moments = {0: 0, 2: 6, 3: 9}  # epochs and their steps: the start, every second epoch, the end
    assert [(row.epoch, row.step, row.measure) for row in callback.results] == [
        (epoch, step, f"inertia_k{k}") for epoch, step in moments.items() for k in (2, 3)
    ]
    for row in callback.results:
        k = int(row.measure[-1])
        expected = kmeans_inertia(watch.weights[row.epoch], k)
        assert row.values == pytest.approx(expected.tolist(), rel=1e-12)
        assert row.value == pytest.approx(expected.mean().item())
        assert (row.phase, row.layer) == ("finetune", "net.first.weight")
    with Path(logger.log_dir, "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row["finetune/net.first.weight/inertia_k3"]]
    found = [(int(row["step"]), float(row["finetune/net.first.weight/inertia_k3"])) for row in logged]
    kept = [(row.step, row.value) for row in callback.results if row.measure == "inertia_k3"]
    assert found == kept


def test_training_is_bit_for_bit_what_it_is_without() -> None:
    def make() -> Students:
        return Students(ReLUStudents())

    options: Any = {"unit_weights": "contribution", "readout": "net.readout"}
    callback = KMeansInertia("net.first", [1, 3], every_n_epochs=1, **options)
    alone, measured = trained(make, Data()), trained(make, Data(), callback)
    assert len(callback.results) == 6
    assert all(torch.equal(alone[name], measured[name]) for name in alone)


@pytest.mark.parametrize("layer", ["net.1", "net.1.weight", "net.*"])
def test_plain_linear_layers_by_name_or_glob(tmp_path: Any, layer: str) -> None:
    module = Foreign(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)))
    callback = KMeansInertia(layer, 2, reference="origin", at_start=False)
    trainer(tmp_path, callback, max_epochs=1).fit(module, train_loader())
    expected = {"net.1": module.net[1].weight, "net.3": module.net[3].weight}
    if layer != "net.*":
        expected = {layer: module.net[1].weight}
    assert [row.layer for row in callback.results] == list(expected)
    for row in callback.results:
        found = kmeans_inertia(expected[row.layer], 2, reference="origin").item()
        assert row.values == pytest.approx([found], rel=1e-12)
        assert row.phase == ""


def test_a_convolution_counts_by_channels(tmp_path: Any) -> None:
    module, callback = Foreign(), KMeansInertia("net.0", 2)
    trainer(tmp_path, callback, max_epochs=1).fit(module, train_loader())
    expected = kmeans_inertia(module.net[0].weight.flatten(1), 2).item()
    assert callback.results[-1].values == pytest.approx([expected])


def test_contributions_are_the_norms_of_both_layers(tmp_path: Any) -> None:
    students = ReLUStudents(2, {"main": 2, "aux": 1})
    callback = KMeansInertia("net.first", 3, unit_weights="contribution", readout="net.readout.weight")
    trainer(tmp_path, callback, max_epochs=1).fit(Students(students), datamodule=Data())
    values = []
    layers = (students.first["weight"].detach(), students.readout["weight"].detach())
    for first, readout in zip(*layers, strict=True):
        each = [float(readout[:, h].norm() * first[h].norm()) for h in range(len(first))]
        values.append(kmeans_inertia(first, 3, unit_weights=torch.tensor(each)).item())
    assert callback.results[-1].values == pytest.approx(values, rel=1e-6)
    equal = kmeans_inertia(students.first["weight"], 3)
    assert callback.results[-1].values != pytest.approx(equal.tolist(), rel=1e-3)


def test_replicas_that_cannot_be_measured_are_nan_and_left_out_of_the_mean(tmp_path: Any) -> None:
    students = ReLUStudents(3)
    with torch.no_grad():
        students.first["weight"][0] = 0
        students.first["weight"][2] = torch.nan
    callback = KMeansInertia("net.first", 3)
    with pytest.warns(UserWarning, match="inertia_k3 is undefined for replica 0: weights: no unit is alive"):
        trainer(tmp_path, callback, fast_dev_run=True).fit(Students(students), datamodule=Data())
    values = callback.results[0].values
    assert [math.isnan(value) for value in values] == [True, False, True]
    assert callback.results[0].value == values[1]
    assert math.isnan(WeightMeasurement("", 0, 0, "", "", (math.nan, math.nan)).value)


def test_the_start_is_after_a_rescale_whatever_the_order(tmp_path: Any) -> None:
    students, watch = ReLUStudents(), Watch()
    callback = KMeansInertia("net.first", 2, min_norm=1e-3)
    rescaling = WeightRescaling(1e-9, include=["net.first.*"])
    with pytest.warns(UserWarning, match="no unit is alive"):
        trainer(tmp_path, callback, watch, rescaling, fast_dev_run=True).fit(
            Students(students), datamodule=Data()
        )
    assert math.isnan(callback.results[0].value)


def test_results_survive_a_resume_and_a_new_fit_starts_over(tmp_path: Any) -> None:
    def run(epochs: int, ckpt: Any = None) -> KMeansInertia:
        callback = KMeansInertia("net.first", 2, every_n_epochs=1)
        saver = ModelCheckpoint(dirpath=tmp_path, save_last=True)
        fit = trainer(tmp_path, callback, saver, max_epochs=epochs, enable_checkpointing=True)
        fit.fit(Students(ReLUStudents()), datamodule=Data(), ckpt_path=ckpt)
        return callback

    first = run(1)
    again = run(3, ckpt=tmp_path / "last.ckpt")
    assert again.results[:2] == first.results
    assert [row.epoch for row in again.results] == [0, 1, 2, 3]
    fit = trainer(tmp_path, again, max_epochs=1)
    fit.fit(Students(ReLUStudents()), datamodule=Data())
    assert [row.epoch for row in again.results] == [0, 1]
    fit = trainer(tmp_path, again, max_epochs=1)
    fit.fit(Students(ReLUStudents(), "other", ("main",)), datamodule=Data())
    assert [(row.phase, row.epoch) for row in again.results] == [("", 0), ("", 1), ("other", 0), ("other", 1)]


def test_two_callbacks_for_one_layer_can_live_together(tmp_path: Any) -> None:
    callbacks = [KMeansInertia("net.first", 1, reference="origin"), KMeansInertia("net.first", 2)]
    trainer(tmp_path, *callbacks, fast_dev_run=True).fit(Students(ReLUStudents()), datamodule=Data())
    assert all(callback.results for callback in callbacks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k: 0 is not a count"),
        ({"k": [2, 2]}, r"k: \[2, 2\] is not"),
        ({"k": "many"}, "k: 'many' is not"),
        ({"every_n_epochs": 0}, "every_n_epochs: 0 must be at least 1"),
        ({"unit_weights": "norm"}, "unit_weights: 'norm' is unknown"),
        ({"unit_weights": "contribution"}, "readout: None does not go with unit_weights 'contribution'"),
        ({"readout": "net.readout"}, "readout: 'net.readout' does not go with unit_weights None"),
        ({"reference": "zero"}, "reference: 'zero' is unknown"),
        ({"min_norm": -1.0}, "min_norm: -1.0"),
    ],
)
def test_bad_options_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        KMeansInertia("net.first", **({"k": 2} | options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        ("net.frist", {}, "layer: 'net.frist' is unknown; did you mean 'net.first'"),
        ("net.flat", {}, r"layer: 'net.flat' has shape \(3,\); name weights"),
        ("net.first", {"k": 13}, "k: 13 clusters of the 12 units of 'net.first'; give at most 12"),
        ("net.first", {"readout": "net.first"}, "readout: 'net.first' of shape .* does not read the units"),
        ("net.first", {"readout": "net.*"}, "readout: 'net.*' means net.first, net.readout; name one"),
        ("net.first", {"readout": "net.head"}, "readout: 'net.head' is unknown"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(
    tmp_path: Any, layer: str, options: Any, message: str
) -> None:
    students = ReLUStudents()
    students.flat = nn.Parameter(torch.zeros(3))
    contribution = {"unit_weights": "contribution"} if "readout" in options else {}
    callback = KMeansInertia(layer, **({"k": 2} | options | contribution))
    with pytest.raises(ConfigurationError, match=message) as caught:
        trainer(tmp_path, callback).fit(Students(students), datamodule=Data())
    assert "\n" not in str(caught.value)
    assert not callback.results
