"""Modules from checkpoints: what is written down beside the weights, and how they are built from it again."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from inspect import isabstract
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar, cast

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.parsing import collect_init_args

from lit_aux.callbacks._parameters import uncompiled
from lit_aux.errors import ConfigurationError, listed, one_line
from lit_aux.identity.objects import parameters_of
from lit_aux.models import StudentNet, TransformersBackbone
from lit_aux.models.low_rank import merge_checkpoint
from lit_aux.models.pretrained_weights import without_reading
from lit_aux.phases.state import check_fit, read_checkpoint
from lit_aux.tensor_options import register_tensors

KEY = "lit_aux_module"
"""Where a checkpoint says how its module was built."""
_NETWORK = "network"
"""Where that says how a network of transformers was configured: its folder may be gone."""
_KNOWN = ("lit_aux", "lightning", "timm", "torch", "torchjd", "torchmetrics", "torchvision")
"""Packages whose modules may be imported because a checkpoint names one of their classes."""
_Module = TypeVar("_Module", bound=LightningModule)


def arguments_in(frame: FrameType) -> dict[str, Any]:
    """Return what a module was built with, of plain values; of anything else, in place of it, its class.

    Args:
        frame: Of the constructor that all of the project's modules share.
    """
    given: dict[str, Any] = {}
    for arguments in collect_init_args(frame, [], classes=(LightningModule,)):
        given |= arguments
    return {name: _plain(value) for name, value in given.items() if value is not None}


class _Object(str):
    """The class of something that is not written into checkpoints."""


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        values = [_plain(one) for one in value]
        return next((one for one in values if isinstance(one, _Object)), values)
    if isinstance(value, Mapping):
        members = {str(name): _plain(one) for name, one in value.items()}
        return next((one for one in members.values() if isinstance(one, _Object)), members)
    return value if value is None or isinstance(value, bool | int | float | str) else _Object(_name(value))


def _name(value: Any) -> str:
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def told(module: Any) -> dict[str, Any]:
    """Return what a checkpoint shall say of how its module was built, of plain values.

    Args:
        module: One of the project's. The command line has given its Trainer its whole configuration, classes
            of its options included; in Python, what is no plain value is named alone.
    """
    configuration = getattr(module._trainer, "configuration", None) or {}
    given: dict[str, Any] = module.built_with
    objects = {name: str(value) for name, value in given.items() if isinstance(value, _Object)}
    found = {
        "class": f"{type(module).__module__}.{type(module).__qualname__}",
        "tasks": dict(module.tasks),
        "arguments": {name: value for name, value in given.items() if name not in objects},
        "objects": objects,
        "configuration": (configuration.get("model") or {}).get("init_args"),
    }
    if module.pretrained_content is not None:
        found["pretrained_content"] = module.pretrained_content
    backbone = uncompiled(getattr(uncompiled(module.net), "backbone", None))
    if type(backbone) is TransformersBackbone:
        found[_NETWORK] = backbone.told()
    return found | ({"seeds": list(module.net.seeds)} if isinstance(module.net, StudentNet) else {})


def network_told_in(path: str | Path) -> Mapping[str, Any] | None:
    """Return what a checkpoint says of its network; None for what is no checkpoint, or says nothing.

    Args:
        path: The file.
    """
    with suppress(ConfigurationError):
        return _network_in(read_checkpoint(path, "ckpt_path").get(KEY))
    return None


def _network_in(said: Any) -> Mapping[str, Any] | None:
    found = said.get(_NETWORK) if isinstance(said, Mapping) else None
    plain = isinstance(found, Mapping) and all(isinstance(found.get(n), Mapping) for n in _PARTS)
    return found if plain else None


_PARTS = ("arguments", "configuration")


def from_checkpoint(
    kind: type[_Module], path: str | Path, map_location: Any, strict: bool | None, given: Mapping[str, Any]
) -> _Module:
    """Build a module as the one was whose checkpoint it is, and load its weights; nothing in the file is run.

    Args:
        kind: The module's class.
        path: The checkpoint.
        map_location: Where the module is to be; on the CPU by default.
        strict: Whether all names must fit; by default they must.
        given: Arguments in place of what the file says, and those that it does not.

    Raises:
        ConfigurationError: If the file is none of a module, does not say enough, or has other weights.
    """
    content = read_checkpoint(path, "checkpoint_path")
    place = f"checkpoint_path: {str(path)!r}"
    merge_checkpoint(content, place)
    said = content.get(KEY)
    info: Mapping[str, Any] = said if isinstance(said, Mapping) else {}
    if isabstract(kind):
        raise ConfigurationError(
            f"{place} is of a {info.get('class', 'module of another class')}; call load_from_checkpoint of "
            f"that class, {kind.__name__} is none that can be built"
        )
    network = _network_in(info)
    with without_reading(lambda: network):
        arguments = _arguments(kind, info, place, given)
        accepted = parameters_of(kind)
        if network is not None and "backbone" in accepted and "backbone" not in arguments:
            arguments["backbone"] = TransformersBackbone(**network["arguments"])
    if "backbone" in accepted and "backbone" not in arguments:
        what = info.get("objects", {}).get("backbone", "its backbone")
        raise ConfigurationError(
            f"{place} does not hold {what}, only its weights; give it: "
            f"{kind.__name__}.load_from_checkpoint(..., backbone=...)"
        )
    if "tasks" in accepted and "tasks" not in arguments:
        raise ConfigurationError(f"{place} does not say what its tasks were; give them: tasks={{'main': 2}}")
    with without_reading():
        module = kind(**arguments)
    _load(module, content, path, strict is not False, info)
    return module if map_location is None else module.to(map_location)


def _arguments(
    kind: type[LightningModule], info: Mapping[str, Any], place: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a module is to be built with."""
    accepted = parameters_of(kind)
    configuration = info.get("configuration")
    tasks = {"tasks": dict(info["tasks"])} if "tasks" in info and "tasks" in accepted else {}
    if isinstance(configuration, Mapping):
        wanted = {
            name: value for name, value in configuration.items() if name in accepted and name not in given
        }
        return {**_built(kind, wanted, place), **tasks, **given}
    plain = {name: value for name, value in info.get("arguments", {}).items() if name in accepted}
    lacking = [f"{name} ({what})" for name, what in info.get("objects", {}).items() if name not in given]
    lacking = [one for one in lacking if one.partition(" ")[0] in accepted and one[:9] != "backbone "]
    if lacking:
        rank_zero_warn(f"{place} does not hold {listed(lacking)}: as by default, unless they are given")
    return {**tasks, **plain, **given}


def _built(kind: type[LightningModule], options: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Build what a configuration says, but for the module itself.

    Raises:
        ConfigurationError: If it names a class of a module that nobody has imported, or cannot be used.
    """
    from jsonargparse import ArgumentParser

    for name in _classes(options):
        home = name.rpartition(".")[0]
        if home not in sys.modules and home.partition(".")[0] not in _KNOWN:
            raise ConfigurationError(
                f"{place} names {name}, whose module is not imported; import it first, or give the argument"
            )
    register_tensors()
    parser: Any = ArgumentParser(exit_on_error=False)
    try:
        skip = {*parameters_of(kind)} - {*options}
        parser.add_class_arguments(kind, "module", skip=skip, instantiate=False, fail_untyped=False)
        parsed = parser.parse_object({"module": dict(options)})
        build = getattr(parser, "instantiate", None) or parser.instantiate_classes
        return dict(vars(build(parsed)["module"]))
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f"{place}: its configuration cannot be used: {one_line(error)}") from error


def _classes(value: Any) -> Iterator[str]:
    """Yield the class paths in a configuration."""
    if isinstance(value, Mapping):
        if isinstance(value.get("class_path"), str):
            yield value["class_path"]
        for inner in value.values():
            yield from _classes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _classes(inner)


def _load(
    module: LightningModule, content: dict[str, Any], path: str | Path, strict: bool, info: Mapping[str, Any]
) -> None:
    """Load a checkpoint's weights, students in its number."""
    state = content["state_dict"]
    net = cast(Any, module).net
    if isinstance(net, StudentNet):
        count = next((len(value) for name, value in state.items() if name.startswith("net.")), 1)
        net.configure(cast(Any, module).tasks, info.get("seeds") or range(count))
    if "pretrained_content" in info and cast(Any, module).pretrained is not None:
        cast(Any, module).pretrained_content = info["pretrained_content"]  # of a file that was not read again
    if strict:
        check_fit(module.state_dict(), state, "checkpoint_path", path)
        module.on_load_checkpoint(content)
    module.load_state_dict(state, strict=strict)
