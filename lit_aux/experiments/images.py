"""Image experiments: each run is one fit of a configuration in ``configs/`` with the grid's values."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import lit_aux
from lit_aux import _yaml
from lit_aux.errors import ConfigurationError, NonFiniteLossError
from lit_aux.experiments.grids import Experiment
from lit_aux.experiments.one_fit import Fit, fit_config
from lit_aux.experiments.options import Options
from lit_aux.experiments.run import Run
from lit_aux.identity.configuration import named_code
from lit_aux.runs.table import ResultsTable

Config = dict[str, Any]
_MEASURED = ("loss_final", "train_loss", "steps", "seconds", "accuracy")
_FILES = {"STL": "stl", "MTL": "mtl", "PT+FT": "ptft", "PT+FT (LP)": "lp"}


def details(
    found: Experiment, setups: Iterable[str], options: Options, arguments: Sequence[str], folder: Path | None
) -> dict[str, dict[str, Any]]:
    """Return what the runs of each setup depend on beside their place in the grid.

    Args:
        found: An image experiment, ``cifar100-resnet18`` say.
        setups: Its setups.
        options: Of these, ``max_steps`` matters to the numbers.
        arguments: More options for ``lit-aux fit``.
        folder: Where the configurations are; where None, the project's own, else ``configs`` in the working
            folder.

    Raises:
        ConfigurationError: If a configuration is not there.
    """
    data, _, network = found.name.partition("-")
    places = [Path(lit_aux.__file__).parents[1] / "configs", Path("configs")] if folder is None else [folder]
    out = {}
    for setup in setups:
        name = f"{data}/{network}_{_FILES[setup]}.yaml"
        file = next((place / name for place in places if (place / name).is_file()), None)
        if file is None:
            raise ConfigurationError(
                f"--configs {folder or 'configs'}: there is no {name}; name the folder that has it"
            )
        out[setup] = {
            "config": _as_published(data, setup, file),
            "arguments": list(arguments),
            "max_steps": options.max_steps,
        }
        if code := named_code([out[setup]["config"], list(arguments)]):
            out[setup]["code"] = code
    return out


def _as_published(data: str, setup: str, file: Path) -> Config:
    """Read a configuration; on CIFAR-100, choose what the paper did where the file chooses better."""
    config: Config = _yaml.read(file, "--configs")
    if data == "cifar100":
        model = config["model"]["init_args"]
        model["reestimate_batchnorm"] = False
        if setup == "MTL":
            model["schedule"] = "published"
        for callback in config["trainer"]["callbacks"]:
            if callback["class_path"].endswith("RepresentationDimensionality"):
                resnet = "resnet" in file.name
                callback["init_args"] = {"center": False} | ({"batchnorm": "train"} if resnet else {})
    return config


def fit_run(
    run: Run, options: Options, folder: Path, fit: Fit, quietly: bool = False
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Train one run.

    Args:
        run: A run of an image experiment, with its ``details`` as options.
        options: ``device``, ``max_steps`` (of each phase) and ``store`` matter here.
        folder: Where the run writes its checkpoints, logs and summary: into a folder of its own.
        fit: Carries out the arguments of ``lit-aux``; raises when the run fails.
        quietly: Whether what the fit prints goes into a file of the folder.

    Returns:
        The measured columns of its row, and the rows of its measures, as the fit wrote them. A run whose loss
        became infinite has nothing but ``converged = false``.
    """
    config = _config(run, options, folder / run.run_hash)
    try:
        output = folder / run.run_hash / "output.txt" if quietly else None
        home = fit_config(config, fit, run.options["arguments"], output)
    except NonFiniteLossError:
        return {"converged": False}, []
    return _written(home)


def _config(run: Run, options: Options, root: Path) -> Config:
    config: Config = deepcopy(run.options["config"])
    config["seed_everything"] = run.axes["seed"]
    config["data"]["init_args"]["n_main"] = run.axes["n_main"]
    if "rescale" in run.axes:
        config["model"]["init_args"]["rescale"] = run.axes["rescale"]
    trainer = config["trainer"]
    trainer |= {"default_root_dir": str(root), "enable_progress_bar": False}
    if options.store is not None:
        trainer["phase_store"] = str(options.store)
    if options.max_steps is not None:
        trainer["max_steps"] = options.max_steps
    kind, _, index = options.device.partition(":")
    if kind != "auto":
        trainer["accelerator"] = kind
        trainer["devices"] = [int(index)] if index else 1
    return config


def _written(home: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Take a row and its measures from what ``lit-aux fit`` wrote, but for what the grid says itself."""
    with ResultsTable(home / "results.csv") as table:
        rows, measures = table.rows(), table.measures()
    if len(rows) != 1:
        raise ConfigurationError(
            f"--configs: the fit in {home} wrote {len(rows)} rows in place of one; its model must be one of "
            "lit_aux.modules"
        )
    row = rows[0]
    found: dict[str, Any] = {name: row[name] for name in _MEASURED if row[name] != ""}
    return (
        found | {"converged": row["converged"] == "true"},
        [{name: value for name, value in measure.items() if name != "run"} for measure in measures],
    )
