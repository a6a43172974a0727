"""What objects of a fit say of their options, for the hash that names a run."""

from typing import Any

from lit_aux.phases import Phase

Options = dict[str, Any]
_KINDS = (int, float, str, bool, type(None))


def plain(thing: Any) -> Options:
    """Return the public attributes of an object that are numbers, texts or lists of them.

    Args:
        thing: A phase, a layer, a data module, ...; whether a layer is in training mode is left out.
    """
    return {
        name: value
        for name, value in vars(thing).items()
        if not name.startswith("_")
        and name != "training"
        and (
            isinstance(value, _KINDS)
            or (isinstance(value, list) and all(isinstance(v, _KINDS) for v in value))
        )
    }


def of_replica(value: Any, replica: int) -> Any:
    """Return a replica's own value of an option that may be a list with one for each."""
    return value[replica] if isinstance(value, list | tuple) else value


def of_phase(phase: Phase, replica: int = 0) -> Options:
    """Return a phase's options, those of its integrator or optimizer, and those of its schedule."""
    options = plain(phase) | {"readout_scale": of_replica(phase.readout_scale, replica)}
    options.pop("integrator", None)  # an object: its own options follow
    if phase.integrator is not None:
        options["integrator"] = {"kind": type(phase.integrator).__name__, **plain(phase.integrator)}
    elif phase.optimizer is not None:
        options |= _built(phase)
    return options


def _built(phase: Phase) -> Options:
    """Return what an optimizer and a schedule that are given as callables are when they are built."""
    import torch

    assert phase.optimizer is not None
    built = phase.optimizer([torch.nn.Parameter(torch.zeros(1, 1))])
    defaults = {"kind": type(built).__name__, **built.defaults}
    options: Options = {"optimizer": {k: v for k, v in defaults.items() if isinstance(v, int | float | str)}}
    if phase.lr_scheduler is not None:
        schedule = phase.lr_scheduler(built)
        options["lr_scheduler"] = {"kind": type(schedule).__name__, **plain(schedule)}
    return options
