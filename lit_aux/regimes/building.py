"""A run's module and data from its configuration, as the command line builds them."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from lit_aux.identity.modules import imported
from lit_aux.modules import AuxiliaryModule
from lit_aux.tasks import tasks_of


def class_of(part: Any) -> type | None:
    """Return the class that a part of a configuration names; None where it names none that exists.

    Args:
        part: A mapping with ``class_path``, or anything else.
    """
    found = imported(part.get("class_path")) if isinstance(part, Mapping) else None
    return found if isinstance(found, type) else None


def build(config: Mapping[str, Any]) -> tuple[AuxiliaryModule, Any]:
    """Build module and data module, with the tasks that the data know.

    Args:
        config: What ``lit-aux fit --print_config`` prints, or a run's ``config.yaml`` holds.

    Raises:
        Exception: Whatever the classes, or the parser, refuse.
    """
    from jsonargparse import ArgumentParser
    from lightning import LightningDataModule

    model, data = deepcopy(config["model"]), deepcopy(config["data"])
    options, seed = data.setdefault("init_args", {}), config.get("seed_everything")
    if "seed" in options and options["seed"] is None:  # no global seed is set here
        options["seed"] = 0 if isinstance(seed, bool) or seed is None else seed
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--model", type=AuxiliaryModule)
    parser.add_argument("--data", type=LightningDataModule)
    built = parser.instantiate_classes(parser.parse_object({"data": data})).data
    model["init_args"]["tasks"] = tasks_of(built)
    module: AuxiliaryModule = parser.instantiate_classes(parser.parse_object({"model": model})).model
    return module, built
