import csv
import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from callback_helpers import Foreign, images, network, train_loader, trainer, val_loader
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from lit_aux.callbacks import RepresentationDimensionality, WeightRescaling
from lit_aux.errors import ConfigurationError

CONV, NORM, RELU, READOUT = "net.0", "net.1", "net.2", "net.5"


def brute_force(x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """PR of both and the feature-paired ENSD from explicit D x D covariances."""
    cx, cy = (torch.cov(t.double().flatten(1).T) for t in (x, y))
    pr_x, pr_y = (c.trace() ** 2 / (c @ c).trace() for c in (cx, cy))
    ensd = (cx @ cy).trace() * cx.trace() * cy.trace() / ((cx @ cx).trace() * (cy @ cy).trace())
    return float(pr_x), float(pr_y), float(ensd)


def outputs(net: nn.Module, x: Tensor, layer: int) -> Tensor:
    """What a Sequential's layer gives, by running it layer by layer."""
    with torch.no_grad():
        for module in list(net.children())[: layer + 1]:
            x = module(x)
            x = x.clone()
    return x


class FirstWeights(pl.Callback):
    net: nn.Module

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.net = deepcopy(pl_module.net)


def check(callback: RepresentationDimensionality, old: nn.Module, new: nn.Module, x: Tensor) -> None:
    """Compare every row with measures of activations taken by hand."""
    assert callback.results
    for row in callback.results:
        index = int(row.layer.split(".")[1])
        expected = brute_force(outputs(old.eval(), x, index), outputs(new.eval(), x, index))
        assert (row.pr_before, row.pr_after, row.ensd) == pytest.approx(expected, rel=1e-5)
        assert row.pr_ratio == row.pr_after / row.pr_before
        assert row.ensd_ratio == row.ensd / row.pr_after


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_measures_equal_brute_force_on_activations_taken_by_hand(tmp_path: Any, order: Any) -> None:
    # The in-place activation after NORM would overwrite what a hook kept by reference.
    callback = RepresentationDimensionality([CONV, NORM, RELU, READOUT], num_samples=17, batch_size=5)
    pair = [WeightRescaling(0.5), callback]
    first, module = FirstWeights(), Foreign()
    trainer(tmp_path, first, *(pair[i] for i in order)).fit(module, train_loader(), val_loader())
    assert [row.layer for row in callback.results] == [CONV, NORM, RELU, READOUT]
    check(callback, first.net, module.net, images(20, seed=1).tensors[0][:17])
    assert callback.results[0].pr_before != callback.results[0].pr_after


def test_default_layers_are_the_children_with_parameters(tmp_path: Any) -> None:
    callback = RepresentationDimensionality(picture=False)
    trainer(tmp_path, callback).fit(Foreign(), train_loader(), val_loader())
    assert [row.layer for row in callback.results] == [CONV, NORM, READOUT]


def test_training_set_is_probed_where_there_is_no_validation_set(tmp_path: Any) -> None:
    first, module = FirstWeights(), Foreign()
    callback = RepresentationDimensionality([CONV], num_samples=100)
    trainer(tmp_path, first, callback).fit(module, train_loader())
    # All 24 inputs: their order does not matter to the measures.
    check(callback, first.net, module.net, images(24).tensors[0])


def test_probe_may_be_inputs_a_loader_or_a_function(tmp_path: Any) -> None:
    x = images(30, seed=5).tensors[0]
    loader = DataLoader(images(30, seed=5), batch_size=7)
    for probe in (x, loader, lambda trainer: x.clone()):
        first, module = FirstWeights(), Foreign()
        callback = RepresentationDimensionality([READOUT], probe=probe)
        trainer(tmp_path, first, callback, max_epochs=1).fit(module, train_loader(), val_loader())
        check(callback, first.net, module.net, x)


def test_batches_of_any_shape_are_read_with_to_input(tmp_path: Any) -> None:
    x = images(12, seed=5).tensors[0]
    probe = [{"meta": "text", "image": (x[i : i + 6], 0)} for i in (0, 6)]
    first, module = FirstWeights(), Foreign()
    callback = RepresentationDimensionality(
        [READOUT], probe=DataLoader(probe, batch_size=None), to_input=lambda batch: batch["image"][0]
    )
    trainer(tmp_path, first, callback, max_epochs=1).fit(module, train_loader())
    check(callback, first.net, module.net, x)


@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize("batchnorm", ["eval", "train"])
def test_training_is_bit_for_bit_what_it_is_without(tmp_path: Any, validation: bool, batchnorm: Any) -> None:
    runs = []
    for callbacks in ([], [RepresentationDimensionality(every_n_epochs=1, batchnorm=batchnorm)]):
        module = Foreign()
        pl.seed_everything(5, verbose=False)
        own = torch.Generator().manual_seed(3)
        loader = DataLoader(images(24), batch_size=6, shuffle=True, generator=own)
        run = trainer(tmp_path, *callbacks, max_epochs=3)
        run.fit(module, loader, val_loader() if validation else None)
        runs.append({**module.state_dict(), "rng": torch.get_rng_state(), "own": own.get_state()})
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_iterable_training_data_with_state_of_its_own_is_not_disturbed(tmp_path: Any) -> None:
    class Stream(IterableDataset):
        def __init__(self) -> None:
            self.generator = torch.Generator().manual_seed(1)

        def __iter__(self) -> Any:
            for _ in range(18):
                yield torch.randn(1, 4, 4, generator=self.generator), torch.tensor(1)

    runs = []
    for callbacks in ([], [RepresentationDimensionality(num_samples=8)]):
        module, data = Foreign(), Stream()
        trainer(tmp_path, *callbacks).fit(module, DataLoader(data, batch_size=6))
        runs.append({**module.state_dict(), "own": data.generator.get_state()})
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_nothing_is_left_behind(tmp_path: Any) -> None:
    module = Foreign()
    module.net[1].eval()
    seen: list[list[bool]] = []

    class Modes(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            seen.append([m.training for m in pl_module.modules()])

    callback = RepresentationDimensionality(every_n_epochs=1)
    trainer(tmp_path, callback, Modes()).fit(module, train_loader(), val_loader())
    modes = [m is not module.net[1] for m in module.modules()]
    assert seen == [modes, modes]
    assert not any(m._forward_hooks for m in module.modules())
    assert not callback._pieces
    assert callback._before is None


def test_batch_statistics_on_request(tmp_path: Any) -> None:
    callback = RepresentationDimensionality([NORM], batchnorm="train", batch_size=20)
    first, module = FirstWeights(), Foreign()
    trainer(tmp_path, first, callback).fit(module, train_loader(), val_loader())
    x, (row,) = images(20, seed=1).tensors[0], callback.results
    expected = brute_force(outputs(first.net.train(), x, 1), outputs(deepcopy(module.net).train(), x, 1))
    assert (row.pr_before, row.pr_after, row.ensd) == pytest.approx(expected, rel=1e-5)


def test_spatial_mean(tmp_path: Any) -> None:
    callback = RepresentationDimensionality([CONV], spatial="mean")
    first, module = FirstWeights(), Foreign()
    trainer(tmp_path, first, callback).fit(module, train_loader(), val_loader())
    x, (row,) = images(20, seed=1).tensors[0], callback.results
    expected = brute_force(outputs(first.net, x, 0).mean((2, 3)), outputs(module.net, x, 0).mean((2, 3)))
    assert (row.pr_before, row.pr_after, row.ensd) == pytest.approx(expected, rel=1e-5)


class Tokens(nn.Module):
    """Gives a tuple whose first tensor is (n, tokens, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return self.linear(x.flatten(1, 2)), "more"


class TokenNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head, self.unused = Tokens(), nn.Linear(5, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tokens(x)[0].mean(1))


def test_tuples_and_tokens(tmp_path: Any) -> None:
    module, x = Foreign(TokenNet()), images(20, seed=1).tensors[0]
    before = deepcopy(module.net)
    callback = RepresentationDimensionality(["net.tokens"], spatial="mean")
    trainer(tmp_path, callback).fit(module, train_loader(), val_loader())
    (row,) = callback.results
    expected = brute_force(before.tokens(x)[0].detach().mean(1), module.net.tokens(x)[0].detach().mean(1))
    assert (row.pr_before, row.pr_after, row.ensd) == pytest.approx(expected, rel=1e-5)


def test_layers_that_do_not_run_are_refused_by_name_and_skipped_by_default(tmp_path: Any) -> None:
    callback = RepresentationDimensionality(["net.head", "net.unused"])
    with pytest.raises(ConfigurationError, match=r"layers: 'net\.unused' does not run"):
        trainer(tmp_path, callback).fit(Foreign(TokenNet()), train_loader(), val_loader())
    callback = RepresentationDimensionality()
    trainer(tmp_path, callback).fit(Foreign(TokenNet()), train_loader(), val_loader())
    assert [row.layer for row in callback.results] == ["net.tokens", "net.head"]


@pytest.mark.parametrize("memory", [1, 1 << 30])
def test_layers_are_measured_alike_in_one_group_or_many(
    tmp_path: Any, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_aux.callbacks.representation_dimensionality.GROUP_BYTES", memory)
    callback, first, module = RepresentationDimensionality(), FirstWeights(), Foreign()
    trainer(tmp_path, first, callback).fit(module, train_loader(), val_loader())
    check(callback, first.net, module.net, images(20, seed=1).tensors[0])


def compiled(how: str) -> Any:
    module = Foreign()
    if how == "module":
        return torch.compile(module, backend="eager")
    if how == "module in place":
        module.compile(backend="eager")
    elif how == "submodule":
        module.net = torch.compile(module.net, backend="eager")
    else:
        module.net.compile(backend="eager")
    return module


@pytest.mark.parametrize("how", ["module", "module in place", "submodule", "submodule in place"])
def test_compiled_modules_are_measured(tmp_path: Any, how: str) -> None:
    plain = Foreign(deepcopy(network()))
    plain.net[4].p = 0.0
    module = compiled(how)
    inner = getattr(module, "_orig_mod", module)
    getattr(inner.net, "_orig_mod", inner.net)[4].p = 0.0
    rows = []
    for each in (plain, module):
        callback = RepresentationDimensionality([CONV, READOUT], every_n_epochs=1)
        loader = DataLoader(images(24), batch_size=6)
        trainer(tmp_path, callback).fit(each, loader, val_loader())
        rows.append([(r.layer, pytest.approx(r.pr_after, rel=1e-4)) for r in callback.results])
    assert rows[0] == [(r.layer, r.pr_after) for r in callback.results]


def test_bf16_training_is_measured_in_its_own_precision(tmp_path: Any) -> None:
    callback, first, module = RepresentationDimensionality([CONV, READOUT]), FirstWeights(), Foreign()
    trainer(tmp_path, first, callback, precision="bf16-mixed").fit(module, train_loader(), val_loader())
    x = images(20, seed=1).tensors[0]
    with torch.autocast("cpu", torch.bfloat16):
        pairs = [(outputs(first.net.eval(), x, i), outputs(module.net.eval(), x, i)) for i in (0, 5)]
    assert pairs[0][0].dtype == torch.bfloat16
    for row, (old, new) in zip(callback.results, pairs, strict=True):
        # The same numbers as float64 statistics of the rounded activations: nothing else was rounded.
        assert (row.pr_before, row.pr_after, row.ensd) == pytest.approx(brute_force(old, new), rel=1e-9)


def test_a_resumed_run_compares_with_its_true_beginning(tmp_path: Any) -> None:
    def run(epochs: int, folder: Any, module: Foreign, ckpt: Any = None) -> RepresentationDimensionality:
        callback = RepresentationDimensionality()
        save = ModelCheckpoint(dirpath=folder, save_last=True)
        loader = DataLoader(images(24), batch_size=6)
        run = trainer(tmp_path, callback, save, max_epochs=epochs, enable_checkpointing=True)
        run.fit(module, loader, val_loader(), ckpt_path=ckpt)
        return callback

    def module() -> Foreign:
        result = Foreign()
        result.net[4].p = 0.0
        return result

    whole = run(3, tmp_path / "whole", module())
    run(1, tmp_path / "part", module())
    torch.load(tmp_path / "part" / "last.ckpt", weights_only=True)
    other = module()
    torch.nn.init.ones_(other.net[5].weight)
    resumed = run(3, tmp_path / "part", other, ckpt=tmp_path / "part" / "last.ckpt")
    assert resumed.results == whole.results


class Phased(Foreign):
    """Says which phase it is in, as modules with phases do."""

    log_prefix = "first/"


def test_results_accumulate_over_phases_and_each_starts_afresh(tmp_path: Any) -> None:
    module, callback, first = Phased(), RepresentationDimensionality([CONV]), FirstWeights()
    run = trainer(tmp_path, callback, first, max_epochs=1)
    run.fit(module, train_loader(), val_loader())
    module.log_prefix = "second/"
    run.fit_loop.max_epochs = 2
    run.fit(module, train_loader(), val_loader())
    run.fit(module, train_loader(), val_loader())  # max_epochs is reached: nothing is trained
    assert [(row.phase, row.layer) for row in callback.results] == [("first", CONV), ("second", CONV)]
    assert callback.results[0].pr_after == callback.results[1].pr_before
    assert (tmp_path / "first_dimensionality.png").stat().st_size > 1000
    assert (tmp_path / "second_dimensionality.png").stat().st_size > 1000


def test_everything_is_logged_through_any_logger(tmp_path: Any) -> None:
    module, callback = Phased(), RepresentationDimensionality([CONV], every_n_epochs=2)
    logger = CSVLogger(tmp_path)
    trainer(tmp_path, callback, logger=logger, max_epochs=5).fit(module, train_loader(), val_loader())
    rows = list(csv.DictReader(Path(logger.log_dir, "metrics.csv").read_text().splitlines()))
    logged = [row for row in rows if row[f"first/{CONV}/ensd"]]
    assert [int(row["step"]) for row in logged] == [8, 16, 20]
    for key in ("pr_before", "pr_after", "ensd", "pr_ratio", "ensd_ratio"):
        assert float(logged[-1][f"first/{CONV}/{key}"]) == pytest.approx(getattr(callback.results[0], key))


def test_fast_dev_run_measures_and_writes_no_file(tmp_path: Any) -> None:
    callback = RepresentationDimensionality()
    trainer(tmp_path, callback, fast_dev_run=True).fit(Foreign(), train_loader(), val_loader())
    assert len(callback.results) == 3
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_give_undefined(tmp_path: Any) -> None:
    class Explode(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            with torch.no_grad():
                pl_module.net[0].weight.fill_(math.nan)

    callback = RepresentationDimensionality([CONV])
    trainer(tmp_path, callback, Explode()).fit(Foreign(), train_loader(), val_loader())
    assert callback.results[0].verdict == "undefined"


@pytest.mark.parametrize(
    "options",
    [
        {"num_samples": 1},
        {"num_samples": 3, "unbiased": True},
        {"batch_size": 1},
        {"every_n_epochs": 0},
        {"nested_below": 0.0},
        {"replaced_below": math.nan},
        {"spatial": "max"},
        {"pairing": "neuron"},
        {"batchnorm": "off"},
        {"layers": []},
    ],
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{next(iter(options))}: [^\n]*$"):
        RepresentationDimensionality(**options)


class Untrained(Foreign):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise AssertionError("training has started")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: RepresentationDimensionality(["net.7"]),
            r"layers: 'net\.7' is unknown; did you mean 'net\.",
        ),
        (
            lambda: RepresentationDimensionality(probe=torch.zeros(1, 1, 4, 4)),
            "probe: it has 1 inputs",
        ),
        (
            lambda: RepresentationDimensionality(probe=torch.zeros(3, 1, 4, 4), unbiased=True),
            "probe: it has 3 inputs; unbiased=True needs at least 4",
        ),
        (
            lambda: RepresentationDimensionality(to_input=lambda b: b[0][:0]),
            "to_input: .* returns no tensor",
        ),
    ],
)
def test_bad_probes_and_layers_are_refused_before_training(
    tmp_path: Any, make: Callable[[], RepresentationDimensionality], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        trainer(tmp_path, make()).fit(Untrained(), train_loader(), val_loader())
