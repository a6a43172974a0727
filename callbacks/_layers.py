"""Which layers are measured, and recording what they give."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence

from lit_aux.callbacks._names import clean, is_readout, match
from lit_aux.errors import ConfigurationError

Record = Callable[[str, object], None]


def named_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Return every submodule by its dotted names; a compiled wrapper and what it wraps share one name."""
    named = module.named_modules(remove_duplicate=False)
    return {clean(name): layer for name, layer in named if clean(name)}


def refuse_lazy(module: nn.Module, user: str) -> None:
    """Raise `ConfigurationError` where parameters have no shape before training starts."""
    for name, parameter in module.named_parameters():
        if is_lazy(parameter):
            raise ConfigurationError(
                f"{user}: {clean(name)!r} has no shape before the first batch (a lazy layer), and nothing to "
                "compare with; run the network on one batch before the fit"
            )


def resolve_layers(module: nn.Module, layers: Iterable[str] | None) -> list[str]:
    """Turn names and globs into the names of existing layers, in network order.

    Args:
        module: The module whose submodules are meant.
        layers: Names or globs over ``named_modules``; ``None`` picks a default (:func:`default_layers`). A
            module that has several names counts once, unless more of them are given in full.

    Raises:
        ConfigurationError: If a name matches no layer (the nearest are offered) or nothing can be picked.
    """
    named, given = named_layers(module), set(layers or [])
    found = default_layers(module) if layers is None else match("layers", given, named)
    firsts = {id(named[name]): name for name in reversed(found)}
    chosen = [name for name in found if name in given or firsts[id(named[name])] == name]
    if not chosen:
        raise ConfigurationError(f"layers: nothing to measure in {type(module).__name__}; name some layers")
    return chosen


def default_layers(module: nn.Module) -> list[str]:
    """Pick stem, stages, pooled features and readout where they can be recognised.

    ResNets: the stem's pooling (or activation), ``layer1`` to ``layer4``, the global pooling, the readout.
    Vision transformers: patch embedding, every block, the final norm, the readout. Other timm networks: the
    modules in their ``feature_info``. Anything else: the children with parameters of the first module that
    has several. A readout outside the network (``head``, ``fc``, ...) is added.
    """
    named = named_layers(module)
    prefix, net = _find_network(module, named)
    inside = [f"{prefix}{name}" for name in _network_layers(net)]
    outside = [n for n in named if prefix and not n.startswith(prefix) and is_readout(n.rpartition(".")[2])]
    useful = [n for n in inside if n in named and not isinstance(named[n], nn.Identity)]
    useful += [n for n in outside if _has_parameters(named[n]) and not isinstance(named[n], _CONTAINERS)]
    return [name for name in named if name in set(useful)]


_CONTAINERS = (nn.ModuleList, nn.ModuleDict)


def _has_parameters(module: nn.Module) -> bool:
    """Whether any parameter lies in ``module``."""
    return next(module.parameters(), None) is not None


def _find_network(module: nn.Module, named: dict[str, nn.Module]) -> tuple[str, nn.Module]:
    """Return the outermost network of a known kind and its prefix, or the first module that branches."""
    for name, layer in {"": module, **named}.items():
        known = isinstance(getattr(layer, "feature_info", None), list) or hasattr(layer, "layer4")
        if known or (hasattr(layer, "patch_embed") and hasattr(layer, "blocks")):
            return (f"{name}." if name else ""), layer
    prefix = ""
    while True:
        children = [(n, c) for n, c in module.named_children() if _has_parameters(c)]
        children = [(n, c) for n, c in children if not getattr(c, "outside_network", False)]
        if len(children) != 1 or not any(True for _ in children[0][1].children()):
            return clean(f"{prefix}.").strip(".") + "." if prefix else "", module
        prefix += f"{children[0][0]}."
        module = children[0][1]


def _network_layers(net: nn.Module) -> list[str]:
    """List layers of one network by names relative to it; some may not exist."""
    children = dict(net.named_children())
    ends = ["global_pool", "avgpool", "norm", "fc_norm", *(n for n in children if is_readout(n))]
    if hasattr(net, "layer4"):
        pooled = isinstance(children.get("maxpool"), nn.Module) and not isinstance(
            children["maxpool"], nn.Identity
        )
        stem = "maxpool" if pooled else ("act1" if "act1" in children else "relu")
        return [stem, "layer1", "layer2", "layer3", "layer4", *ends]
    if "patch_embed" in children and "blocks" in children:
        return ["patch_embed", *(f"blocks.{name}" for name, _ in children["blocks"].named_children()), *ends]
    info = getattr(net, "feature_info", None)
    if isinstance(info, list):
        return [*(str(entry["module"]) for entry in info if "module" in entry), *ends]
    names: list[str] = []
    for name, child in children.items():
        inner = child.named_children() if isinstance(child, _CONTAINERS) else [("", child)]
        names += [f"{name}.{n}".rstrip(".") for n, layer in inner if _has_parameters(layer)]
    return [clean(name) for name in names]


@contextmanager
def hooked(module: nn.Module, layers: Iterable[str], record: Record) -> Iterator[None]:
    """Call ``record(layer, output)`` whenever a layer has run; every hook is gone afterwards.

    Layers that do not exist are left out.
    """
    named = named_layers(module)

    def hook_for(name: str) -> Callable[[nn.Module, object, object], None]:
        return lambda _module, _inputs, output: record(name, output)

    with ExitStack() as stack:
        for name in layers:
            if name in named:
                stack.callback(named[name].register_forward_hook(hook_for(name)).remove)
        yield


def first_tensor(layer: str, output: object) -> Tensor | PackedSequence:
    """Return the first tensor, or packed sequence, of a layer's output; also of collections in it."""
    found = _first(output)
    if found is None:
        raise ConfigurationError(
            f"layers: {layer!r} gives {type(output).__name__}, not a tensor; choose another"
        )
    return found


def _first(output: object) -> Tensor | PackedSequence | None:
    if isinstance(output, Tensor):
        return output.detach()
    if isinstance(output, PackedSequence):
        return output
    if is_dataclass(output) and not isinstance(output, type) and not isinstance(output, Mapping):
        values: Iterable[object] = (getattr(output, one.name, None) for one in fields(output))
    elif isinstance(output, Mapping):
        values = output.values()
    else:
        values = output if isinstance(output, tuple | list) else ()
    return next((found for value in values if (found := _first(value)) is not None), None)
