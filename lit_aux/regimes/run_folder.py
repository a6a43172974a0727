"""Students of a run of ``lit-aux fit``, from the checkpoints in its folder."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from lit_aux.callbacks import LayerDimensionality, WeightRescaling
from lit_aux.errors import ConfigurationError, first_line
from lit_aux.models import DiagonalNet, StudentNet
from lit_aux.modules import PretrainFinetuneModule
from lit_aux.modules.loading import load_checkpoint
from lit_aux.phases.state import CHECKPOINT_KEY, check_fit, read_checkpoint
from lit_aux.regimes.building import build, class_of
from lit_aux.regimes.student_features import StudentFeatures, student_weights
from lit_aux.regimes.trust import check_trusted
from lit_aux.reporting import short_layer

Config = dict[str, Any]


def read_run(
    path: str | Path, pretrained: str | Path | None = None, *, trust: bool = False
) -> tuple[list[StudentFeatures], str]:
    """Read the students of a run that pretrained and finetuned them.

    The weights at the start of finetuning are made as training makes them: the checkpoint of pretraining is
    loaded into the run's module, which enters its last phase (the readout is drawn anew) and is rescaled.
    Whether that gave the weights that the run had is checked by the norms that it noted.

    Args:
        path: The run's folder (``runs/version_0``), or the checkpoint of finetuning in it.
        pretrained: The checkpoint of pretraining, where it is not beside the other.
        trust: Import whatever its configuration names, which is to run what its author wrote. By default
            only known packages' classes and those of the working folder are imported.

    Returns:
        One entry a replica, and how finetuning ended, in words.

    Raises:
        ConfigurationError: If this is no such run, or the checkpoints do not belong together.
    """
    given = Path(path)
    if not given.exists():
        raise ConfigurationError(f"RUN {given}: there is no such folder or checkpoint")
    config = _read_config(given, trust)
    module, data = _build(config, given)
    phases = [phase.name for phase in module.phases]
    last = module.phases[-1]
    if len(phases) != 2 or last.trainable == "readout" or len(last.tasks) != 1:
        raise ConfigurationError(
            f"RUN {given}: has the phases {', '.join(phases)}; the theory is of pretraining followed by "
            "finetuning of all weights on one task"
        )
    end = given if given.is_file() else given / "checkpoints" / f"{phases[-1]}.ckpt"
    content = read_checkpoint(end, "RUN")
    info = content.get(CHECKPOINT_KEY) or {}
    if info and info["phase"] != len(info["phases"]) - 1:
        raise ConfigurationError(
            f"RUN {given}: a checkpoint of the phase {info['phases'][info['phase']]}; name the one of "
            f"{info['phases'][-1]} or the run's folder"
        )
    named = pretrained or config["model"]["init_args"].get("pretrained")
    start = Path(named) if named else end.with_name(f"{phases[0]}.ckpt")
    if not start.is_file():
        raise ConfigurationError(f"--pretrained {start}: there is no such file; name the one of {phases[0]}")
    found = _students(module, data, content, start, end)
    current = info.get("current")
    return found, current["reason"] if current else "finetuning has not ended yet"


def deep_layers(given: Path) -> list[LayerDimensionality]:
    """Return what a run of a deep network measured in the layers of its last phase.

    Args:
        given: The run's folder, or a checkpoint in it.

    Returns:
        Nothing for students, for runs without ``RepresentationDimensionality``, and for what is no run.
    """
    try:
        folder = folder_of(given)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        backbone = config["model"]["init_args"].get("backbone")
        ours = "class_path" in backbone and backbone["class_path"].startswith("lit_aux.")
        # classes of others are not imported here
        student = ours and issubclass(class_of(backbone) or object, StudentNet)
        rows = json.loads((folder / "summary.json").read_text())["layers"]
    except (ConfigurationError, OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return []
    if not rows or student:
        return []
    known = {field.name for field in fields(LayerDimensionality)}
    last = [row for row in rows if row["phase"] == rows[-1]["phase"]]
    found: list[dict[str, Any]] = [
        {k: math.nan if v is None else v for k, v in row.items() if k in known} for row in last
    ]
    return [LayerDimensionality(**row | {"layer": short_layer(row["layer"])}) for row in found]


def folder_of(given: Path) -> Path:
    """Return a run's folder, where ``lit-aux fit`` saved its configuration.

    Args:
        given: That folder, or a checkpoint in it.

    Raises:
        ConfigurationError: If there is no configuration.
    """
    folders = [given] if given.is_dir() else [given.parent.parent, given.parent]
    found = next((folder for folder in folders if (folder / "config.yaml").is_file()), None)
    if found is None:
        raise ConfigurationError(
            f"RUN {given}: there is no config.yaml in {folders[0]}; name a run's folder (runs/version_0) or "
            "a checkpoint in it"
        )
    return found


def _read_config(given: Path, trust: bool) -> Config:
    """Read the configuration that ``lit-aux fit`` saved, and see that what it names may be imported."""
    file = folder_of(given) / "config.yaml"
    try:
        config = yaml.safe_load(file.read_text())
        check_trusted(config, file.parent, f"RUN {given}", trust)
        kind, backbone = class_of(config["model"]), config["model"]["init_args"].get("backbone")
        known = kind is not None and class_of(config["data"]) is not None
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError, RecursionError):
        known = False
    if not known or kind is None:
        raise ConfigurationError(f"RUN {given}: {file} is no configuration of lit-aux fit")
    if not issubclass(class_of(backbone) or object, StudentNet):
        raise ConfigurationError(
            f"RUN {given}: its network is no student, and no layers were measured; give the run "
            "RepresentationDimensionality, or ask with --config FILE --factors LIST"
        )
    if not issubclass(kind, PretrainFinetuneModule):
        raise ConfigurationError(
            f"RUN {given}: a run of {kind.__name__}; there is a place only for pretraining and finetuning "
            "(PretrainFinetuneModule)"
        )
    return dict(config)


def _build(config: Config, given: Path) -> tuple[PretrainFinetuneModule, Any]:
    """Build the run's module and data, without the weights of pretraining: replicas first."""
    options = {n: v for n, v in config["model"]["init_args"].items() if not n.startswith("pretrained")}
    model = {**config["model"], "init_args": options}
    try:
        module, data = build({**config, "model": model})
        module.attach_data(data)
    except ConfigurationError:
        raise
    except Exception as error:
        reason = first_line(error)
        raise ConfigurationError(f"RUN {given}: its config.yaml cannot be used ({reason})") from error
    assert isinstance(module, PretrainFinetuneModule)
    return module, data


def _students(
    module: PretrainFinetuneModule, data: Any, content: Mapping[str, Any], start: Path, end: Path
) -> list[StudentFeatures]:
    """Make the start of finetuning from its checkpoint, then load the end, and compare the two."""
    net, phase = module.net, module.phases[-1]
    load_checkpoint(module, start, "--pretrained", strict=True)
    module.enter_phase(phase)
    first, readout = student_weights(net, phase.tasks[0])
    rescaling = next((c for c in phase.callbacks if isinstance(c, WeightRescaling)), None)
    _check_start(module, rescaling, content, start)
    acts = rescaling or WeightRescaling(1.0, preset=module.rescale_preset)
    follows = any(name.startswith("net.readout.") for name in acts.select(module))
    check_fit(module.state_dict(), content["state_dict"], "RUN", end)
    module.load_state_dict(content["state_dict"])
    final, last_readout = student_weights(net, phase.tasks[0])
    factors = acts.factor if isinstance(acts.factor, list) else [acts.factor] * net.replicas
    common: dict[str, Any] = {"readout_follows": follows}
    found = []
    for replica, factor in enumerate(factors):
        cell = {**data.replicas[replica], "rescale": factor}
        w, v, w_end, v_end = (part[replica] for part in (first, readout, final, last_readout))
        if isinstance(net, DiagonalNet):
            beta = w_end[0] * v_end[0] - w_end[1] * v_end[1]
            found.append(StudentFeatures("q", cell, factor, beta, w, v, **common))
        else:
            start_end = (w, v[0]), (w_end, v_end[0])
            found.append(StudentFeatures.of_relu(cell, factor, *start_end, **common))
    return found


def _check_start(
    module: PretrainFinetuneModule, rescaling: WeightRescaling | None, content: Mapping[str, Any], start: Path
) -> None:
    """Compare the norm of the weights before they were rescaled with the one that the run noted."""
    if rescaling is None:
        return
    saved = content.get("callbacks", {}).get(rescaling.state_key, {}).get("norm_before")
    squares = (p.detach().double().square().sum() for p in rescaling.select(module).values())
    norm = sum(float(square) for square in squares) ** 0.5
    if saved is not None and abs(norm - saved) > 1e-5 * saved:
        raise ConfigurationError(
            f"--pretrained {start}: not what this run was finetuned from; its weights have the norm "
            f"{norm:.6g}, the run's had {saved:.6g}"
        )
