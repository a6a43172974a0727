"""Which parameters of a module train in a phase."""

from fnmatch import fnmatch

from torch import nn

from lit_aux.errors import ConfigurationError
from lit_aux.phases.phase import Phase


def trainable_names(module: nn.Module, phase: Phase) -> set[str]:
    """Return the names of the parameters that train.

    Raises:
        ConfigurationError: If a pattern of the phase matches none.
    """
    names = [name for name, _ in module.named_parameters()]
    if phase.trainable == "all":
        return set(names)
    patterns = ["net.readout.*"] if phase.trainable == "readout" else list(phase.trainable)
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise ConfigurationError(
                f"phases: trainable pattern {pattern!r} of phase {phase.name!r} matches no parameter; "
                f"names look like {names[0]!r} and {names[-1]!r}"
            )
    return {name for name in names if any(fnmatch(name, pattern) for pattern in patterns)}
