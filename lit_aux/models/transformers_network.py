"""Networks of the transformers library: configurations, how they are built, what of them is read."""

import copy
import hashlib
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields
from importlib import import_module
from inspect import getsource, signature
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lit_aux.errors import ConfigurationError, first_line, not_installed, shortened, unknown_name
from lit_aux.hub import hub_answers
from lit_aux.models.pretrained_weights import SUFFIXES, reads, told_before

Model = str | dict[str, Any]
_ELSEWHERE = {
    "return_dict": "the backbone returns features alone",
    "output_hidden_states": "the callbacks look at layers by themselves",
    "output_attentions": "the backbone returns features alone",
}
_SPECIAL = ("model_type", "num_labels", "attn_implementation", "experts_implementation", "torch_dtype")
_ROPE = ("rope_theta", "rope_scaling", "partial_rotary_factor")


def library() -> Any:
    """Return transformers.

    Raises:
        ConfigurationError: If it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise not_installed("model", "transformers", "text") from error
    return transformers


# Configurations


def configuration(model: Model, options: Mapping[str, Any]) -> Any:
    """Return the configuration of a model.

    Args:
        model: A folder, a name on the hub, or a mapping with its ``model_type``.
        options: Fields in place of its own.

    Raises:
        ConfigurationError: If there is no such model, or a field does not exist or has a value of another
            kind.
    """
    known = library().CONFIG_MAPPING
    if not isinstance(model, str | Mapping) or not model:
        raise ConfigurationError(
            f"model: {model!r} is no model; give a folder, a name on the hub, or {{model_type: bert, ...}}"
        )
    for name, why in _ELSEWHERE.items():
        if name in options or (not isinstance(model, str) and name in model):
            raise ConfigurationError(f"options: {name} cannot be set: {why}; leave it out")
    given = dict(options)
    if isinstance(model, str):
        kept = None if reads() else told_before()
        if kept is not None:
            plain = dict(kept["configuration"])
            return _made(known[plain["model_type"]].from_dict, plain, "model")
        kind = given.pop("model_type", None)
        if kind is not None and kind not in known:
            raise unknown_name("options: model_type", kind, known)
        found = _read_configuration(model, kind)
        if kind is None:
            _check_names("options", type(found), given)
        return _made(type(found).from_dict, {**found.to_dict(), **given}, "options") if given else found
    given = {**model, **given}
    kind = given.pop("model_type", None)
    if kind is None:
        raise ConfigurationError(
            f"model: {shortened(str(dict(model)))} names no model_type, such as bert; add one"
        )
    if kind not in known:
        raise unknown_name("model: model_type", kind, known)
    _check_names("model", known[kind], given)
    return _made(lambda fields: known[kind](**fields), given, "model")


def _made(make: Any, fields: Mapping[str, Any], option: str) -> Any:
    """Make a configuration; what it refuses is the user's to correct."""
    try:
        return make(copy.deepcopy(dict(fields)))
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ConfigurationError(f"{option}: {shortened(said, 200)}") from error


def _check_names(option: str, kind: Any, given: Mapping[str, Any]) -> None:
    """Refuse fields that nothing reads: a class of configurations takes any."""
    known = {field.name for field in fields(kind)} | {*kind.attribute_map, *_SPECIAL}
    known |= {*_ROPE} if "rope_parameters" in known else set()
    known |= {*signature(kind.__post_init__).parameters} - {"self", "kwargs"}
    for name in given:
        if name not in known and not _is_read(kind, name):
            raise unknown_name(f"{option}: field of {kind.__name__}", name, sorted(known))


def _is_read(kind: Any, name: str) -> bool:
    """Whether a network's code reads a field that its configuration does not declare: some do."""
    with suppress(Exception):
        network = _first(library().AutoModel._model_mapping[kind])
        code = getsource(import_module(network.__module__))
        field = re.escape(name)
        return re.search(rf"config\.{field}\b|config, [\"']{field}[\"']", code) is not None
    return False


def _first(kind: Any) -> Any:
    """Return the first of several classes."""
    return kind[0] if isinstance(kind, tuple) else kind


def _read_configuration(model: str, kind: str | None) -> Any:
    """Read the configuration of a folder, or of a model on the hub."""
    transformers = library()
    folder = Path(model).expanduser()
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ConfigurationError(
            f"model: the folder '{model}' has no config.json; give one that save_pretrained has written"
        )
    if not folder.is_dir() and (folder.is_absolute() or model[:1] in (".", "~") or model.count("/") > 1):
        raise ConfigurationError(f"model: there is no folder '{model}'")
    source = transformers.AutoConfig if kind is None else transformers.CONFIG_MAPPING[kind]
    place = _place(model)
    try:
        return source.from_pretrained(place.name, local_files_only=place.local)
    except Exception as error:
        raise ConfigurationError(
            f"model: {model!r} is no model that can be read"
            f"{', and the hub cannot be reached' if place.unreachable else ''} "
            f"({shortened(first_line(error), 120)}); give a folder or {{model_type: bert, ...}}"
        ) from error


class _Place(NamedTuple):
    name: str
    local: bool
    unreachable: bool


def _place(model: str) -> _Place:
    """Say how a model is to be fetched: not from the network where there is none."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _Place(str(folder), True, False)
    unreachable = not hub_answers()
    return _Place(model, unreachable, unreachable)


# Networks


class Plan(NamedTuple):
    """How a network is to be built from its configuration.

    Attributes:
        config: The configuration.
        auto: The class of transformers that finds the network's own.
        options: Further arguments of that class.
    """

    config: Any
    auto: Any
    options: dict[str, Any]


def plan_for(model: Model, config: Any, options: Mapping[str, Any], *, pooler: bool) -> Plan:
    """Say how a network is to be built.

    Args:
        model: What it is.
        config: Its configuration.
        options: The fields that were given in place of the model's own.
        pooler: Whether its pooler is read: what nothing reads would be trained by weight decay alone, and
            stop data-parallel training.

    Raises:
        ConfigurationError: If there is no network of this configuration.
    """
    transformers = library()
    auto = transformers.AutoModel
    encoders: Any = transformers.AutoModelForTextEncoding._model_mapping
    if type(config) in set(encoders) and encoders[type(config)].__name__.endswith("EncoderModel"):
        auto = transformers.AutoModelForTextEncoding  # the encoder is a model of its own
    if type(config) not in set(auto._model_mapping):
        raise ConfigurationError(f"model: transformers has no network for {config.model_type!r}")
    kind = _first(auto._model_mapping[type(config)])
    arguments: dict[str, Any] = {}
    if not pooler and "add_pooling_layer" in signature(kind.__init__).parameters:
        arguments["add_pooling_layer"] = False
    if isinstance(model, str):  # weights are often stored in half of the precision that trains
        arguments["dtype"] = config.dtype if "dtype" in options else torch.get_default_dtype()
    return Plan(config, auto, arguments)


def build(model: Model, plan: Plan, *, pretrained: bool) -> Any:
    """Return a network, in train mode.

    Args:
        model: What it is.
        plan: How to build it.
        pretrained: Whether with its weights, else with random ones.

    Raises:
        ConfigurationError: If that is impossible.
    """
    try:
        network = (
            _with_weights(str(model), plan)
            if pretrained
            else plan.auto.from_config(plan.config, **plan.options)
        )
    except ConfigurationError:
        raise
    except Exception as error:
        said = shortened(" ".join(str(error).split()), 160)
        raise ConfigurationError(f"model: {shortened(str(model))} cannot be built: {said}") from error
    return _encoder(network).train()


def _encoder(network: Any) -> Any:
    """Return the encoder of a network that has a decoder as well."""
    return network.get_encoder() if network.config.is_encoder_decoder else network


def _with_weights(model: str, plan: Plan) -> Any:
    place = _place(model)
    folder = Path(place.name)
    if folder.is_dir() and not any(one.suffix in SUFFIXES for one in folder.iterdir()):
        raise ConfigurationError(
            f"model: the folder '{model}' has no weights; set pretrained: false for random ones"
        )
    how = {**plan.options, "config": plan.config, "local_files_only": place.local}
    with without_bars() if place.local else nullcontext():
        network, told = plan.auto.from_pretrained(place.name, output_loading_info=True, **how)
    missing, own = told["missing_keys"], network.state_dict()
    if 2 * len(missing) > len(own):
        raise ConfigurationError(
            f"model: the weights in '{model}' are of another network: {len(missing)} of {len(own)} tensors "
            f"are not among them, such as {min(missing)}; set pretrained: false for random ones"
        )
    return network


@contextmanager
def without_bars() -> Iterator[None]:
    """Leave out the progress bars that transformers draws for files of this machine."""
    logging = library().utils.logging
    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()


def parts_of(config: Any) -> list[str]:
    """Return the kinds of model that are parts of one with text and images."""
    known = library().CONFIG_MAPPING
    names = [f"{config.model_type}_{part}_model" for part in ("text", "vision")]
    return [name for name in names if name in known]


def content_of(network: nn.Module) -> str:
    """Return a digest of a network's weights: runs that start from different ones are different runs."""
    found = hashlib.sha256()
    for name, value in network.state_dict().items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()[:16]


# What a forward pass reads


class Trial(NamedTuple):
    """What a forward pass gives.

    Attributes:
        features: Shape of the features, (1, positions, width) or (1, channels, H, W); None without any.
        pooled: Shape of what the network has pooled itself; None where it does not.
        unread: The names of parameters that do not decide what is read, or that the network never trains.
    """

    features: tuple[int, ...] | None
    pooled: tuple[int, ...] | None
    unread: list[str]


def tried(network: Any, plan: Plan, *, pooler: bool) -> Trial | None:
    """Run a network of this kind once, without memory for its weights where that is possible.

    Args:
        network: The network, which is left alone.
        plan: How it was built.
        pooler: Whether what it pools itself is read, else the features.

    Returns:
        None where it cannot be run without knowing more about its inputs.
    """

    def without_memory() -> Any:
        with torch.device("meta"):
            options = {key: value for key, value in plan.options.items() if key != "dtype"}
            return _encoder(plan.auto.from_config(copy.deepcopy(plan.config), **options))

    for make in (without_memory, lambda: copy.deepcopy(network).cpu().to(torch.get_default_dtype())):
        with suppress(Exception), same_random_state(), torch.enable_grad():
            return _trial(make(), pooler)
    return None


@contextmanager
def same_random_state() -> Iterator[None]:
    """Leave the generators as they are afterwards."""
    ours, theirs = random.getstate(), np.random.get_state()  # noqa: NPY002  # transformers draws from it
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(theirs)  # noqa: NPY002


def _trial(network: Any, pooler: bool) -> Trial:
    inputs = example_for(network)
    fixed = {id(p) for p in network.parameters() if not p.requires_grad}  # sines of positions, say
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    found = network.eval()(**inputs)
    features, pooled = (None if found.get(one) is None else tuple(found[one].shape) for one in _OUTPUTS)
    read: set[int] = set()
    for training in (False, True):  # some parameters are read in training alone, some by chance
        with suppress(Exception):
            read |= _leaves(network.train(training)(**inputs)[_OUTPUTS[pooler]]) - fixed
    named = network.named_parameters(remove_duplicate=False)
    unread = [name for name, p in named if id(p) not in read and p.is_floating_point()]
    return Trial(features, pooled, unread if read else [])


_OUTPUTS = ("last_hidden_state", "pooler_output")


def example_for(network: Any) -> dict[str, Tensor]:
    """Return an input that a network takes, of one example."""
    config, name = network.config, network.main_input_name
    how: dict[str, Any] = {"device": network.device}
    if name == "input_ids":
        last = network.get_input_embeddings().num_embeddings - 1
        return {name: torch.arange(3, 7, **how).clamp(max=last)[None]}
    if name == "pixel_values":
        size = getattr(config, "image_size", None) or 224
        shape = [getattr(config, "num_channels", 3), *((size, size) if isinstance(size, int) else size)]
    elif name == "input_features":
        shape = [config.num_mel_bins, 2 * config.max_source_positions]
    else:
        shape = [_SECOND]
    return {name: torch.linspace(-1, 1, prod(shape), dtype=network.dtype, **how).view(1, *shape)}


_SECOND = 16_000
"""Samples of a second of sound, as networks expect them."""


def _leaves(output: Tensor) -> set[int]:
    """Return the ``id`` of the parameters that an output was computed from."""
    seen: set[Any] = set()
    found: set[int] = set()
    stack: list[Any] = [output.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (variable := getattr(node, "variable", None)) is not None:
            found.add(id(variable))
        stack += [inner for inner, _ in node.next_functions]
    return found


def set_apart(network: nn.Module, names: list[str]) -> None:
    """Make buffers of parameters: they are saved and loaded as before, and nothing trains them.

    Args:
        network: Whose they are.
        names: Those that nothing reads.
    """
    for name in names:
        where, _, last = name.rpartition(".")
        owner = network.get_submodule(where)
        if "parametrizations" not in name and (parameter := owner._parameters.pop(last, None)) is not None:
            owner.register_buffer(last, parameter.detach())
