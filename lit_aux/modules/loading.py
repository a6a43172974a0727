"""Weights from checkpoints and to files, with errors that say what does not fit."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lit_aux.callbacks._parameters import uncompiled
from lit_aux.errors import ConfigurationError, some
from lit_aux.files import atomic_path
from lit_aux.models import MultiHeadNet, StudentNet, TimmBackbone
from lit_aux.models.low_rank import merge, merge_checkpoint
from lit_aux.models.pretrained_weights import SUFFIXES, load_into, read_file, state_dict_in
from lit_aux.models.weight_names import Prefix
from lit_aux.phases.state import CHECKPOINT_KEY, check_finite, check_fit, load_plainly, read_checkpoint
from lit_aux.pickles import write_weights
from lit_aux.storage import check_place

_READOUT = ("net.readout.", "net.heads.")


def start_from(module: LightningModule, path: str | Path, prefix: Prefix | None) -> bool:
    """Give a module the weights of a file: a checkpoint of one of the project's, or anybody's backbone.

    Args:
        module: One of the project's modules; option ``pretrained`` names the file.
        path: A checkpoint, or a file of ``torch.save`` or safetensors with tensors by name.
        prefix: What to take off their names, or new beginnings by old ones; None finds out.

    Returns:
        Whether it is a checkpoint of one of the project's modules.

    Raises:
        ConfigurationError: If the file cannot be read, or does not hold all of the network.
    """
    known = Path(path).suffix in SUFFIXES and Path(path).suffix != ".ckpt"
    raw = read_file(path) if known else load_plainly(path, "pretrained")
    if isinstance(module.net, StudentNet) or (prefix is None and _is_own(raw)):
        load_checkpoint(module, path, "pretrained", strict=False)
        return True
    backbone = uncompiled(cast(MultiHeadNet, module.net).backbone)
    network = uncompiled(backbone.network) if isinstance(backbone, TimmBackbone) else backbone
    if not network.state_dict():
        raise ConfigurationError(f"pretrained: {str(path)!r} is given, and the backbone has no weights")
    weights = state_dict_in(raw, path)
    left = load_into(network, weights, str(path), prefix=prefix)
    check_finite(network, network.state_dict(), "pretrained", path)
    over = f"; {len(left)} are left over: {some(left)}" if left else ""
    rank_zero_info(
        f"pretrained: {len(weights) - len(left)} tensors of {str(path)!r} are in the backbone{over}"
    )
    return False


def _is_own(content: Any) -> bool:
    """Whether content is a checkpoint of one of the project's modules, whichever Trainer wrote it."""
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    return isinstance(state, Mapping) and (CHECKPOINT_KEY in content or "net.readout.weight" in state)


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
    content = read_checkpoint(path, option)
    merge_checkpoint(content, f"{option}: {str(path)!r}")
    merge(module)
    state: dict[str, Tensor] = dict(content["state_dict"])
    own = module.state_dict()
    if not strict:
        # what a weighting of several tasks has learned is no part of the network
        own = {k: v for k, v in own.items() if not k.startswith("task_method.")}
        state = {k: v for k, v in state.items() if not k.startswith("task_method.")}
        other = [
            k for k in own if k.startswith(_READOUT) and (k not in state or state[k].shape != own[k].shape)
        ]
        if other:
            rank_zero_info(f"{option}: the readout in {str(path)!r} is for other tasks; a fresh one is used")
        state = {k: v for k, v in state.items() if k in own or not k.startswith(_READOUT)}
        state |= {k: own[k] for k in other}
    check_fit(own, state, option, path)
    check_finite(module, state, option, path)
    with torch.no_grad():
        module.load_state_dict(state, strict=strict)


def digest_of(path: str | Path) -> str:
    """Return a digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


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
