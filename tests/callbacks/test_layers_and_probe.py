from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import nn

from lit_aux.callbacks._inputs import slices
from lit_aux.callbacks._layers import resolve_layers
from lit_aux.callbacks._network import default_to_input
from lit_aux.callbacks._no_trace import snapshot, swapped
from lit_aux.errors import ConfigurationError


class Wrapped(nn.Module):
    """A timm backbone without its readout, under another one, as finetuning code likes to have it."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__()
        import timm

        self.backbone = timm.create_model(name, num_classes=0, **options)
        self.readout = nn.Linear(self.backbone.num_features, 2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", "maxpool layer1 layer2 layer3 layer4 global_pool"),
        ("vit_tiny_patch16_224", "patch_embed " + " ".join(f"blocks.{i}" for i in range(12)) + " norm"),
        ("tf_efficientnet_lite0", "blocks.0 blocks.1 blocks.2 blocks.4 blocks.6 global_pool"),
    ],
)
def test_default_layers_of_timm_networks(name: str, expected: str) -> None:
    module = Wrapped(name)
    assert resolve_layers(module, None) == [*(f"backbone.{n}" for n in expected.split()), "readout"]


def test_default_layers_of_a_small_image_resnet_and_of_one_with_its_own_readout() -> None:
    import timm

    with torch.device("meta"):
        net = timm.create_model("resnet18", num_classes=5)
    net.maxpool = nn.Identity()
    assert resolve_layers(net, None) == ["act1", "layer1", "layer2", "layer3", "layer4", "global_pool", "fc"]


def test_names_globs_and_compiled_prefixes() -> None:
    module = nn.Module()
    module.net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    module.net[2] = torch.compile(module.net[2], backend="eager")
    assert resolve_layers(module, ["net.2", "net.[01]"]) == ["net.0", "net.1", "net.2"]
    assert resolve_layers(module, None) == ["net.0", "net.2"]
    with pytest.raises(ConfigurationError, match=r"layers: 'nte\.2' is unknown; did you mean 'net\.2'"):
        resolve_layers(module, ["nte.2"])
    with pytest.raises(ConfigurationError, match="nothing to measure"):
        resolve_layers(nn.Module(), None)


def test_inputs_are_found_in_batches_of_many_shapes() -> None:
    x, y = torch.randn(3, 2), torch.randn(4, 2)
    assert default_to_input(x) is x
    assert default_to_input((x, y)) is x
    assert default_to_input([[x, 1], y]) is x
    assert default_to_input({"name": "text", "image": x, "label": y}) is x
    assert torch.equal(default_to_input({"main": (x, 1), "aux": (y, 2)}), torch.cat([x, y]))
    for nothing in ("text", {}, [], {"a": "b"}, 3):
        with pytest.raises(ConfigurationError, match="to_input: no tensor"):
            default_to_input(nothing)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 11])
def test_slices_cover_everything_in_near_equal_pieces(size: int) -> None:
    x = torch.arange(10)
    pieces = slices({"x": x, "more": (x + 1,)}, size)
    assert torch.equal(torch.cat([p["x"] for p in pieces]), x)
    assert torch.equal(torch.cat([p["more"][0] for p in pieces]), x + 1)
    lengths = {len(p["x"]) for p in pieces}
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1


def test_swapped_weights_reach_recurrent_layers_and_come_back_after_an_error() -> None:
    module = nn.LSTM(3, 4)
    x, old = torch.randn(2, 1, 3), snapshot(module)
    before = module(x)[0].detach()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(3)
    now = snapshot(module)

    with suppress(RuntimeError), swapped(module, old):
        assert torch.equal(module(x)[0], before)
        raise RuntimeError
    assert all(torch.equal(now[name], value) for name, value in snapshot(module).items())
