"""The key of a run: its resolved configuration, and the code of what that names; nothing is built."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lit_aux.identity.modules import file_of, imported, library_of
from lit_aux.identity.source import NoSourceError, add_module
from lit_aux.teachers import RELU_DRAWS

_DOTTED = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")
_WITHOUT_EFFECT = {
    *("accelerator", "barebones", "benchmark", "default_root_dir", "detect_anomaly", "profiler", "logger"),
    *("enable_autolog_hparams", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"),
    *("inference_mode", "log_every_n_steps", "num_sanity_val_steps", "phase_store"),
}
"""Options of the Trainer that decide no number."""
_PASSIVE = re.compile(
    r"^(lightning\.pytorch|pytorch_lightning)\.callbacks\.([\w.]+\.)?"
    r"(ModelCheckpoint|\w*Checkpoint|DeviceStatsMonitor|LearningRateMonitor|\w*ModelSummary|\w*ProgressBar"
    r"|ThroughputMonitor)$"
)
LIMITS = ("max_epochs", "max_steps", "max_time")
OF_PLACE = frozenset({"download", "num_workers", "pin_memory", "persistent_workers", "eval_batch_size"})
"""Options of data modules that say where files lie and how they are read."""
_KNOWN_DATA = ("CIFAR100DataModule", "FashionMNISTDataModule", "FashionMTLDataModule")
"""Data that are the same wherever their folder lies."""


def run_identity(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return what names a run: its configuration but for what decides no number, and the code that it names.

    Neither versions nor anything built enter, so that a run is known before it starts, on any machine. What
    is in the files that the configuration names is not looked at.

    Args:
        configuration: What ``lit-aux fit --print_config`` prints, with ``trainer``, ``model``, ``data`` and
            ``seed_everything``.
    """
    elsewhere = ("config", "ckpt_path", "weights_only", "open")
    found = {name: value for name, value in configuration.items() if name not in elsewhere}
    trainer = dict(found.get("trainer") or {})
    callbacks = trainer.get("callbacks") or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    kept = [callback for callback in callbacks if not _is_passive(callback)]
    options = {k: v for k, v in trainer.items() if k not in _WITHOUT_EFFECT}
    found["trainer"] = options | {"callbacks": kept}
    if isinstance(found.get("data"), Mapping):
        found["data"] = _without_place(found["data"])
    return {"configuration": _given(found), "code": named_code(found)}


def flat_options(configuration: Mapping[str, Any]) -> dict[str, str]:
    """Return the options that decide a run's numbers by the names that set them, but for limits.

    Args:
        configuration: As for :func:`run_identity`.
    """
    found: dict[str, str] = {}

    def add(path: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for name, inner in value.items():
                add(path if name == "init_args" else f"{path}.{name}", inner)
        elif path.rpartition(".")[2] not in LIMITS:
            found[path] = str(value)

    for name, value in run_identity(configuration)["configuration"].items():
        add(f"--{name}", value)
    return found


_REDRAWN = {"ReLUTeacherDataModule": RELU_DRAWS}


def named_code(configuration: Any) -> dict[str, str]:
    """Return the digests of the code that a configuration, or a command line, names by dotted paths.

    Modules are found, not imported. Installed packages and lit_aux itself add nothing, but for data of its
    own that were drawn otherwise before.

    Args:
        configuration: Mappings, lists and texts; ``--option=module.Class`` is read as well.
    """
    found: dict[str, str] = {}
    with working_folder():
        for text in _texts(configuration):
            found |= {name: f"draws {version}" for name, version in _REDRAWN.items() if text.endswith(name)}
            module = _module_in(text)
            if module is not None and module not in found:
                try:
                    add_module(found, module)
                except NoSourceError:  # it cannot be told from others: its name is all that is known
                    found[module] = "no source"
    return dict(sorted(found.items()))


def know_working_folder() -> None:
    """Let classes of the user's own be named as ``module.Class``: the working folder is looked at last."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def option_in(config: Any, name: str) -> Any:
    """Return what a configuration holds for an option; None where it holds nothing.

    Args:
        config: Mappings, with or without ``init_args`` where a class is named.
        name: The option's dotted name without ``init_args``.
    """
    for key in name.split("."):
        if not isinstance(config, Mapping):
            return None
        inner = config.get("init_args")
        config = inner[key] if isinstance(inner, Mapping) and key in inner else config.get(key)
    return config


@contextmanager
def working_folder() -> Iterator[None]:
    """Find modules in the working folder too, as ``lit-aux fit`` does."""
    here = os.getcwd()
    if here in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _is_passive(callback: Any) -> bool:
    """Whether a callback of a configuration changes no weight; its class is imported to be asked."""
    path = str(callback.get("class_path", "")) if isinstance(callback, Mapping) else str(callback)
    if _PASSIVE.match(path):
        return True
    kind = imported(path)
    if kind is None:
        return False
    bases: list[Mapping[str, Any]] = [*map(vars, kind.__mro__), {"changes_training": True}]
    told = next(base for base in bases if "changes_training" in base)
    return told.get("changes_training", True) is False and (
        kind.__module__.startswith("lit_aux.") or not str(told.get("__module__", "")).startswith("lit_aux.")
    )


def _without_place(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a data module's configuration without where its files lie and how they are read."""
    known = str(data.get("class_path", "")).rpartition(".")[2] in _KNOWN_DATA
    dropped = OF_PLACE | ({"root"} if known else set())
    options = data.get("init_args")
    if not isinstance(options, Mapping):
        return dict(data)
    return {**data, "init_args": {name: value for name, value in options.items() if name not in dropped}}


def _given(value: Any) -> Any:
    """Return a configuration without what is not given, which new versions of a class may add to."""
    if isinstance(value, Mapping):
        return {str(k): _given(v) for k, v in value.items() if v is not None and v != {} and v != []}
    if isinstance(value, list | tuple):
        return [_given(member) for member in value]
    return value if isinstance(value, bool | int | float | str) else str(value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value.partition("=")[2] if value.startswith("--") and "=" in value else value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _module_in(path: str) -> str | None:
    """Return the module of a dotted path ``module.Class.method`` that is somebody's own; else None."""
    if not _DOTTED.match(path):
        return None
    parts = path.split(".")
    if library_of(parts[0]) is not None:
        return None
    for end in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:end])
        if file_of(name) is not None:
            return None if library_of(name) is not None else name
    return None
