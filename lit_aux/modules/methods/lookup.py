"""Methods by the names and objects that users give."""

from collections.abc import Callable
from importlib import import_module
from inspect import isabstract, isclass
from typing import Any

from torch import nn

from lit_aux.errors import ConfigurationError, not_installed, unknown_name
from lit_aux.modules.methods import weightings
from lit_aux.modules.methods.aggregation import Aggregation
from lit_aux.modules.methods.gradnorm import GradNorm
from lit_aux.modules.methods.task_method import TaskMethod

WEIGHTINGS: dict[str, Callable[[], TaskMethod]] = {
    "constant": TaskMethod,
    "uncertainty": weightings.UncertaintyWeighting,
    "random": weightings.RandomWeighting,
    "gradnorm": GradNorm,
}
_KINDS = {"aggregation": "Aggregator", "scalarization": "Scalarizer"}


def method_of(aggregator: nn.Module | str | None, weighting: nn.Module | str | None) -> TaskMethod:
    """Return the method that a module's options ask for.

    Args:
        aggregator: An aggregator, or the name of one of TorchJD's.
        weighting: A weighting, the word for one of them, or a scalarizer or the name of one of TorchJD's.

    Raises:
        ConfigurationError: If both are given, one is unknown, or TorchJD is not installed.
    """
    if aggregator is not None and weighting not in (None, "constant"):
        raise ConfigurationError(
            f"weighting: {_shown(weighting)} and the aggregator {_shown(aggregator)} both decide how tasks "
            "combine; give one of them (task_weights goes with either)"
        )
    if aggregator is not None:
        if isinstance(aggregator, str):
            aggregator = _of_torchjd("aggregator", aggregator, "aggregation")
        if isinstance(aggregator, TaskMethod) or _is_kind(aggregator, "scalarization"):
            raise ConfigurationError(f"aggregator: {_shown(aggregator)} weighs losses; give it as weighting")
        return Aggregation(aggregator)
    if weighting is None:
        return TaskMethod()
    if isinstance(weighting, str):
        if weighting in WEIGHTINGS:
            return WEIGHTINGS[weighting]()
        weighting = _of_torchjd("weighting", weighting, "scalarization", list(WEIGHTINGS))
    if _is_kind(weighting, "aggregation"):
        raise ConfigurationError(f"weighting: {_shown(weighting)} combines gradients; give it as aggregator")
    if isinstance(weighting, weightings.LossWeighting):
        return weighting
    return weightings.Scalarization(weighting)


def _shown(given: nn.Module | str | None) -> str:
    return repr(given) if isinstance(given, str) else type(given).__name__


def _is_kind(given: nn.Module, kind: str) -> bool:
    """Whether an object is one of TorchJD's; it can be so only where TorchJD is installed."""
    bases = (base for base in type(given).__mro__ if base.__module__.startswith("torchjd"))
    return any(base.__name__ == _KINDS[kind] for base in bases)


def _of_torchjd(option: str, name: str, kind: str, words: list[str] | None = None) -> nn.Module:
    """Build one of TorchJD's classes that needs no arguments."""
    prefix = f"torchjd.{kind}."
    short = name.removeprefix(prefix)
    try:
        module = import_module(f"torchjd.{kind}")
    except ImportError as error:
        if words is not None and not name.startswith("torchjd."):
            raise unknown_name(option, name, words) from error
        raise not_installed(f"{option}: {name!r}", "TorchJD", "aggregators") from error
    base = getattr(module, _KINDS[kind])
    found: dict[str, Any] = {
        n: c
        for n, c in vars(module).items()
        if isclass(c) and issubclass(c, base) and not isabstract(c) and not c.__module__.endswith("_bases")
    }
    if short not in found:
        raise unknown_name(option, short, [*(words or []), *found])
    try:
        built: nn.Module = found[short]()
    except (TypeError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0].replace(f"{short}.__init__() ", "")
        raise ConfigurationError(
            f"{option}: {short} cannot be built by its name alone ({reason}); give "
            f"{{class_path: {prefix}{short}, init_args: {{...}}}}"
        ) from error
    return built
