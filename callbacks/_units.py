"""Finding the weights of hidden units in anybody's module."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lit_aux.callbacks._layers import named_layers
from lit_aux.callbacks._names import match
from lit_aux.callbacks._parameters import by_any_name, refuse_uninitialized
from lit_aux.errors import ConfigurationError

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def unit_weights_by_name(module: nn.Module) -> dict[str, Tensor]:
    """Return every parameter that may hold units' weights: (units, inputs) or (replicas, units, inputs).

    A parameter ``NAME.weight`` is found as ``NAME`` too. The weights of a convolution count as (channels,
    everything else). Values are detached, not copied.
    """
    owners = named_layers(module)
    found: dict[str, Tensor] = {}
    for name, parameter in by_any_name(module).items():
        if is_lazy(parameter) or not parameter.is_floating_point():
            continue
        weights = parameter.detach()
        owner, _, last = name.rpartition(".")
        if weights.ndim > 2 and isinstance(owners.get(owner), _CONVOLUTIONS):
            weights = weights.flatten(1)
        if weights.ndim not in (2, 3):
            continue
        if last == "weight" and owner:
            found.setdefault(owner, weights)
        found[name] = weights
    return found


def find_weights(option: str, module: nn.Module, pattern: str) -> dict[str, Tensor]:
    """Return the weights that a name or glob means, by name; each once, under its module's name if that fits.

    Raises:
        ConfigurationError: If nothing fits, or a parameter of that name has another shape.
    """
    named = by_any_name(module)
    known = unit_weights_by_name(module)
    if pattern in named and pattern not in known:
        refuse_uninitialized(option, {pattern: named[pattern]})
        if not named[pattern].is_floating_point():
            dtype = str(named[pattern].dtype).removeprefix("torch.")
            raise ConfigurationError(f"{option}: {pattern!r} is of {dtype}; name weights of real numbers")
        raise ConfigurationError(
            f"{option}: {pattern!r} has shape {tuple(named[pattern].shape)}; name weights of shape "
            "(units, inputs) or (replicas, units, inputs)"
        )
    found: dict[int, tuple[str, Tensor]] = {}
    for name in match(option, [pattern], known):
        found.setdefault(known[name].data_ptr(), (name, known[name]))
    return dict(found.values())


def find_one(option: str, module: nn.Module, pattern: str) -> Tensor:
    """Return the weights that a name or glob means.

    Raises:
        ConfigurationError: If nothing fits, or more than one parameter.
    """
    found = find_weights(option, module, pattern)
    if len(found) > 1:
        raise ConfigurationError(f"{option}: {pattern!r} means {', '.join(found)}; name one of them")
    return next(iter(found.values()))


def stacked(weights: Tensor) -> Tensor:
    """Return weights with a leading replica axis."""
    return weights if weights.ndim == 3 else weights[None]


def check_counts(k: Iterable[int], units: int, layer: str) -> None:
    """Raise `ConfigurationError` for more clusters than a layer has units."""
    if max(k) > units:
        raise ConfigurationError(
            f"k: {max(k)} clusters of the {units} units of {layer!r}; give at most {units}"
        )


def phase_tasks(module: object, tasks: Iterable[str] | str | None) -> list[str]:
    """Return the tasks given, else those of the module's phase; none where there are no phases."""
    if tasks is not None:
        return [tasks] if isinstance(tasks, str) else list(tasks)
    return list(getattr(getattr(module, "phase", None), "tasks", None) or [])


def rows_of(net: object, task: str | None, outputs: int) -> slice:
    """Return the rows of a network's readout that belong to a task, all of them if that cannot be told."""
    slices = getattr(net, "task_slices", None)
    if task is not None and isinstance(slices, Mapping) and task in slices:
        rows: slice = slices[task]
        return rows
    return slice(0, outputs)
