"""Weights from checkpoints and to files, with errors that say what does not fit."""

from collections.abc import Mapping
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.files import atomic_path
from lit_aux.phases.state import check_finite, check_fit, read_checkpoint
from lit_aux.pickles import write_weights
from lit_aux.storage import check_place


def load_checkpoint(module: LightningModule, path: str | Path, option: str, *, strict: bool) -> None:
    """Load a checkpoint's weights into a module, nothing else.

    Args:
        module: One of the project's modules.
        path: A checkpoint of one of them.
        option: The option that named the file, for the error.
        strict: Whether the readout must fit as well. Otherwise one of another shape stays as it was drawn:
            the tasks may have changed.

    Raises:
        ConfigurationError: If the file is missing or broken, its network is another one, or weights are NaN.
    """
    state: dict[str, Tensor] = dict(read_checkpoint(path, option)["state_dict"])
    own = module.state_dict()
    if not strict:
        # what a weighting of several tasks has learned is no part of the network
        state = {k: v for k, v in state.items() if not k.startswith("task_method.")}
        readout = [k for k in own if k.startswith("net.readout.") and k in state]
        other = [k for k in readout if state[k].shape != own[k].shape]
        if other:
            rank_zero_info(f"{option}: the readout in {str(path)!r} is for other tasks; a fresh one is used")
        state = {k: own[k] if k in other else v for k, v in state.items()}
    check_fit(own, state, option, path)
    check_finite(module, state, option, path)
    with torch.no_grad():
        module.load_state_dict(state)


def save_weights(weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Write tensors by name, atomic_path or not at all.

    Args:
        weights: What to write.
        path: The file: ``.safetensors``, or anything else for ``torch.save``.

    Raises:
        ConfigurationError: If the file cannot be written.
    """
    target = check_place("--output", path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".safetensors":
            from safetensors.torch import save_file

            with atomic_path(target, sync=True) as part:
                save_file(dict(weights), part)
        else:
            write_weights(target, dict(weights))
    except OSError as error:
        raise ConfigurationError(f"output: {str(target)!r} cannot be written ({error.strerror})") from error
