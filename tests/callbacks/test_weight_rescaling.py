import csv
import math
import re
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from callback_helpers import Foreign, images, network, train_loader, trainer, val_loader
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from lit_aux.callbacks import WeightRescaling
from lit_aux.errors import ConfigurationError


class Watch(pl.Callback):
    """Keeps the weights that the first step starts from."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.weights = deepcopy(pl_module.state_dict())


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def rescaled(tmp_path: Any, callback: WeightRescaling, module: Foreign) -> dict[str, float]:
    """Fit with the callback and return the ratio of each state tensor that is constant over its entries."""
    before = deepcopy(module.state_dict())
    watch = Watch()
    trainer(tmp_path, watch, callback, max_epochs=1).fit(module, train_loader())
    factors = {}
    for name, value in watch.weights.items():
        exact = [f for f in (1.0, callback.factor) if torch.equal(value, before[name] * f)]
        factors[name] = exact[0] if exact else math.nan
    return factors


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({}, ".*(weight|bias)"),
        ({"preset": "weights"}, r"net\.(body\.1|head)\.weight"),
        ({"preset": "backbone"}, r"net\.body.*(weight|bias)"),
        ({"include": ["net.body.*"], "exclude": ["*bias"]}, r"net\.body.*weight"),
        ({"include": ["net.head.weight"]}, r"net\.head\.weight"),
        ({"preset": "weights", "exclude": ["net.head.*"]}, r"net\.body\.1\.weight"),
    ],
)
def test_exactly_the_chosen_tensors_are_scaled(tmp_path: Any, options: Any, chosen: str) -> None:
    module = Foreign(Named())
    # No entry may be 0 or the biases of batch normalization look alike however they are scaled.
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5)
    callback = WeightRescaling(0.125, **options)
    factors = rescaled(tmp_path, callback, module)
    expected = {name: 0.125 if re.fullmatch(chosen, name) else 1.0 for name in factors}
    assert factors == expected
    assert callback.names == [name for name, factor in factors.items() if factor == 0.125]


def test_norms_are_those_of_the_chosen_parameters_and_are_logged(tmp_path: Any) -> None:
    module = Foreign(Named())
    expected = torch.cat([p.detach().double().flatten() for p in module.net.body.parameters()]).norm().item()
    callback = WeightRescaling(0.25, include=["net.body.*"])
    logger = CSVLogger(tmp_path)
    trainer(tmp_path, callback, logger=logger, max_epochs=1).fit(module, train_loader())
    assert callback.norm_before == pytest.approx(expected, rel=1e-12)
    assert callback.norm_after == pytest.approx(expected / 4, rel=1e-12)
    text = Path(logger.log_dir, "metrics.csv").read_text()
    assert all(f"rescale/{name}" in text for name in ("factor", "norm_before", "norm_after"))


def test_tied_parameters_are_scaled_once(tmp_path: Any) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Linear(16, 16))
    net[2].weight = net[1].weight
    factors = rescaled(tmp_path, WeightRescaling(0.5, include=["net.2.weight"]), Foreign(net))
    assert factors["net.1.weight"] == factors["net.2.weight"] == 0.5
    assert factors["net.1.bias"] == factors["net.2.bias"] == 1.0


def test_not_again_after_a_resume_but_in_a_second_fit(tmp_path: Any) -> None:
    def run(epochs: int, module: Foreign, ckpt: Any = None) -> dict[str, torch.Tensor]:
        checkpoint = ModelCheckpoint(dirpath=tmp_path, save_last=True)
        callbacks = [WeightRescaling(0.5), checkpoint]
        fit = trainer(tmp_path, *callbacks, max_epochs=epochs, enable_checkpointing=True)
        # Without dropout and in fixed order, so that a run in two parts equals one in one part.
        fit.fit(module, torch.utils.data.DataLoader(train_loader().dataset, batch_size=6), ckpt_path=ckpt)
        return deepcopy(module.state_dict())

    def plain() -> Foreign:
        return Foreign(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))

    whole = run(2, plain())
    run(1, plain())
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert any(key.startswith("WeightRescaling") for key in checkpoint["callbacks"])
    again = run(2, plain(), ckpt=tmp_path / "last.ckpt")
    assert all(torch.equal(whole[name], again[name]) for name in whole)

    callback, module, watch = WeightRescaling(0.5), plain(), Watch()
    fit = trainer(tmp_path, callback, watch, max_epochs=1)
    fit.fit(module, train_loader())
    trained = deepcopy(module.state_dict())
    fit.fit_loop.max_epochs = 2
    fit.fit(module, train_loader())
    assert all(torch.equal(trained[name] * 0.5, watch.weights[name]) for name in trained)


def test_one_callback_rescales_every_fold(tmp_path: Any) -> None:
    callback, ratios = WeightRescaling(0.5), []
    for _ in range(3):
        module, watch = Foreign(nn.Sequential(nn.Flatten(), nn.Linear(16, 3))), Watch()
        start = deepcopy(module.state_dict())
        trainer(tmp_path, callback, watch, max_epochs=1).fit(module, train_loader())
        ratios += [float((watch.weights[name] / start[name]).mean()) for name in start]
        assert callback.norm_after == pytest.approx(0.5 * callback.norm_before)  # type: ignore[operator]
    assert ratios == [0.5] * 6


def test_resuming_a_run_without_or_with_another_rescaling_is_refused(tmp_path: Any) -> None:
    def run(*callbacks: pl.Callback, ckpt: Any = None) -> None:
        checkpoint = ModelCheckpoint(dirpath=tmp_path, save_last=True)
        fit = trainer(
            tmp_path, checkpoint, *callbacks, max_epochs=2 if ckpt else 1, enable_checkpointing=True
        )
        fit.fit(Foreign(Named()), train_loader(), ckpt_path=ckpt)

    run()
    with pytest.raises(ConfigurationError, match=r"ckpt_path.*without rescaling"):
        run(WeightRescaling(0.5), ckpt=tmp_path / "last.ckpt")
    (tmp_path / "last.ckpt").unlink()
    run(WeightRescaling(0.5))
    with pytest.raises(ConfigurationError, match=r"ckpt_path.*started with"):
        run(WeightRescaling(0.5, preset="weights"), ckpt=tmp_path / "last.ckpt")


def test_evaluation_does_not_rescale_and_fast_dev_run_does(tmp_path: Any) -> None:
    module, callback = Foreign(), WeightRescaling(0.5)
    before = deepcopy(module.state_dict())
    trainer(tmp_path, callback).validate(module, val_loader(), verbose=False)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    watch = Watch()
    trainer(tmp_path, callback, watch, fast_dev_run=True).fit(module, train_loader(), val_loader())
    assert torch.equal(watch.weights["net.0.weight"], before["net.0.weight"] * 0.5)


def test_batchnorm_statistics_are_those_of_the_rescaled_network(tmp_path: Any) -> None:
    class Record(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.batches.append(batch[1].clone())

        batches: list[torch.Tensor]

    orders = []
    for reestimate in (False, True):
        module, watch, record = Foreign(), Watch(), Record()
        record.batches = []
        callback = WeightRescaling(0.25, reestimate_batchnorm=reestimate)
        pl.seed_everything(3, verbose=False)
        trainer(tmp_path, callback, watch, record, max_epochs=1).fit(module, train_loader())
        orders.append(torch.cat(record.batches))
    assert torch.equal(*orders), "the re-estimation must not change the order of the data"
    x = train_loader().dataset.tensors[0]
    rescaled_conv = network()[0]
    maps = nn.functional.conv2d(x, rescaled_conv.weight * 0.25, rescaled_conv.bias * 0.25, padding=1).double()
    torch.testing.assert_close(
        watch.weights["net.1.running_mean"].double(), maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(
        watch.weights["net.1.running_var"].double(), maps.var((0, 2, 3)), rtol=2e-2, atol=1e-6
    )


def test_reestimation_leaves_a_persistent_worker_to_the_fit(tmp_path: Any) -> None:
    runs = []
    for reestimate in (False, True):
        module = Foreign()
        pl.seed_everything(3, verbose=False)
        loader = DataLoader(images(12), batch_size=3, shuffle=True, num_workers=1, persistent_workers=True)
        trainer(tmp_path, WeightRescaling(0.5, reestimate_batchnorm=reestimate)).fit(module, loader)
        runs.append(module)
    # In training mode the network does not depend on the statistics: only the data could tell the runs apart.
    pairs = zip(runs[0].parameters(), runs[1].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("how", ["module", "submodule", "in place"])
def test_names_of_compiled_modules_are_the_plain_ones(tmp_path: Any, how: str) -> None:
    module: Any = Foreign(Named())
    if how == "submodule":
        module.net = torch.compile(module.net, backend="eager")
    elif how == "in place":
        module.net.compile(backend="eager")
    else:
        module = torch.compile(module, backend="eager")
    callback = WeightRescaling(0.5, include=["net.head.*"])
    trainer(tmp_path, callback, fast_dev_run=True).fit(module, train_loader())
    assert callback.names == ["net.head.weight", "net.head.bias"]


class Replicas(nn.Module):
    """Three linear networks side by side."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first = nn.Parameter(torch.randn(3, 5, 16))
        self.shift = nn.Parameter(torch.randn(3))
        self.readout = nn.Parameter(torch.randn(3, 3, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ni,rhi,roh->no", x.flatten(1), self.first, self.readout) + self.shift


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_factor_for_each_replica(tmp_path: Any, dtype: torch.dtype) -> None:
    factors = [0.1, 3.0, 0.7]
    logger, watch = CSVLogger(tmp_path), Watch()
    module = Foreign(Replicas()).to(dtype)
    before = deepcopy(module.state_dict())
    callback = WeightRescaling(tuple(factors), exclude=["net.readout"])
    data = DataLoader([(x.to(dtype), y) for x, y in images(6)], batch_size=3)
    trainer(tmp_path, callback, watch, logger=logger, max_epochs=1).fit(module, data)
    for name, value in watch.weights.items():
        for r, factor in enumerate(factors):
            alone = before[name][r] if name == "net.readout" else before[name][r] * factor
            assert torch.equal(value[r], alone)
    chosen = [before[name].double() for name in ("net.first", "net.shift")]
    after = [watch.weights[name].double() for name in ("net.first", "net.shift")]
    for norm, tensors in ((callback.norm_before, chosen), (callback.norm_after, after)):
        assert norm == pytest.approx(torch.cat([t.flatten() for t in tensors]).norm().item(), rel=1e-12)
    with Path(logger.log_dir, "metrics.csv").open() as file:
        logged = next(csv.DictReader(file))
    assert float(logged["rescale/factor"]) == pytest.approx(sum(factors) / 3)
    assert callback.state_key == WeightRescaling(0.5, exclude=["net.readout"]).state_key


def test_factors_of_replicas_are_not_applied_again_after_a_resume(tmp_path: Any) -> None:
    def run(epochs: int, ckpt: Any = None) -> dict[str, torch.Tensor]:
        module, data = Foreign(Replicas()), DataLoader(images(12), batch_size=6)
        callbacks = [WeightRescaling([0.5, 1.0, 0.25]), ModelCheckpoint(dirpath=tmp_path, save_last=True)]
        fit = trainer(tmp_path, *callbacks, max_epochs=epochs, enable_checkpointing=True)
        fit.fit(module, data, ckpt_path=ckpt)
        return deepcopy(module.state_dict())

    whole = run(2)
    run(1)
    again = run(2, ckpt=tmp_path / "last.ckpt")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize(
    ("net", "factors", "message"),
    [
        (
            Replicas,
            [0.5, 0.5],
            r"factor: 2 factors for 'net.first' of shape \(3, 5, 16\); give one a replica",
        ),
        (Named, [0.5] * 8, r"factor: 8 factors for 'net.head.weight' of shape \(3, 8\)"),
    ],
)
def test_factors_for_another_number_of_replicas_are_refused(
    tmp_path: Any, net: Any, factors: list[float], message: str
) -> None:
    module = Foreign(net())
    before = deepcopy(module.state_dict())
    with pytest.raises(ConfigurationError, match=message) as caught:
        trainer(tmp_path, WeightRescaling(factors)).fit(module, train_loader())
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("factors", "message"), [([], r"factor: \[\] is no factor"), ([0.5, -1.0], "factor: -1.0 ")]
)
def test_bad_lists_of_factors_are_refused(factors: list[float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        WeightRescaling(factors)


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_bad_factors_are_refused(factor: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"^factor: {factor} [^\n]*$"):
        WeightRescaling(factor)


def test_bad_preset_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="preset: 'none'"):
        WeightRescaling(0.5, preset="none")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"include": ["net.haed.weight"]},
            "include: 'net.haed.weight' is unknown; did you mean 'net.head.weight'",
        ),
        ({"exclude": ["nothing*"]}, r"exclude: 'nothing\*' is unknown"),
        ({"exclude": ["*"]}, "leave no parameter"),
    ],
)
def test_patterns_that_choose_nothing_are_refused(tmp_path: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        trainer(tmp_path, WeightRescaling(0.5, **options)).fit(Foreign(Named()), train_loader())


def test_backbone_preset_needs_a_readout_it_can_recognise() -> None:
    with pytest.raises(ConfigurationError, match="'backbone' finds no readout"):
        WeightRescaling(0.5, preset="backbone").select(Foreign())


class SomeEMA(pl.Callback):
    """An average by somebody else."""


class Derived(SomeEMA):
    """Recognised by its base class."""


def test_averaging_callbacks_that_hide_what_they_do_are_refused(tmp_path: Any) -> None:
    with pytest.raises(ConfigurationError, match="Derived averages weights"):
        trainer(tmp_path, WeightRescaling(0.5), Derived()).fit(Foreign(), train_loader())


class OwnNorms(nn.Module):
    """A readout, batch normalization in front of it, and a layer that training data never reach."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8))
        self.spare = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


@pytest.mark.parametrize(
    ("net", "options", "expected"),
    [
        (
            Named,
            {},
            ["the running statistics of batch normalization (net.body.2) belong to the weights before"],
        ),
        (Named, {"reestimate_batchnorm": True}, []),
        (Named, {"include": ["net.head.*"]}, []),
        (Replicas, {}, []),
        (
            OwnNorms,
            {"reestimate_batchnorm": True},
            ["no training batch reaches batch normalization net.spare:"],
        ),
    ],
)
def test_stale_statistics_are_said_once(tmp_path: Any, net: Any, options: Any, expected: list[str]) -> None:
    callback, said = WeightRescaling(0.5, **options), []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(1 if "reestimate_batchnorm" in options else 2):
            trainer(tmp_path, callback, fast_dev_run=True).fit(Foreign(net()), train_loader())
    said = [str(w.message) for w in caught if str(w.message).startswith("WeightRescaling")]
    assert len(said) == len(expected)
    assert all(text in line for text, line in zip(expected, said, strict=True))
