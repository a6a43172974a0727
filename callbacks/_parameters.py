"""Parameters of anybody's network by name: which are meant, which are the readout, which have numbers."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torchmetrics import Metric

from lit_aux.adapters import BASE, adapted_layers
from lit_aux.errors import ConfigurationError, some, unknown_name

READOUTS = frozenset({"head", "heads", "readout", "readouts", "fc", "classifier"})
"""Name components by which the readout of a network is recognised."""

SHOWN = 8
"""Names of parameters in one line, of many."""
_SPARSE = (
    "{user}: {name!r} has sparse gradients, which it cannot work with; set sparse=False there, or do without "
    "{user}"
)
_LAYERS = (nn.Linear, nn.Bilinear, nn.Embedding, nn.modules.conv._ConvNd, nn.RNNBase, nn.MultiheadAttention)
_BLOCKS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def clean(name: str) -> str:
    """Drop the ``_orig_mod`` components that ``torch.compile`` puts into names."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def cleaner(module: nn.Module) -> Callable[[str], str]:
    """Return what drops from names in a module the components that whatever wraps layers puts into them.

    These are ``torch.compile``, and low-rank adapters, whose layers hold as ``base_layer`` what they adapt.
    """
    within = {f"{name}.{BASE}".removeprefix(".") for name in adapted_layers(module)}
    if not within:
        return clean

    def drop(name: str) -> str:
        parts = name.split(".")
        kept = (part for i, part in enumerate(parts) if ".".join(parts[: i + 1]) not in within)
        return clean(".".join(kept))

    return drop


def uncompiled(module: Any) -> Any:
    """Return what ``torch.compile`` wraps, or the module itself."""
    return getattr(module, "_orig_mod", module)


def is_readout(name: str) -> bool:
    """Whether a dotted name lies in what is usually called the readout."""
    return not READOUTS.isdisjoint(name.split("."))


def match(option: str, patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return the names that any of the patterns matches, in the order of ``names``.

    Args:
        option: The option that holds the patterns, for the error.
        patterns: Exact names or globs (``*``, ``?``, ``[...]``; a ``*`` also spans dots).
        names: The names to choose from.

    Raises:
        ConfigurationError: If a pattern matches nothing; the nearest names are offered.
    """
    names = list(names)
    found: set[str] = set()
    for pattern in patterns:
        hits = {name for name in names if fnmatchcase(name, pattern)}
        if not hits:
            raise unknown_name(option, pattern, names)
        found |= hits
    return [name for name in names if name in found]


def by_any_name(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return all parameters; tied ones under each of their names, wrapped ones without their prefix."""
    plain = cleaner(module)
    return {plain(name): p for name, p in module.named_parameters(remove_duplicate=False)}


def by_first_name(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return all parameters, each once, as ``named_parameters`` but without prefixes of what wraps layers."""
    plain = cleaner(module)
    return {plain(name): p for name, p in module.named_parameters()}


def chosen_by(option: str, patterns: Iterable[str], module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that patterns match under any of their names, by their first names.

    Raises:
        ConfigurationError: If a pattern matches nothing.
    """
    named = by_any_name(module)
    ids = {id(named[name]) for name in match(option, patterns, named)}
    return {name: p for name, p in by_first_name(module).items() if id(p) in ids}


def is_continuous(tensor: Tensor) -> bool:
    """Whether a tensor holds real or complex numbers to compute with: no integers, nothing quantised.

    Floating-point numbers of one byte are storage formats; what is stored in other types of their own
    (``torch.quint8``, packed integers) has no floating-point type either.
    """
    return (tensor.is_floating_point() and tensor.element_size() > 1) or tensor.is_complex()


def without_integers(
    user: str, named: Mapping[str, nn.Parameter], *, tell: bool = True
) -> dict[str, nn.Parameter]:
    """Return the tensors that are numbers to compute with, and what has no value yet.

    Args:
        user: Who asks, for the info line.
        named: Tensors by name.
        tell: Whether to say in an info line which are integer or quantised.
    """
    skipped = integer_names({name: p for name, p in named.items() if not is_lazy(p)})
    if skipped and tell:
        rank_zero_info(f"{user}: skipped what is integer or quantised: {some([*skipped.values()], SHOWN)}")
    return {name: p for name, p in named.items() if name not in skipped}


def integer_names(named: Mapping[str, Tensor]) -> dict[str, str]:
    """Return those of some parameters that are integer or quantised: by name, how to say which."""
    kinds = {name: str(p.dtype).removeprefix("torch.") for name, p in named.items() if not is_continuous(p)}
    return {name: f"{name} ({kind})" for name, kind in kinds.items()}


def refuse_uninitialized(user: str, named: Mapping[str, Tensor]) -> None:
    """Raise if a tensor of a lazy layer has no shape yet.

    Raises:
        ConfigurationError: With its name.
    """
    lazy = [name for name, tensor in named.items() if is_lazy(tensor)]
    if lazy:
        raise ConfigurationError(
            f"{user}: {lazy[0]!r} has no value yet, as its layer is lazy; run a batch through the network "
            "before the fit"
        )


def refuse_sparse_layers(user: str, module: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """Raise if some parameters will have sparse gradients, as those of ``nn.Embedding(sparse=True)``.

    Raises:
        ConfigurationError: With the name of the layer.
    """
    ids = {id(parameter) for parameter in parameters}
    plain = cleaner(module)
    for name, layer in module.named_modules():
        own = (id(parameter) for parameter in layer.parameters(recurse=False))
        if getattr(layer, "sparse", False) is True and not ids.isdisjoint(own):
            raise ConfigurationError(_SPARSE.format(user=user, name=plain(name)))


def refuse_sparse(user: str, name: str, gradient: Tensor | None) -> None:
    """Raise for a sparse gradient, which no check before has foreseen.

    Raises:
        ConfigurationError: With the parameter's name.
    """
    if gradient is not None and gradient.layout is not torch.strided:
        raise ConfigurationError(_SPARSE.format(user=user, name=name))


def squares(tensor: Tensor) -> Tensor:
    """Return squares in double precision, of complex numbers those of their moduli."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.double().square()


def shared_parameters(
    module: LightningModule,
    patterns: Sequence[str] | None,
    user: str,
    *,
    frozen: bool = False,
    tell: bool = False,
) -> dict[str, nn.Parameter]:
    """Return the shared parameters by name; tied ones once, for whichever of their names was meant.

    Args:
        module: The module of a fit.
        patterns: Globs over parameter names; by default all but the module's ``readout_parameters()``.
        user: Who needs them, for the error.
        frozen: Whether those that do not train at the moment are wanted, too: they may later.
        tell: Whether integer and quantised parameters, which never train, are named in an info line.

    Raises:
        ConfigurationError: If a pattern matches nothing, there is nothing that could train, or there are
            neither patterns nor ``readout_parameters``.
    """
    if patterns is not None:
        shared = chosen_by(f"{user}: shared", patterns, module)
    elif callable(readout := getattr(module, "readout_parameters", None)):
        own = {id(parameter) for parameter in readout()}
        shared = {name: p for name, p in by_first_name(module).items() if id(p) not in own}
    else:
        raise ConfigurationError(
            f"{user}: shared: name the parameters that tasks share, as ['backbone.*'], or give "
            f"{type(module).__name__} a readout_parameters()"
        )
    shared = without_integers(user, shared, tell=tell)
    if not shared:
        raise ConfigurationError(f"{user}: shared: none of the shared parameters can train")
    return {name: p for name, p in shared.items() if frozen or p.requires_grad}


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
        return [] if after else _of(children[named[-1]][1])
    modules = [(name, child) for name, child in children if isinstance(child, nn.Module)]
    networks = [(name, child) for name, child in modules if _is_network(child)] or modules
    if not networks:
        return []
    name, last = networks[-1]
    alike = [child for _, child in networks if type(child) is type(last)]
    if len(alike) > 1 and (name.isdigit() or isinstance(last, _BLOCKS)):
        return []  # blocks, of which the last one is no readout either
    return [parameter for network in alike for parameter in _search(network)]


def _told(module: Any) -> list[nn.Parameter] | None:
    """Return what a module says its readout is; None if it says nothing."""
    if callable(ask := getattr(module, "readout_parameters", None)):
        with suppress(AttributeError):  # of a network inside it that has no such method
            return list(ask())
    if callable(ask := getattr(module, "get_classifier", None)):
        return _of(ask())
    return None


def _of(part: Any) -> list[nn.Parameter]:
    """Return the parameters of a module, of several, or a parameter itself."""
    if isinstance(part, nn.Parameter):
        return [part]
    if isinstance(part, nn.Module):
        return list(part.parameters())
    return [p for one in part for p in _of(one)] if isinstance(part, Iterable) else []


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    """Yield parameters and children with parameters, by name; losses and metrics are not of the network."""
    yield from module.named_parameters(recurse=False)
    for name, child in module.named_children():
        foreign = isinstance(child, Metric | nn.modules.loss._Loss)
        outside = foreign or getattr(child, "outside_network", False)
        if not outside and next(child.parameters(), None) is not None:
            yield name, uncompiled(child)


def _is_network(child: nn.Module) -> bool:
    """Whether a child has layers: a loss with parameters, or weights of tasks, has none."""
    return any(isinstance(layer, _LAYERS) for layer in child.modules())


def _ends_linear(child: nn.Module | nn.Parameter) -> bool:
    """Whether a child is a linear layer, or a few layers that end in one: what a readout looks like."""
    if isinstance(child, nn.Sequential) and len(child):
        child = child[-1]
    return isinstance(child, nn.Linear)
