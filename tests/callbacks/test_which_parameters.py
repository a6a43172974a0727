"""Which parameters callbacks act on: tied, frozen, complex, integer, lazy, and sparse ones."""

import math
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from callback_helpers import Foreign, train_loader, trainer
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning
from task_helpers import Stranger, data
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_aux.callbacks import (
    L2SP,
    FisherTrace,
    GradientCoherence,
    GradientConflict,
    KMeansInertia,
    Sharpness,
    WeightRescaling,
    WiSEFT,
)
from lit_aux.callbacks._layers import resolve_layers
from lit_aux.callbacks._parameters import shared_parameters
from lit_aux.errors import ConfigurationError
from lit_aux.functional import fisher_trace, gradient_coherence, gradient_cosine


def told(caplog: Any, user: str) -> list[str]:
    return [r.message for r in caplog.records if r.message.startswith(user)]


@pytest.fixture
def spoken(caplog: Any) -> Any:
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        yield caplog


class Quiet(pl.LightningModule):
    """Weights of which ``used`` are trained by a loss of zero: only what callbacks add moves them."""

    def __init__(self, lr: float = 1.0, **parameters: Tensor) -> None:
        super().__init__()
        self.shared, self.readout = nn.Module(), nn.Module()
        for name, value in parameters.items():
            owner = self.readout if name.startswith("out") else self.shared
            owner.register_parameter(
                name, nn.Parameter(value, value.is_floating_point() or value.is_complex())
            )
        self.lr = lr

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        held = [0 * p.abs().sum() for p in self.parameters() if p.requires_grad]
        return sum(held, torch.zeros((), requires_grad=True))

    def train_dataloader(self) -> Any:
        return DataLoader(torch.zeros(4, 1), batch_size=1)  # type: ignore[arg-type]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(
            [p for p in self.parameters() if p.is_floating_point() or p.is_complex()], self.lr
        )


class Frozen(BaseFinetuning):
    """Freezes a module until an epoch."""

    def __init__(self, until: int) -> None:
        super().__init__()
        self.until = until

    def freeze_before_training(self, pl_module: Any) -> None:
        pl_module.shared.requires_grad_(False)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == self.until:
            pl_module.shared.requires_grad_(True)


# L2SP


@pytest.mark.parametrize("readout", [False, True])
def test_what_is_unfrozen_later_is_held_near_its_start(tmp_path: Any, readout: bool) -> None:
    out = {"out": torch.ones(1)} if readout else {"other": torch.zeros(1)}
    module = Quiet(w=torch.full((4,), 0.5), lr=0.1, **out)
    l2_sp = L2SP(alpha=1.0, beta=1.0, shared=["shared.*"])
    trainer(tmp_path, l2_sp, Frozen(1), max_epochs=6).fit(module)
    assert module.shared.w.norm().item() == pytest.approx(1.0)  # pulled towards 0 it would be .9 ** 20
    if readout:
        assert module.readout.out.item() == pytest.approx(0.9**24)


def test_a_penalty_on_what_was_moved_while_frozen_pulls_it_back(tmp_path: Any) -> None:
    class Move(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                with torch.no_grad():
                    pl_module.shared.w.add_(1.0)

    module = Quiet(w=torch.full((4,), 0.5), out=torch.ones(1), lr=0.5)
    trainer(tmp_path, L2SP(1.0, 0.0, shared=["shared.*"]), Frozen(1), Move(), max_epochs=2).fit(module)
    torch.testing.assert_close(module.shared.w.detach(), torch.full((4,), 0.5 + 0.5**4))


class Foundation(pl.LightningModule):
    """A module as Lightning's ``BackboneFinetuning`` wants it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.head = nn.Linear(16, 8), nn.Linear(8, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.head(self.backbone(batch[0].flatten(1))), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.5)


def test_with_backbone_finetuning(tmp_path: Any) -> None:
    distances = []
    for alpha in (0.0, 1.0):
        module, l2_sp = Foundation(), L2SP(alpha, 0.0, shared=["backbone.*"])
        start = module.backbone.weight.detach().clone()
        unfreeze = BackboneFinetuning(1, lambda epoch: 1.0, backbone_initial_lr=0.5, should_align=False)
        found: dict[int, bool] = {}

        class Watch(pl.Callback):
            def on_train_epoch_end(self, trainer: Any, pl_module: Any, start=start, found=found) -> None:
                found[trainer.current_epoch] = torch.equal(pl_module.backbone.weight, start)

        trainer(tmp_path, l2_sp, unfreeze, Watch(), max_epochs=4).fit(module, train_loader())
        assert found == {0: True, 1: False, 2: False, 3: False}
        distances.append(float((module.backbone.weight - start).norm()))
    assert 0 < distances[1] < distances[0] / 2


def test_layers_that_come_later_start_where_they_begin(tmp_path: Any) -> None:
    class Grow(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                pl_module.shared.new = nn.Parameter(torch.full((1,), 3.0))
                trainer.optimizers[0].add_param_group({"params": [pl_module.shared.new]})

    module = Quiet(w=torch.ones(1), out=torch.ones(1), lr=0.5)
    trainer(tmp_path, L2SP(1.0, 1.0, shared=["shared.*"]), Grow(), max_epochs=3).fit(module)
    assert module.shared.new.item() == 3.0
    assert module.shared.w.item() == 1.0


def test_a_penalty_that_holds_nothing_says_so(tmp_path: Any) -> None:
    module = Quiet(w=torch.ones(1), out=torch.ones(1))
    with pytest.warns(UserWarning, match="L2SP: shared: none of the shared parameters trained"):
        trainer(tmp_path, L2SP(shared=["shared.*"]), Frozen(9)).fit(module)


def test_complex_weights_have_the_distance_of_their_moduli(tmp_path: Any) -> None:
    module = Quiet(w=torch.tensor([3 + 4j]), out=torch.tensor([2j]), lr=0.5)

    class Move(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            pl_module.shared.w.data += 1j

    l2_sp = L2SP(1.0, 1.0, shared=["shared.*"])
    found: dict[str, float] = {}

    class Logger(pl.loggers.logger.DummyLogger):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            found.update(metrics)

    fit = trainer(tmp_path, l2_sp, Move(), logger=Logger(), max_epochs=1, limit_train_batches=1)
    fit.fit(module)
    assert found["l2_sp/distance"] == pytest.approx(0.5)
    assert found["l2_sp/penalty"] == pytest.approx((0.25 + 1.0) / 2)
    assert complex(module.shared.w) == 3 + 4.5j
    assert complex(module.readout.out) == 1j


# Tied parameters


class Tied(Stranger):
    """A Stranger that reuses its layer, and has an integer and a complex parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.again = self.shared
        self.steps = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


@pytest.mark.parametrize("pattern", ["again.*", "shared.*", "again.0.weight"])
def test_tied_parameters_answer_to_each_of_their_names(pattern: str) -> None:
    module = Tied()
    expected = ["shared.0.weight", "shared.0.bias"][: 1 if "weight" in pattern else 2]
    for frozen in (False, True):
        assert list(shared_parameters(module, [pattern], "me", frozen=frozen)) == expected
    assert WeightRescaling(0.5, include=[pattern]).select(module).keys() <= {
        f"{layer}.{rest}" for layer in ("shared", "again") for rest in ("0.weight", "0.bias")
    }


def test_tied_layers_answer_to_each_of_their_names() -> None:
    module = Tied()
    assert resolve_layers(module, ["again.0"]) == ["again.0"]
    assert resolve_layers(module, ["*.0"]) == ["shared.0"]
    assert resolve_layers(module, ["shared.0", "again.0"]) == ["shared.0", "again.0"]
    assert resolve_layers(module, None) == resolve_layers(Stranger(), None)


@pytest.mark.parametrize("kind", [GradientConflict, Sharpness, FisherTrace, GradientCoherence])
def test_diagnostics_find_tied_parameters_by_any_name(tmp_path: Any, kind: Any) -> None:
    options: dict[str, Any] = {"every_n_steps": 1} if kind is GradientConflict else {"every_n_epochs": 1}
    options |= {"batch_size": 8} | ({"iterations": 2} if kind is Sharpness else {})
    rows = []
    for pattern in ("shared.*", "again.*"):
        callback = kind(shared=[pattern], data=data(), **options)
        trainer(tmp_path, callback, max_epochs=1).fit(Tied())
        rows.append([(row.task, row.measure, row.value) for row in callback.results])
    assert rows[0] == rows[1] != []


def test_weights_are_measured_by_any_of_their_names(tmp_path: Any) -> None:
    values = []
    for name in ("shared.0", "again.0", "again.0.weight"):
        callback = KMeansInertia(name, k=2)
        trainer(tmp_path, callback, max_epochs=1).fit(Tied())
        values.append([row.values for row in callback.results])
    assert values[0] == values[1] == values[2] != []
    with pytest.raises(ConfigurationError, match="layer: 'steps' is of int64; name weights of real numbers"):
        trainer(tmp_path, KMeansInertia("steps", k=1)).fit(Tied())


@pytest.mark.parametrize("callback", [L2SP(), FisherTrace(data=data())])
def test_integers_are_skipped_and_named(tmp_path: Any, spoken: Any, callback: Any) -> None:
    trainer(tmp_path, callback, max_epochs=1).fit(Tied())
    user = type(callback).__name__
    assert told(spoken, user) == [f"{user}: skipped what is integer or quantised: steps (int64)"]


# Parameters that do not train yet


@pytest.mark.parametrize("kind", [Sharpness, FisherTrace, GradientCoherence, GradientConflict])
def test_diagnostics_begin_when_something_trains(tmp_path: Any, kind: Any) -> None:
    options: dict[str, Any] = {"every_n_steps": 1} if kind is GradientConflict else {"every_n_epochs": 1}
    options |= {"batch_size": 8} | ({"iterations": 2} if kind is Sharpness else {})
    callback = kind(data=data(), **options)
    with pytest.warns(
        UserWarning, match=f"{kind.__name__}: shared: none of the shared parameters trains yet"
    ):
        trainer(tmp_path, callback, Frozen(1), max_epochs=2).fit(Stranger())
    assert {row.epoch for row in callback.results} == {2}


# Integers, complex numbers, sparse gradients, lazy layers


class Complex(Stranger):
    """A Stranger whose shared layer has complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Sequential(Modulus())


class Modulus(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.weight = nn.Parameter(torch.randn(5, 7, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.complex64) @ self.weight).abs()


class Real(Modulus):
    """The same with two real numbers for each complex one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.view_as_real(self.weight.detach()).clone())

    def forward(self, x: Tensor) -> Tensor:
        return (torch.einsum("ni,ijk->njk", x, self.weight)).norm(dim=2)


@pytest.mark.parametrize("kind", [FisherTrace, GradientCoherence, GradientConflict])
def test_complex_weights_are_measured_as_pairs_of_real_ones(tmp_path: Any, kind: Any) -> None:
    options: dict[str, Any] = {"every_n_steps": 1} if kind is GradientConflict else {"every_n_epochs": 1}
    values = []
    for layer in (Modulus, Real):
        module = Stranger()
        module.shared = nn.Sequential(layer())
        callback = kind(shared=["shared.*"], data=data(), batch_size=8, **options)
        trainer(tmp_path, callback, max_epochs=1).fit(module)
        values.append([row.value for row in callback.results])
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_complex_gradients_by_hand() -> None:
    a, b = torch.tensor([1 + 1j, 2.0]), torch.tensor([1j, 1 - 1j])
    assert gradient_cosine(a, b).item() == pytest.approx((1 + 2) / math.sqrt(6 * 3))
    moments = gradient_coherence([[a], [b]], batch_size=1, total=2)
    mean = (a + b) / 2
    assert moments.squared_norm == pytest.approx(float(mean.abs().square().sum()))
    assert moments.trace == pytest.approx(float((a - b).abs().square().sum()) / 4)
    w = torch.randn(3, 2, dtype=torch.complex64)

    def logits(held: Any, x: Tensor) -> Tensor:
        return torch.view_as_real(x.to(torch.complex64) @ held["w"]).flatten(1)

    def logits_of_real(held: Any, x: Tensor) -> Tensor:
        return torch.einsum("ni,ijk->njk", x, held["w"]).flatten(1)

    x = torch.randn(6, 3)
    traces = [
        fisher_trace(function, {"w": value}, x, generator=torch.Generator().manual_seed(0))
        for function, value in ((logits, w), (logits_of_real, torch.view_as_real(w)))
    ]
    assert traces[0] == pytest.approx(traces[1], rel=1e-5)


def test_sharpness_has_no_box_of_complex_weights(tmp_path: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Sharpness: shared: 'shared.0.weight' is complex[^\n]*$"):
        trainer(tmp_path, Sharpness(data=data())).fit(Complex())


class Words(Stranger):
    """A Stranger whose inputs go through an embedding with sparse gradients."""

    def __init__(self, sparse: bool = True) -> None:
        super().__init__()
        self.words = nn.Embedding(4, 5, sparse=sparse)

    def task_outputs(self, task: str, x: Tensor) -> Tensor:
        return self.heads[task](self.shared(x + self.embed((x[:, 0] > 0).long())))

    def embed(self, index: Tensor) -> Tensor:
        return self.words(index)


class Hidden(Words):
    """Sparse without a layer that says so."""

    def __init__(self) -> None:
        super().__init__(sparse=False)

    def embed(self, index: Tensor) -> Tensor:
        return nn.functional.embedding(index, self.words.weight, sparse=True)


@pytest.mark.parametrize("module", [Words, Hidden])
@pytest.mark.parametrize("kind", [L2SP, GradientConflict, GradientCoherence])
def test_sparse_gradients_are_refused(tmp_path: Any, kind: Any, module: Any) -> None:
    options = {L2SP: {}, GradientConflict: {"every_n_steps": 1, "data": data()}}
    callback = kind(**options.get(kind, {"batch_size": 8, "data": data()}))
    with pytest.raises(
        ConfigurationError, match=rf"^{kind.__name__}: 'words[^\n]* has sparse gradients[^\n]*$"
    ):
        trainer(tmp_path, callback, max_epochs=1).fit(module())


@pytest.mark.parametrize("callback", [WeightRescaling(0.5), L2SP(shared=["net.*"])])
def test_layers_without_values_are_refused(tmp_path: Any, callback: Any) -> None:
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(ConfigurationError, match=r"'net\.1\.weight' has no value yet[^\n]*$"):
        trainer(tmp_path, callback).fit(Foreign(net), train_loader())


def test_mixtures_of_complex_weights_and_integers(tmp_path: Any, spoken: Any) -> None:
    class Both(Complex):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.arange(3), requires_grad=False)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

    module = Both()
    start = module.shared[0].weight.detach().clone()
    split = {name: data()["train"] for name in ("train", "val", "test")}
    wise = WiSEFT([0.0], keep_best=True, data=split)
    trainer(tmp_path, wise, max_epochs=1).fit(module)
    assert torch.equal(module.shared[0].weight, start)
    assert told(spoken, "WiSEFT") == ["WiSEFT: skipped what is integer or quantised: table (int64)"]
