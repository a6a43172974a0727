"""What ``preset="backbone"`` leaves out: the last readout of a network, and nothing else of such a name."""

from collections import OrderedDict
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from callback_helpers import Foreign, train_loader, trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from task_helpers import Stranger
from torch import Tensor, nn

from lit_aux.callbacks import WeightRescaling
from lit_aux.errors import ConfigurationError
from lit_aux.models import MultiHeadNet, ReLUNet, TimmBackbone
from lit_aux.modules import SingleTaskModule


def linear() -> nn.Module:
    return nn.Linear(4, 4)


class Attention(nn.Module):
    """Attention whose heads are called so, and a block with a layer called fc."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.fc = nn.ModuleList([linear(), linear()]), linear()


def net(**children: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(children))


def blocks(n: int = 2) -> nn.Module:
    return nn.Sequential(*[Attention() for _ in range(n)])


class Wrapped(pl.LightningModule):
    def __init__(self, **children: Any) -> None:
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)


class Arc(nn.Module):
    """A loss with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))


def resnet(**options: Any) -> nn.Module:
    import timm

    return timm.create_model("resnet10t", **options)


CASES: dict[str, tuple[Any, list[str]]] = {
    "attention": (lambda: net(embed=linear(), blocks=blocks(), head=linear()), ["head."]),
    "last of two": (lambda: net(fc=linear(), body=blocks(), head=linear()), ["head."]),
    "first in name only": (lambda: net(classifier=linear(), heads=blocks(), readout=linear()), ["readout."]),
    "several layers": (
        lambda: net(features=blocks(1), classifier=nn.Sequential(linear(), linear())),
        ["classifier."],
    ),
    "heads of tasks": (
        lambda: Wrapped(body=blocks(), heads=nn.ModuleDict({"a": linear(), "b": linear()})),
        ["heads."],
    ),
    "registered first": (lambda: Wrapped(head=linear(), backbone=blocks()), ["head."]),
    "in a wrapper": (lambda: Wrapped(net=Wrapped(model=net(body=blocks(), fc=linear()))), ["net.model.fc."]),
    "a loss behind it": (
        lambda: Wrapped(net=net(body=blocks(), fc=linear()), loss=Arc()),
        ["net.fc."],
    ),
    "of the last part": (
        lambda: Wrapped(encoder=blocks(), decoder=Wrapped(up=linear(), head=linear())),
        ["decoder.head."],
    ),
    "a head over a network with one": (
        lambda: Wrapped(backbone=net(body=blocks(), fc=linear()), head=linear()),
        ["head."],
    ),
    "two networks": (
        lambda: Wrapped(a=Wrapped(body=blocks(), fc=linear()), b=Wrapped(body=blocks(), fc=linear())),
        ["a.fc.", "b.fc."],
    ),
    "what it says": (Stranger, ["heads."]),
    "timm": (lambda: Wrapped(net=resnet(num_classes=3)), ["net.fc."]),
    "timm without": (lambda: Wrapped(net=resnet(num_classes=0), classifier=linear()), ["classifier."]),
    "compiled": (
        lambda: Wrapped(net=torch.compile(net(body=blocks(), head=linear()), backend="eager")),
        ["net.head."],
    ),
    "a module of the project": (
        lambda: SingleTaskModule(
            TimmBackbone("resnet10t", options={"block_args": {"attn_layer": "se"}}), {"main": 3}
        ),
        ["net.readout."],
    ),
    "weights without layers": (lambda: Wrapped(net=ReLUNet(in_features=4, hidden=3)), ["net.readout"]),
    "its network alone": (
        lambda: Wrapped(net=MultiHeadNet(blocks(), {"a": 2}, num_features=4)),
        ["net.readout."],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_last_readout_alone_is_left_out(name: str) -> None:
    build, prefixes = CASES[name]
    module = build()
    chosen = WeightRescaling(0.5, preset="backbone").select(module)
    named = [n.replace("_orig_mod.", "") for n, _ in module.named_parameters()]
    left = [n for n in named if n not in chosen]
    assert left == [n for n in named if n.startswith(tuple(prefixes))] != []


@pytest.mark.parametrize(
    "build",
    [
        lambda: Foreign(),  # an unnamed last layer
        lambda: Wrapped(body=blocks(), out=linear()),
        lambda: Wrapped(heads=blocks(), out=linear()),  # attention of the network itself
        lambda: Wrapped(net=blocks(3)),
        lambda: Wrapped(net=resnet(num_classes=0)),
    ],
)
def test_what_is_no_readout_is_not_taken_for_one(build: Any) -> None:
    module = build()
    with pytest.raises(ConfigurationError, match=r"^preset: 'backbone' finds no readout [^\n]*with exclude$"):
        WeightRescaling(0.5, preset="backbone").select(module)


class Head(nn.Module):
    """A network with a tied, a complex and an integer parameter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.flat, self.body, self.head = nn.Flatten(), nn.Linear(16, 16), nn.Linear(16, 3)
        self.phase = nn.Parameter(torch.tensor([3 + 4j]))
        self.table = nn.Parameter(torch.tensor([2, 5]), requires_grad=False)
        self.packed = nn.Parameter(torch.ones(2).to(torch.float8_e4m3fn), requires_grad=False)
        self.again = self.body

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.flat(x)) + self.phase.abs())


class Plain(Foreign):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


@pytest.fixture
def spoken(caplog: Any) -> Any:
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        yield caplog


def test_what_is_left_out_is_said(tmp_path: Any, spoken: Any) -> None:
    module, callback = Plain(Head()), WeightRescaling(0.5, preset="backbone", exclude=["net.again.bias"])
    before = module.net.body.weight.detach().double().norm().item()
    trainer(tmp_path, callback, max_steps=0).fit(module, train_loader())
    assert [r.message for r in spoken.records if r.message.startswith("WeightRescaling")] == [
        "WeightRescaling: left out net.head.weight, net.head.bias (the readout); "
        "net.table (int64), net.packed (float8_e4m3fn) (integer or quantised); net.body.bias (as asked)"
    ]
    assert callback.left_out == [
        "net.table",
        "net.packed",
        "net.body.bias",
        "net.head.weight",
        "net.head.bias",
    ]
    assert callback.norm_before == pytest.approx((before**2 + 25) ** 0.5, rel=1e-6)
    assert callback.norm_after == pytest.approx(callback.norm_before / 2, rel=1e-6)
    assert complex(module.net.phase) == 1.5 + 2j
    assert module.net.table.tolist() == [2, 5]


# Averages


class Ema(pl.Callback):
    """An average that begins in some hook, in a list, an object or a network."""

    def __init__(self, hook: str, keep: Any) -> None:
        self.hook, self.keep = hook, keep
        self.kept: Any = None

    def _act(self, hook: str, module: Any) -> None:
        if hook == self.hook:
            self.kept = self.keep([p.detach().clone() for p in module.parameters()])

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._act("setup", pl_module)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._act("on_fit_start", pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._act("on_train_start", pl_module)


class Box:
    def __init__(self, content: Any) -> None:
        self.content = content


@pytest.mark.parametrize("keep", [list, lambda p: {"shadow": dict(enumerate(p))}, Box])
@pytest.mark.parametrize(
    ("hook", "first", "refused"),
    [
        ("setup", False, True),
        ("on_fit_start", True, True),
        ("on_fit_start", False, False),  # it comes after the rescale
        ("on_train_start", True, False),
    ],
)
def test_averages_that_began_before_are_refused(
    tmp_path: Any, keep: Any, hook: str, first: bool, refused: bool
) -> None:
    average, rescaling = Ema(hook, keep), WeightRescaling(0.5, reestimate_batchnorm=True)
    callbacks = [average, rescaling] if first else [rescaling, average]
    fit = trainer(tmp_path, *callbacks, fast_dev_run=True)
    if not refused:
        return fit.fit(Foreign(), train_loader())
    with pytest.raises(ConfigurationError, match=r"^factor: Ema averages weights and would undo[^\n]*$"):
        fit.fit(Foreign(), train_loader())
    return None


def test_lightnings_averages(tmp_path: Any) -> None:
    with pytest.raises(ConfigurationError, match="WeightAveraging averages weights"):
        trainer(tmp_path, WeightRescaling(0.5), WeightAveraging()).fit(Foreign(), train_loader())
    assert (
        WeightRescaling(0.5).check(pl.Trainer(callbacks=[StochasticWeightAveraging(0.1)]), Foreign()) is None
    )
    with pytest.raises(ConfigurationError, match="WeightAveraging averages weights"):
        WeightRescaling(0.5).check(pl.Trainer(callbacks=[WeightAveraging()]), Foreign())


def test_swa_averages_what_was_rescaled(tmp_path: Any) -> None:
    """With a learning rate of 0 the average of rescaled weights is these weights."""
    module = Plain(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)  # type: ignore[method-assign]
    start = module.net[1].weight.detach().clone()
    swa = StochasticWeightAveraging(swa_lrs=1e-12, swa_epoch_start=1)
    trainer(tmp_path, WeightRescaling(0.5), swa, max_epochs=3).fit(module, train_loader())
    torch.testing.assert_close(module.net[1].weight.detach(), start / 2)
