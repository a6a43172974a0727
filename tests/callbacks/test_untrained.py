"""Verdicts are about what was there to be reused: a network that nothing has trained gets none."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import timm
import torch
from callback_helpers import Foreign, network, train_loader, trainer, val_loader
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lit_aux.callbacks import LayerDimensionality, RepresentationDimensionality, WeightRescaling
from lit_aux.callbacks._start import looks_untrained, starts_untrained
from lit_aux.models import LeNet
from lit_aux.modules import SingleTaskModule


def mlp(init: Any = None, bias: bool = True) -> nn.Module:
    net = nn.Sequential(
        nn.Linear(16, 48, bias=bias), nn.ReLU(), nn.Linear(48, 48, bias=bias), nn.ReLU(), nn.Linear(48, 3)
    )
    for layer in net:
        if init is not None and isinstance(layer, nn.Linear):
            init(layer.weight)
    return net


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.GRU(16, 24, batch_first=True), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x[:, None])[0][:, -1])


def vit() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=24, depth=2,
                             num_heads=2, num_classes=3, in_chans=1)  # fmt: skip


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "batch norm": (network, (1, 4, 4)),
    "mlp": (mlp, (16,)),
    "mlp without biases": (lambda: mlp(bias=False), (16,)),
    "normal weights, torch's biases": (lambda: mlp(nn.init.kaiming_normal_), (16,)),
    "orthogonal weights": (lambda: mlp(nn.init.orthogonal_), (16,)),
    "gru": (Recurrent, (16,)),
    "resnet": (lambda: timm.create_model("test_resnet", num_classes=3, in_chans=1), (1, 16, 16)),
    "vit": (vit, (1, 16, 16)),
    "lenet": (lambda: nn.Sequential(LeNet(size=12), nn.LazyLinear(3)), (1, 12, 12)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(2))
def test_training_shows_in_the_weights(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    build, shape = NETWORKS[name]
    net = build()
    x, y = torch.randn(8, *shape), torch.randint(3, (8,))
    net.eval()(x)  # a lazy layer's values are drawn here
    assert looks_untrained(net)
    optimizer = torch.optim.SGD(net.train().parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert not looks_untrained(net)
    if hasattr(net, "head") and isinstance(net.head, nn.Linear):  # a new readout changes nothing
        net.head.reset_parameters()
        assert not looks_untrained(net)


def test_nothing_to_see_is_no_claim() -> None:
    assert not looks_untrained(nn.Sequential(nn.ReLU(), nn.Flatten()))


def measured(tmp_path: Path, module: pl.LightningModule, *others: pl.Callback) -> list[LayerDimensionality]:
    callback = RepresentationDimensionality(picture=False)
    options = {"enable_checkpointing": any(isinstance(other, ModelCheckpoint) for other in others)}
    trainer(tmp_path, *others, callback, max_epochs=2, **options).fit(module, train_loader(), val_loader())
    return callback.results


def judged(rows: list[LayerDimensionality]) -> set[bool]:
    return {bool(row.shown_verdict) for row in rows}


@pytest.mark.filterwarnings("error:RepresentationDimensionality")
def test_a_strangers_network_gets_verdicts_once_it_is_trained(tmp_path: Path) -> None:
    module = Foreign()
    first = measured(tmp_path, module)
    assert judged(first) == {False}
    assert all(row.pr_before > 0 and row.ensd > 0 for row in first)
    assert judged(measured(tmp_path, module)) == {True}


@pytest.mark.parametrize("says", [False, True])
def test_a_module_that_knows_is_believed(says: bool, tmp_path: Path) -> None:
    module = Foreign(mlp_on_images())
    module.starts_untrained = says
    assert judged(measured(tmp_path, module)) == {not says}


def mlp_on_images() -> nn.Module:
    return nn.Sequential(nn.Flatten(), mlp())


def test_a_rescale_of_random_weights_makes_them_no_trained_ones(tmp_path: Path) -> None:
    assert judged(measured(tmp_path, Foreign(mlp_on_images()), WeightRescaling(0.5))) == {False}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_rounding_is_no_training(dtype: torch.dtype) -> None:
    assert looks_untrained(mlp().to(dtype))
    assert looks_untrained(network().to(dtype))


def test_a_backbone_that_was_loaded_by_hand_has_verdicts(tmp_path: Path) -> None:
    trained = timm.create_model("test_resnet", num_classes=0, in_chans=1)
    trained(torch.randn(8, 1, 16, 16))  # counts a batch
    module = SingleTaskModule(trained, {"main": 2}, num_features=trained.num_features)
    assert module.starts_untrained  # nobody has told it
    assert not starts_untrained(module)
    fresh = timm.create_model("test_resnet", num_classes=0, in_chans=1)
    assert starts_untrained(SingleTaskModule(fresh, {"main": 2}, num_features=fresh.num_features))


def test_a_resume_knows_how_the_fit_began(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    assert judged(measured(tmp_path, Foreign(), keep)) == {False}
    again = RepresentationDimensionality(picture=False)
    trainer(tmp_path, again, max_epochs=2).fit(
        Foreign(), train_loader(), val_loader(), ckpt_path=tmp_path / "epoch=0.ckpt"
    )
    assert judged(again.results) == {False}
