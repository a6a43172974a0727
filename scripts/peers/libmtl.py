"""LibMTL 1.1.5 on a processor, under today's torch: what it takes for it to run, and nothing else.

It knows no device but the first GPU, imports a module that torchvision has moved, and calls ``next()`` of a
loader's iterator, which torch has dropped. None of this is work of a step.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import torch


def library() -> Any:
    """Import it."""
    if "torchvision.models.utils" not in sys.modules:
        moved: Any = ModuleType("torchvision.models.utils")
        moved.load_state_dict_from_url = torch.hub.load_state_dict_from_url
        sys.modules["torchvision.models.utils"] = moved
    return import_module("LibMTL")


def trainer_class() -> type[Any]:
    """Return its Trainer, on the processor."""
    library()
    module: Any = import_module("LibMTL.trainer")

    class OnProcessor(module.Trainer):  # type: ignore[misc]
        device = property(lambda _: torch.device("cpu"), lambda *_: None)  # whatever it is set to

        def _process_data(self, loader: list[Any]) -> Any:
            batch = next(loader[1], None)
            if batch is None:
                loader[1] = iter(loader[0])
                batch = next(loader[1])
            return batch

    return OnProcessor
