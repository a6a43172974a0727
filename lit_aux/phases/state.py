"""What a checkpoint says about the phase that wrote it, and the random state that training goes on from."""

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.pickles import read_weights, unreadable

CHECKPOINT_KEY = "lit_aux"


@dataclass
class PhaseResult:
    """How a phase went.

    Args:
        name: The phase.
        tasks: The tasks that trained.
        reason: Why the phase ended, in words.
        epochs: Epochs trained.
        steps: Optimizer steps taken.
        seconds: Duration, evaluation included.
        reused: Whether the phase was taken from the store instead of trained.
        checkpoint: The phase's checkpoint, if one was written.
        metrics: Final measurements by name, such as ``main/test_accuracy``.
    """

    name: str
    tasks: list[str]
    reason: str = ""
    epochs: int = 0
    steps: int = 0
    seconds: float = 0.0
    reused: bool = False
    checkpoint: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    def asdict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


def random_state() -> dict[str, Any]:
    """Return the state of every global generator in a form that loads with ``weights_only=True``."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            position,
            has_gauss,
            cached,
        ],
        "python": [version, list(internal), gauss],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put every global generator into a state that :func:`random_state` returned."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
    name, keys, position, has_gauss, cached = state["numpy"]
    keys = keys.cpu().numpy().astype(np.uint32)
    np.random.set_state((name, keys, position, has_gauss, cached))  # noqa: NPY002
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def read_checkpoint(path: str | Path, option: str = "ckpt_path") -> dict[str, Any]:
    """Load a checkpoint's plain contents on the CPU.

    Args:
        path: The file.
        option: The option that named the file, for the error.

    Raises:
        ConfigurationError: If the file is missing or is not a checkpoint.
    """
    if not Path(path).is_file():
        raise ConfigurationError(f"{option}: there is no file {str(path)!r}")
    try:
        content = read_weights(path, mmap=True)
    except Exception as error:
        raise ConfigurationError(f"{option}: {str(path)!r} {unreadable(path, error)}") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ConfigurationError(f"{option}: {str(path)!r} holds no 'state_dict'; it is not a checkpoint")
    return content


def phase_of_checkpoint(content: dict[str, Any], path: str | Path, names: list[str]) -> dict[str, Any]:
    """Return what a checkpoint says about its phase, after checking that it belongs to these phases.

    Raises:
        ConfigurationError: If no PhaseTrainer wrote it, or its run had other phases.
    """
    info = content.get(CHECKPOINT_KEY)
    if info is None:
        raise ConfigurationError(
            f"ckpt_path: {str(path)!r} names no phase, so training cannot resume from it; to start from its "
            "weights use --model.pretrained"
        )
    if info["phases"] != names:
        raise ConfigurationError(
            f"ckpt_path: {str(path)!r} belongs to a run of phases {', '.join(info['phases'])}, this run "
            f"has {', '.join(names)}; resume with the configuration that wrote it, or start from its weights "
            "with --model.pretrained"
        )
    return dict(info)


def check_fit(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], option: str, path: str | Path | None
) -> None:
    """Refuse weights of another network.

    Args:
        own: The network's tensors by name.
        state: A checkpoint's.
        option: The option that named the file, for the error.
        path: The file.

    Raises:
        ConfigurationError: If names or shapes differ.
    """
    missing = [k for k in own if k not in state]
    surplus = [k for k in state if k not in own]
    shapes = [k for k in own if k in state and state[k].shape != own[k].shape]
    if shapes:
        name = shapes[0]
        raise ConfigurationError(
            f"{option}: {str(path)!r} holds {name!r} of shape {tuple(state[name].shape)}, the network has "
            f"{tuple(own[name].shape)}; it is a checkpoint of another network"
        )
    if missing or surplus:
        what = f"lacks {missing[0]!r}" if missing else f"holds the unknown {surplus[0]!r}"
        raise ConfigurationError(f"{option}: {str(path)!r} {what}; it is a checkpoint of another network")
