"""What a checkpoint says about the phase that wrote it, and the random state that training goes on from."""

import errno
import random
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_aux.errors import ConfigurationError, with_class
from lit_aux.finite import all_finite
from lit_aux.pickles import code_in, is_old, read_weights, unreadable
from lit_aux.storage import TOO_LONG, is_too_long

Weights = Mapping[str, Tensor]
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
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, cached],
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


def read_checkpoint(path: str | Path, option: str = "ckpt_path", *, mmap: bool = True) -> dict[str, Any]:
    """Load a checkpoint's plain contents on the CPU, after checking that it is as it was written.

    Args:
        path: The file.
        option: The option that named the file, for the error.
        mmap: Whether tensors stay in the file until they are looked at.

    Raises:
        ConfigurationError: If the file is missing, damaged, no checkpoint, or one that would run code.
    """
    content = load_plainly(path, option, mmap=mmap)
    check_content(content, path, option)
    return dict(content)


def check_content(content: Any, path: str | Path, option: str = "ckpt_path") -> None:
    """Refuse what is not a network's checkpoint.

    Args:
        content: What the file holds.
        path: The file.
        option: The option that named it, for the error.

    Raises:
        ConfigurationError: If there are no tensors by name under ``state_dict``.
    """
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ConfigurationError(f"{option}: {str(path)!r} holds no 'state_dict'; it is not a checkpoint")
    state = content["state_dict"]
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise ConfigurationError(
            f"{option}: {str(path)!r} holds a 'state_dict' that is not made of tensors by name; it is not a "
            "checkpoint of a network"
        )


def check_archive(path: str | Path, option: str) -> None:
    """Refuse a file that is no archive of torch's, or is not as it was written: each record has a checksum.

    Args:
        path: The file.
        option: The option that named the file, for the error.

    Raises:
        ConfigurationError: If it is another kind of file, or damaged.
    """
    place = f"{option}: {str(path)!r}"
    if is_too_long(str(path)):
        raise ConfigurationError(f"{option}: {str(path)[:40]!r}... {TOO_LONG}")
    if not Path(path).is_file():
        if Path(path).exists():
            raise ConfigurationError(f"{place} is a folder, or no file of data; name a checkpoint")
        raise ConfigurationError(f"{option}: there is no file {str(path)!r}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # zipfile raises half a dozen kinds for what is no archive, or a torn one
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # of a place before the beginning
            raise ConfigurationError(f"{place} cannot be read ({error.strerror})") from error
        if code_in(path) is not None or is_old(path):
            raise ConfigurationError(f"{place} {unreadable(path, error)}") from error
        what = "is empty" if Path(path).stat().st_size == 0 else "is torn, or another kind of file"
        raise ConfigurationError(f"{place} is not a readable checkpoint: it {what}") from error
    if damaged is not None:
        raise ConfigurationError(f"{place} is damaged: its checksum is wrong in {damaged!r}")


def load_plainly(path: str | Path, option: str = "ckpt_path", *, mmap: bool = True) -> Any:
    """Load what is made of tensors and plain values, on the CPU, running no code.

    Args:
        path: The file.
        option: The option that named the file, for the error.
        mmap: Whether tensors stay in the file until they are looked at.

    Raises:
        ConfigurationError: If the file is missing, damaged, of another kind, or one that would run code.
    """
    check_archive(path, option)
    try:
        return read_weights(path, mmap=mmap)
    except Exception as error:
        raise ConfigurationError(f"{option}: {str(path)!r} {unreadable(path, error)}") from error


_NEEDED: dict[str, Any] = {
    "phase": int,
    "phases": list,
    "current": dict | None,
    "results": list,
    "logged_steps": int,
    "seconds": float | int,
    "random_state": dict,
}
"""What a checkpoint says of its run, and of which kind; what came later may be missing."""
_LATER: dict[str, Any] = {"metrics": dict, "continued": list, "depends": dict, "limits": dict, "files": dict}
_LATER["schedules"] = dict | None
_TRAINING: dict[str, Any] = {"optimizer_states": list, "lr_schedulers": list, "loops": dict}
_COUNTS: dict[str, Any] = {"epoch": int, "global_step": int}
_WITHIN: dict[str, Any] = {
    "metrics": float | int,
    "limits": str,
    "files": str,
    "schedules": str,
    "depends": dict,
    "continued": dict,
    "phases": str,
}
"""What is in those of them that hold several."""


def phase_of_checkpoint(content: dict[str, Any], path: str | Path, names: list[str]) -> dict[str, Any]:
    """Return what a checkpoint says about its phase, after checking that it belongs to these phases.

    Raises:
        ConfigurationError: If no PhaseTrainer wrote it, it lacks something, or its run had other phases.
    """
    place = f"ckpt_path: {str(path)!r}"
    anew = "to start from its weights use --model.pretrained"
    info = content.get(CHECKPOINT_KEY)

    def refused(what: str) -> ConfigurationError:
        return ConfigurationError(f"{place} {what}; {anew}")

    if info is None:
        raise refused("names no phase, so training cannot resume from it")
    if not isinstance(info, dict):
        raise refused("says nothing of its phase, so training cannot resume from it")
    later = {name: kind for name, kind in _LATER.items() if name in info}
    _check_kinds(info, _NEEDED | later, f"{place}, of its run,", anew)
    _check_within(info, place, anew)
    _check_kinds(content, _TRAINING | {k: v for k, v in _COUNTS.items() if k in content}, place, anew)
    if info["phases"] != names:
        raise ConfigurationError(
            f"ckpt_path: {str(path)!r} belongs to a run of phases "
            f"{', '.join(map(str, info['phases']))}, this run "
            f"has {', '.join(names)}; resume with the configuration that wrote it, or start from its weights "
            "with --model.pretrained"
        )
    index = info["phase"]
    if not 0 <= index < len(names):
        raise refused(f"is of phase {index}, the run has 0 to {len(names) - 1}")
    results, now = [result_of(result, place).name for result in info["results"]], names[index]
    if results != names[:index][: len(results)]:
        raise refused(f"tells of phases {', '.join(results)} before {now}")
    if info["current"] is not None and (ended := result_of(info["current"], place).name) != now:
        raise refused(f"is of phase {now} and says that {ended} has ended")
    if len(results) != index:
        raise refused(f"is of phase {index} and knows how {len(results)} phases ended")
    _check_random_state(info["random_state"], place)
    return dict(info)


def _check_kinds(values: Mapping[str, Any], kinds: Mapping[str, Any], place: str, remedy: str) -> None:
    """Refuse what is missing or of another kind."""
    end = f"so training cannot resume from it; {remedy}"
    for name, kind in kinds.items():
        if name not in values:
            raise ConfigurationError(f"{place} lacks {name!r}, {end}")
        if not isinstance(values[name], kind) or (kind is int and values[name] is True):
            given = type(values[name]).__name__
            raise ConfigurationError(f"{place} has a {name!r} that is {given}, {end}")


def _check_within(info: Mapping[str, Any], place: str, remedy: str) -> None:
    """Refuse collections of something else, and counts and times that cannot be."""
    end = f"so training cannot resume from it; {remedy}"
    for name, kind in _WITHIN.items():
        held = info.get(name) or ()
        values = [*held.values()] if isinstance(held, Mapping) else [*held]
        if name == "depends":
            values += [0 for tree in values if isinstance(tree, dict) and not _text(tree)]
        odd = [value for value in values if not isinstance(value, kind)]
        if odd:
            raise ConfigurationError(f"{place}, of its run, has {str(odd[0])[:40]!r} in {name!r}, {end}")
    for name in ("seconds", "logged_steps"):
        if not 0 <= info[name] < float("inf"):
            raise ConfigurationError(f"{place}, of its run, has a {name!r} of {info[name]}, {end}")


def _text(tree: Mapping[Any, Any]) -> bool:
    return all(isinstance(part, str) for item in tree.items() for part in item)


def result_of(told: Any, place: str) -> PhaseResult:
    """Return how a phase went, as a file tells it.

    Args:
        told: What :meth:`PhaseResult.asdict` returned.
        place: The option and the file, for the error.

    Raises:
        ConfigurationError: If it is something else.
    """
    kinds = {"name": str, "tasks": list, "reason": str, "epochs": int, "steps": int, "metrics": dict}
    known = {one.name for one in fields(PhaseResult)}
    named = isinstance(told, dict) and {"name", "tasks"} <= {*told} <= known
    if (
        named
        and all(isinstance(told[name], kind) for name, kind in kinds.items() if name in told)
        and all(isinstance(value, float | int) for value in told.get("metrics", {}).values())
        and all(told.get(name, 0) >= 0 for name in ("epochs", "steps"))
    ):
        return PhaseResult(**told)
    raise ConfigurationError(f"{place} does not say how a phase went, but {str(told)[:80]!r}")


def _check_random_state(state: Mapping[str, Any], place: str) -> None:
    """Refuse a random state that the generators would not take."""
    now = random_state()
    try:
        restore_random_state(dict(state))
    except Exception as error:
        raise ConfigurationError(
            f"{place} has a 'random_state' that no generator takes ({with_class(error)[:160]}), so "
            "training cannot resume from it; to start from its weights use --model.pretrained"
        ) from error
    finally:
        restore_random_state(now)


def check_finite(module: nn.Module, state: Weights, option: str, path: str | Path | None) -> None:
    """Refuse weights that are NaN or infinite; buffers may be, as attention masks are.

    Args:
        module: The network, which knows which tensors are parameters.
        state: Its tensors by name.
        option: The option that named the file, for the error.
        path: The file.

    Raises:
        ConfigurationError: If a parameter is not finite; the message names it.
    """
    if told := not_finite(module, state, option, path):
        raise ConfigurationError(f"{told}; name a checkpoint of an earlier epoch")


def not_finite(module: nn.Module, state: Weights, option: str, path: str | Path | None) -> str | None:
    """Say which parameters of a module are NaN or infinite in a checkpoint.

    Args:
        module: The network.
        state: Its tensors by name.
        option: The option that named the file.
        path: The file.

    Returns:
        A sentence without its end; None where all are finite.
    """
    own = (name for name, _ in module.named_parameters() if name in state)
    names = [name for name in own if not all_finite(state[name])]
    if not names:
        return None
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{option}: the weights {names[0]!r}{more} in {str(path)!r} are NaN or infinite"


_LIKE_PARAMETERS = (
    *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"),
    *("square_avg", "grad_avg", "acc_delta"),
)


def check_optimizers(optimizers: Iterable[Optimizer], place: str) -> None:
    """Refuse what optimizers have been given that makes NaN of the weights, or does not fit them.

    Args:
        optimizers: With their states restored.
        place: The option and the file, for the error.

    Raises:
        ConfigurationError: If something in a state is NaN, or an average has not the shape of its weights.
    """
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            for name, value in state.items() if isinstance(state, Mapping) else ():
                if not isinstance(value, Tensor):
                    continue
                if value.is_floating_point() and not value.is_sparse and bool(value.isnan().any()):
                    raise ConfigurationError(
                        f"{place}: {name!r} of {type(optimizer).__name__} is NaN; name a checkpoint of an "
                        "earlier epoch"
                    )
                whole = isinstance(parameter, Tensor) and name in _LIKE_PARAMETERS and value.dim() > 0
                if whole and value.shape != parameter.shape:
                    raise ConfigurationError(
                        f"{place}: {name!r} of {type(optimizer).__name__} has shape {tuple(value.shape)}, "
                        f"its weights have {tuple(parameter.shape)}; it is a checkpoint of another network"
                    )


def check_fit(own: Weights, state: Weights, option: str, path: str | Path | None) -> None:
    """Refuse weights of another network.

    Args:
        own: The network's tensors by name.
        state: A checkpoint's.
        option: The option that named the file, for the error.
        path: The file.

    Raises:
        ConfigurationError: If names or shapes differ.
    """
    pairs = {name: (value, state[name]) for name, value in own.items() if name in state}
    wrong = [
        f"holds {name!r} of shape {tuple(other.shape)}, the network has {tuple(mine.shape)}"
        for name, (mine, other) in pairs.items()
        if other.shape != mine.shape
    ]
    wrong += [
        f"holds {name!r} as {_described(other)}, the network has {_described(mine)}"
        for name, (mine, other) in pairs.items()
        if not _alike(mine, other)
    ]
    wrong += [f"lacks {name!r}" for name in own if name not in state]
    wrong += [f"holds the unknown {name!r}" for name in state if name not in own]
    if wrong:
        raise ConfigurationError(f"{option}: {str(path)!r} {wrong[0]}; it is a checkpoint of another network")


def _alike(own: Tensor, other: Tensor) -> bool:
    """Whether numbers of one kind can be copied into the other: another precision can."""
    same = own.layout == other.layout and (own.is_meta or not other.is_meta)
    kinds = [(one.is_floating_point(), one.is_complex()) for one in (own, other)]
    return same and (not any(kinds[0]) or kinds[0] == kinds[1])


def _described(value: Tensor) -> str:
    layout = [] if value.layout == torch.strided else [value.layout]
    kinds = [str(one).removeprefix("torch.") for one in (value.dtype, *layout)]
    return " ".join([*kinds, "without values"] if value.is_meta else kinds)
