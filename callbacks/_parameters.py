"""Which parameters callbacks can work with, whatever their names, and what is said of the others."""

from collections.abc import Iterable, Mapping

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lit_aux.callbacks._names import clean, match
from lit_aux.errors import ConfigurationError

_SHOWN = 8


def by_any_name(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return all parameters; tied ones under each of their names, compiled ones without their prefix."""
    return {clean(name): p for name, p in module.named_parameters(remove_duplicate=False)}


def by_first_name(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return all parameters, each once, as ``named_parameters`` but without prefixes of compilation."""
    return {clean(name): p for name, p in module.named_parameters()}


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


def without_integers(user: str, named: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Return the parameters that are numbers to compute with; say which are not.

    Args:
        user: Who asks, for the message and the error.
        named: Parameters by name.

    Raises:
        ConfigurationError: If one is not initialized yet.
    """
    refuse_uninitialized(user, named)
    skipped = integer_names(named)
    if skipped:
        rank_zero_info(f"{user}: skipped what is integer or quantised: {listed(skipped.values())}")
    return {name: p for name, p in named.items() if name not in skipped}


def integer_names(named: Mapping[str, Tensor]) -> dict[str, str]:
    """Return those of some parameters that are integer or quantised: by name, how to say which."""
    return {
        name: f"{name} ({str(p.dtype).removeprefix('torch.')})"
        for name, p in named.items()
        if not is_continuous(p)
    }


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
    for name, layer in module.named_modules():
        own = (id(parameter) for parameter in layer.parameters(recurse=False))
        if getattr(layer, "sparse", False) is True and not ids.isdisjoint(own):
            raise ConfigurationError(_SPARSE.format(user=user, name=clean(name)))


def refuse_sparse(user: str, name: str, gradient: Tensor | None) -> None:
    """Raise for a sparse gradient, which no check before has foreseen.

    Raises:
        ConfigurationError: With the parameter's name.
    """
    if gradient is not None and gradient.layout is not torch.strided:
        raise ConfigurationError(_SPARSE.format(user=user, name=name))


_SPARSE = (
    "{user}: {name!r} has sparse gradients, which it cannot work with; set sparse=False there, or do without "
    "{user}"
)


def squares(tensor: Tensor) -> Tensor:
    """Return squares in double precision, of complex numbers those of their moduli."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.double().square()


def listed(names: Iterable[str]) -> str:
    """Return names in one line, the first of many."""
    found = list(names)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more
