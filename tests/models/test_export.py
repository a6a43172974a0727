import pytest
import timm
import torch
from torch import nn

from lit_aux.errors import ConfigurationError
from lit_aux.models import MultiHeadNet, TimmBackbone, export_state_dict

TASKS = {"aux": 4, "main": 3}
VIT = {"img_size": 32, "patch_size": 8, "depth": 2}


def _net(name: str, **kwargs) -> MultiHeadNet:
    torch.manual_seed(0)
    net = MultiHeadNet(TimmBackbone(name, **kwargs), TASKS)
    with torch.no_grad():  # a pass in train mode, so that running statistics are not the initial ones
        net(torch.randn(4, kwargs.get("in_chans", 3), 32, 32), "main")
    return net.eval()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("vit_tiny_patch16_224", VIT),
        ("tf_efficientnet_lite0", {}),
        ("convnext_atto", {}),
        ("mobilenetv3_small_050", {}),
        ("resnetv2_50", {"channels": [16, 16, 32, 32]}),  # its classifier is a 1x1 convolution
    ],
)
def test_timm_gives_the_same_logits(name: str, options: dict) -> None:
    net = _net(name, options=options)
    x = torch.randn(2, 3, 32, 32)
    plain = timm.create_model(name, num_classes=3, **options)
    plain.load_state_dict(export_state_dict(net, "main"))
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(x), net(x, "main"), rtol=1e-4, atol=1e-5)


def test_without_a_task_the_classifier_is_left_out() -> None:
    net = _net("test_resnet", in_chans=1)
    plain = timm.create_model("test_resnet", num_classes=0, in_chans=1)
    plain.load_state_dict(export_state_dict(net, None))
    x = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(x), net.features(x))


@pytest.mark.parametrize("part", ["all", "backbone", "network", "block"])
def test_compiled_networks_have_plain_names(part: str) -> None:
    net = _net("test_resnet")
    expected = export_state_dict(net, "aux")
    compiled = net
    if part == "all":
        compiled = torch.compile(net, backend="eager")
    elif part == "backbone":
        net.backbone = torch.compile(net.backbone, backend="eager")
    elif part == "network":
        net.backbone.network = torch.compile(net.backbone.network, backend="eager")
    else:
        net.backbone.network.layer1 = torch.compile(net.backbone.network.layer1, backend="eager")
    weights = export_state_dict(compiled, "aux")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[k], expected[k]) for k in expected)


def test_a_cifar_stem_loads_into_the_same_network() -> None:
    net = _net("test_resnet", stem="cifar")
    plain = TimmBackbone("test_resnet", stem="cifar").build(num_classes=3)
    plain.load_state_dict(export_state_dict(net, "main"))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(x), net(x, "main"))


def test_export_copies_and_leaves_the_random_state() -> None:
    net = _net("test_resnet")
    state = torch.get_rng_state()
    weights = export_state_dict(net, "main")
    assert torch.equal(torch.get_rng_state(), state)
    weights["fc.weight"].zero_()
    weights["layer1.0.conv1.weight"].zero_()
    assert net.readout.weight.abs().min() > 0
    assert net.backbone.network.layer1[0].conv1.weight.abs().sum() > 0


def test_several_classifiers_or_none_are_refused() -> None:
    net = MultiHeadNet(TimmBackbone("levit_128s", options={"img_size": 64}), TASKS)
    with pytest.raises(ConfigurationError, match="has 2 classifiers"):
        export_state_dict(net, "main")
    assert not any(k.startswith("head") for k in export_state_dict(net, None))
    net = MultiHeadNet(TimmBackbone("test_resnet"), TASKS)
    net.backbone.network.pretrained_cfg = {}
    with pytest.raises(ConfigurationError, match="has 0 classifiers"):
        export_state_dict(net, "main")


def test_a_classifier_that_is_not_one_linear_layer_is_refused() -> None:
    net = MultiHeadNet(TimmBackbone("test_resnet"), TASKS)
    net.backbone.network.pretrained_cfg = {"classifier": "head"}
    with pytest.raises(ConfigurationError, match="not one linear layer") as caught:
        export_state_dict(net, "main")
    assert "fc.weight" in str(caught.value)
    assert "head.bias" in str(caught.value)


def test_wrong_task_or_backbone() -> None:
    with pytest.raises(ConfigurationError, match="'mian' is unknown; did you mean 'main'"):
        export_state_dict(MultiHeadNet(TimmBackbone("test_resnet"), TASKS), "mian")
    with pytest.raises(ConfigurationError, match="backbone is a Flatten"):
        export_state_dict(MultiHeadNet(nn.Flatten(), TASKS, num_features=3), "main")
