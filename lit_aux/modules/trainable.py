"""Which parameters of a module train in a phase."""

from fnmatch import fnmatch

from torch import nn

from lit_aux.callbacks._parameters import by_any_name
from lit_aux.errors import ConfigurationError
from lit_aux.phases.phase import Phase


def trainable_names(module: nn.Module, phase: Phase) -> set[str]:
    """Return the names of the parameters that train, of tied ones the first: that of ``named_parameters``.

    Patterns are over all names of tied parameters, without the prefixes of compiled modules. What is neither
    real nor complex cannot train.

    Raises:
        ConfigurationError: If a pattern of the phase matches none.
    """
    able = {name: p for name, p in module.named_parameters() if p.is_floating_point() or p.is_complex()}
    if phase.trainable == "all":
        return set(able)
    named = by_any_name(module)
    names = list(named)
    patterns = ["net.readout.*"] if phase.trainable == "readout" else list(phase.trainable)
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise ConfigurationError(
                f"phases: trainable pattern {pattern!r} of phase {phase.name!r} matches no parameter; "
                f"names look like {names[0]!r} and {names[-1]!r}"
            )
    chosen = {id(p) for name, p in named.items() if any(fnmatch(name, pattern) for pattern in patterns)}
    return {name for name, p in able.items() if id(p) in chosen}
