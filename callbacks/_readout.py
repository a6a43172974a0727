"""Finding the readout of a network: its last layer, not whatever else bears such a name."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from torch import nn
from torchmetrics import Metric

from lit_aux.callbacks._names import READOUTS, uncompiled
from lit_aux.callbacks._parameters import by_first_name

_LAYERS = (nn.Linear, nn.Bilinear, nn.Embedding, nn.modules.conv._ConvNd, nn.RNNBase, nn.MultiheadAttention)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def readout_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a module's readout by name; none where it cannot be told.

    Whoever says what its readout is, is asked: ``readout_parameters()`` of the project's modules and of those
    that follow them, ``get_classifier()`` of timm's networks. In others the readout is the last child
    called ``head``, ``heads``, ``readout``, ``readouts``, ``fc`` or ``classifier`` of the network itself,
    where no linear layer by another name comes after it. Inside blocks such names mean nothing.
    """
    found = {id(parameter) for parameter in _search(module)}
    return {name: p for name, p in by_first_name(module).items() if id(p) in found}


def _search(module: nn.Module) -> list[nn.Parameter]:
    """Return the readout of a module: of itself, of its last part, or of equal networks side by side."""
    told = _told(module)
    if told is not None:
        return told
    children = list(_children(module))
    named = [place for place, (name, _) in enumerate(children) if name in READOUTS]
    if named:
        after = any(_ends_linear(child) for _, child in children[named[-1] + 1 :])
        return [] if after else _parameters(children[named[-1]][1])
    modules = [(name, child) for name, child in children if isinstance(child, nn.Module)]
    networks = [(name, child) for name, child in modules if _is_network(child)] or modules
    if not networks:
        return []
    name, last = networks[-1]
    alike = [child for _, child in networks if type(child) is type(last)]
    if len(alike) > 1 and (name.isdigit() or isinstance(last, _CONTAINERS)):
        return []  # blocks, of which the last one is no readout either
    return [parameter for network in alike for parameter in _search(network)]


def _told(module: Any) -> list[nn.Parameter] | None:
    """Return what a module says its readout is; None if it says nothing."""
    if callable(ask := getattr(module, "readout_parameters", None)):
        with suppress(AttributeError):  # of a network inside it that has no such method
            return list(ask())
    if callable(ask := getattr(module, "get_classifier", None)):
        return _parameters(ask())
    return None


def _parameters(part: Any) -> list[nn.Parameter]:
    """Return the parameters of a module, of several, or a parameter itself."""
    if isinstance(part, nn.Parameter):
        return [part]
    if isinstance(part, nn.Module):
        return list(part.parameters())
    return [p for one in part for p in _parameters(one)] if isinstance(part, Iterable) else []


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    """Yield parameters and children with parameters, by name; losses and metrics are not of the network."""
    yield from module.named_parameters(recurse=False)
    for name, child in module.named_children():
        foreign = isinstance(child, Metric | nn.modules.loss._Loss) or getattr(
            child, "outside_network", False
        )
        if not foreign and next(child.parameters(), None) is not None:
            yield name, uncompiled(child)


def _is_network(child: nn.Module) -> bool:
    """Whether a child has layers: a loss with parameters, or weights of tasks, has none."""
    return any(isinstance(layer, _LAYERS) for layer in child.modules())


def _ends_linear(child: nn.Module | nn.Parameter) -> bool:
    """Whether a child is a linear layer, or a few layers that end in one: what a readout looks like."""
    if isinstance(child, nn.Sequential) and len(child):
        child = child[-1]
    return isinstance(child, nn.Linear)
