"""What a sweep over rescale factors needs of its options, checked before anything is fitted."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from lit_aux.callbacks import RepresentationDimensionality
from lit_aux.callbacks._layers import resolve_layers
from lit_aux.errors import ConfigurationError, unknown_name
from lit_aux.experiments.expand import listed, whole
from lit_aux.models import StudentNet
from lit_aux.modules import PretrainFinetuneModule
from lit_aux.ranges import POSITIVE, SCALE
from lit_aux.regimes.building import build, class_of
from lit_aux.reporting import short_layer

FACTORS = (1.0, 0.5, 0.25, 0.125)
_MEASURES = "lit_aux.callbacks.RepresentationDimensionality"


def factors_of(given: Any) -> list[float]:
    """Return the rescale factors, each once.

    Args:
        given: A number, a list of numbers, or None for 1, 1/2, 1/4 and 1/8.

    Raises:
        ConfigurationError: For no factor, or one that is not finite and above 0.
    """
    values = listed("--factors", given, FACTORS)
    for value in values:
        if value not in POSITIVE:
            raise ConfigurationError(f"--factors {value!r}: must be a finite number above 0")
        if value not in SCALE:
            raise ConfigurationError(f"--factors {value!r}: must be {SCALE}")
    return list(dict.fromkeys(float(value) for value in values))


def seeds_of(given: Any, config: Mapping[str, Any]) -> list[int]:
    """Return the seeds, each once.

    Args:
        given: A whole number, a list of them, or None for that of the configuration.
        config: The configuration.

    Raises:
        ConfigurationError: For anything else.
    """
    seed = config.get("seed_everything")
    default = 0 if isinstance(seed, bool) or seed is None else seed
    return whole("--seeds", given, [default], 0, 2**32 - 1)


def resolved(words: Sequence[str], fit: Callable[[list[str]], Any]) -> dict[str, Any]:
    """Return the whole configuration that options of ``lit-aux fit`` make, ready for a sweep.

    Dimensionality is measured even where the configuration does not say so, nothing is tested, and where the
    configuration leaves them open, every fit has one device and keeps no checkpoints.

    Args:
        words: ``--config FILE`` and other options of ``lit-aux fit``.
        fit: Carries out a ``lit-aux`` command line in this process.

    Raises:
        ConfigurationError: If a file is missing, or there is no factor to vary.
    """
    for option, file in _configs(words):
        if not Path(file).is_file():
            raise ConfigurationError(f"{option} {file}: there is no such file")
    for word in words:
        name = word.partition("=")[0]
        if name in ("--model.rescale", "--model.init_args.rescale"):
            raise ConfigurationError(f"{word}: the factors are those of --factors; leave it out")
    printed = StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        fit(["fit", *words, "--print_config"])
    config: dict[str, Any] = yaml.safe_load(printed.getvalue())
    _check(config)
    trainer = config["trainer"]
    trainer["test_after_phase"] = False
    if trainer.get("devices", "auto") == "auto":
        trainer["devices"] = 1
    if trainer.get("enable_checkpointing") is None:
        trainer["enable_checkpointing"] = False  # 100 MB and more for every factor
    if _measuring(trainer) is None:
        trainer["callbacks"] = [*_callbacks(trainer), {"class_path": _MEASURES}]
    return config


def _configs(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return the configuration files that are named, with their options."""
    found = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        option, sign, value = word.partition("=")
        if option in ("--config", "-c", "--data", "--model") and not (following or value).startswith("--"):
            file = value if sign else following
            if option in ("--config", "-c") or file.endswith((".yaml", ".yml")):
                found.append((option, file))
    return found


def _check(config: Mapping[str, Any]) -> None:
    """Refuse what has no phase before which weights could be rescaled."""
    kind, options = class_of(config["model"]), config["model"].get("init_args", {})
    if kind is None or not issubclass(kind, PretrainFinetuneModule):
        name = "this module" if kind is None else kind.__name__
        raise ConfigurationError(
            f"--model {name}: it has no rescale factor; give a configuration of pretraining and finetuning "
            "(PretrainFinetuneModule)"
        )
    if issubclass(class_of(options.get("backbone")) or object, StudentNet):
        raise ConfigurationError(
            "--config: its network is a student, whose place is known feature by feature; train it with "
            "lit-aux fit and give the run's folder"
        )
    if options.get("phases"):
        raise ConfigurationError("--model.phases: phases of one's own do not know the rescale factor")
    if options.get("finetune") == "probe":
        raise ConfigurationError(
            "--model.finetune probe: a linear probe leaves every feature as it is; finetune with full or "
            "probe_then_full"
        )
    if config["trainer"].get("fast_dev_run"):
        raise ConfigurationError("--trainer.fast_dev_run: such a run measures nothing; leave it out")


def _callbacks(trainer: Mapping[str, Any]) -> list[Any]:
    given = trainer.get("callbacks") or []
    return list(given) if isinstance(given, list) else [given]


def _measuring(trainer: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the callback that measures layers."""
    for callback in _callbacks(trainer):
        if issubclass(class_of(callback) or object, RepresentationDimensionality):
            found: Mapping[str, Any] = callback
            return found
    return None


def check_layer(layer: str, config: Mapping[str, Any]) -> None:
    """Say now if a layer will not be measured; the network is built for it.

    Args:
        layer: Its name, with or without the path to it in the project's modules.
        config: Of :func:`resolved`.

    Raises:
        ConfigurationError: Naming those that are.
    """
    callback = _measuring(config["trainer"]) or {}
    module, _ = build(config)
    wanted = (callback.get("init_args") or {}).get("layers")
    names = [short_layer(name) for name in resolve_layers(module, wanted)]
    if short_layer(layer) not in names:
        raise unknown_name("--layer", layer, names)
