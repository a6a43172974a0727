"""Targets in the form that a loss takes them, which of them are there, and whether they are in its range."""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from lit_aux.errors import ConfigurationError
from lit_aux.finite import all_finite
from lit_aux.functional._labels import MISSING, known_labels

Kind = Literal["classes", "distributions", "shares", "signs", "values", "own"]
"""What a loss takes for targets: numbers of classes; a distribution over classes; for each output a share
between 0 and 1, a sign, or any value; or nobody but the loss knows."""

_KINDS: dict[Kind, tuple[type[nn.Module], ...]] = {
    "classes": (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss),
    "distributions": (nn.KLDivLoss,),
    "shares": (nn.BCEWithLogitsLoss, nn.BCELoss, nn.MultiLabelSoftMarginLoss),
    "signs": (nn.SoftMarginLoss, nn.HingeEmbeddingLoss),
    "values": (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.PoissonNLLLoss),
}


def kind_of(loss: nn.Module) -> Kind:
    """Return what a loss takes for targets; ``own`` for all that do not compute as torch's losses do."""
    return _kind_of(cast(Any, type(loss)))


@cache
def _kind_of(loss: type) -> Kind:
    if cast(Any, loss).forward.__module__ == "torch.nn.modules.loss":
        for kind, types in _KINDS.items():
            if issubclass(loss, types):
                return kind
    return "own"


def labels_of(loss: nn.Module, y: Tensor) -> Tensor:
    """Return which targets are there for a loss, bool in the shape of ``y`` as the data have it."""
    kind, ignored = kind_of(loss), getattr(loss, "ignore_index", None)
    known = known_labels(y, ignored if isinstance(ignored, int) else None)
    if kind == "values":
        return known if y.is_floating_point() else torch.ones_like(known)
    return known if kind == "own" else known & (y != MISSING)


@dataclass(frozen=True)
class Targets:
    """Targets of one batch of a task.

    Attributes:
        y: Shaped and typed as the loss wants them. What is missing is 0 (for signs 1), except where the loss
            is nobody's but the user's.
        known: Which elements of y are there, bool in its shape; None where all are.
        kind: What they are.
        flat: Whether the user gave them (B,) where the outputs are (B, 1).
    """

    y: Tensor
    known: Tensor | None
    kind: Kind
    flat: bool

    @cached_property
    def rows(self) -> Tensor | None:
        """Which examples have any target, bool (B,); None where all have all."""
        return None if self.known is None else self.known.reshape(len(self.known), -1).any(1)

    @cached_property
    def empty(self) -> bool:
        """Whether no target is there."""
        return self.y.numel() == 0 or (self.known is not None and not bool(self.known.any()))


def targets_of(loss: nn.Module, outputs: Tensor, y: Any) -> Targets:
    """Bring targets to the shape and type that a loss takes, where that can be done in one way only.

    Args:
        loss: The loss.
        outputs: What it compares, (B, C, ...).
        y: Targets as the data have them.

    Raises:
        ConfigurationError: If they do not fit; the message begins after the name of the loss.
    """
    y = torch.as_tensor(y, device=outputs.device)
    if not y.ndim or y.shape[0] != outputs.shape[0]:
        raise ConfigurationError(
            f"got targets of shape {tuple(y.shape)} for {outputs.shape[0]} examples; give one for each"
        )
    kind = kind_of(loss)
    flat = y.ndim == 1 and outputs.shape[1:] == (1,)
    ignored = getattr(loss, "ignore_index", None)
    ignored = ignored if isinstance(ignored, int) else None
    if kind == "own":
        return _targets(y, y, known_labels(y, ignored), kind, flat)
    spread = isinstance(loss, nn.CrossEntropyLoss) and y.is_floating_point() and y.shape == outputs.shape
    if kind == "classes" and not spread:
        shaped = _shaped(y, outputs.shape[:1] + outputs.shape[2:], outputs, "numbers of classes")
        numbers = _numbers(shaped)
        return _targets(shaped, numbers, known_labels(numbers, ignored), kind, flat)
    kind = "distributions" if kind == "classes" else kind
    shaped = _shaped(y, outputs.shape, outputs, "targets")
    whole = not shaped.is_floating_point()
    if kind == "values" and whole and bool((shaped == MISSING).any()):
        raise ConfigurationError(
            f"takes values, and got whole numbers, {MISSING} among them; give floats, with NaN for what "
            "is missing"
        )
    known = None if kind == "values" and whole else known_labels(shaped)
    if known is not None and kind != "values":
        known = known & (shaped != MISSING)  # which is no share, sign or probability
    return _targets(shaped, _as_floats(shaped, outputs), known, kind, flat)


def _targets(given: Tensor, y: Tensor, known: Tensor | None, kind: Kind, flat: bool) -> Targets:
    """Put a harmless value in the place of what is missing."""
    if known is None or bool(known.all()):
        return Targets(y, None, kind, flat)
    if kind == "distributions":  # of which a part says nothing
        known = known.all(1, keepdim=True).expand_as(known)
    filled = y if kind == "own" else torch.where(known, y, torch.full_like(y, 1 if kind == "signs" else 0))
    return Targets(filled, known, kind, flat)


def _shaped(y: Tensor, shape: torch.Size, outputs: Tensor, what: str) -> Tensor:
    """Return targets in a shape from which they differ by dimensions of length 1 at most."""
    if y.shape == shape:
        return y
    if [n for n in y.shape[1:] if n != 1] == [n for n in shape[1:] if n != 1]:
        return y.reshape(shape)
    remedy = ""
    if what != "targets" and y.shape == outputs.shape:
        remedy = "; for several classes an example use BCEWithLogitsLoss, for one give its number"
    found = f"{y.dtype} of shape {tuple(y.shape)}".removeprefix("torch.")
    raise ConfigurationError(
        f"takes {what} of shape {tuple(shape)} for outputs {tuple(outputs.shape)}, and got {found}{remedy}"
    )


def _numbers(y: Tensor) -> Tensor:
    """Return numbers of classes as int64."""
    if not y.is_floating_point():
        return y.long()
    known = ~y.isnan()
    if not bool((y == y.round())[known].all()):
        odd = float(y[known & (y != y.round())][0])
        raise ConfigurationError(f"takes numbers of classes, and got {odd:g}; give whole numbers")
    return torch.where(known, y, torch.full_like(y, MISSING)).long()


def _as_floats(y: Tensor, outputs: Tensor) -> Tensor:
    """Return targets in the type of outputs, but never in less than their own or single precision."""
    if outputs.dtype in (torch.float32, torch.float64):
        return y.to(outputs.dtype)
    return y if y.is_floating_point() else y.float()


def check_targets(loss: nn.Module, outputs: Tensor, targets: Targets) -> None:
    """Refuse targets and outputs out of the range of a loss of torch's, about which it may say nothing.

    Raises:
        ConfigurationError: The message begins after the name of the loss.
    """
    y, known = targets.y.detach(), targets.known
    found = (y if known is None else y[known]).cpu().double()
    low, high = float(found.min()), float(found.max())
    got = f"and got {low:g} to {high:g}"
    if targets.kind == "classes" and (low < 0 or high >= outputs.shape[1]):
        remedy = "subtract 1" if low == 1 and high == outputs.shape[1] else f"{MISSING} is for missing labels"
        raise ConfigurationError(f"takes classes 0 to {outputs.shape[1] - 1}, {got}; {remedy}")
    if targets.kind == "shares" and (low < 0 or high > 1):
        raise ConfigurationError(f"takes targets from 0 to 1, {got}; NaN is for missing")
    if targets.kind == "signs" and not bool((found.abs() == 1).all()):
        raise ConfigurationError(f"takes targets of 1 and -1, {got}")
    if targets.kind == "values" and not all_finite(found):
        raise ConfigurationError("got infinite targets; NaN is for missing ones")
    if isinstance(loss, nn.PoissonNLLLoss) and low < 0:
        raise ConfigurationError(f"takes counts, and got {low:g}; they must be at least 0")
    if targets.kind == "distributions":
        _check_distributions(loss, targets)
    _check_outputs(loss, outputs.detach().cpu().double())


def _check_distributions(loss: nn.Module, targets: Targets) -> None:
    y = targets.y.detach().cpu().double()
    shares = y.exp() if getattr(loss, "log_target", False) else y
    sums = shares.sum(1)
    sums = sums if targets.known is None else sums[targets.known[:, 0].cpu()]
    if float(shares.min()) < 0 or float((sums - 1).abs().max()) > 1e-2:
        worst = float(sums.flatten()[(sums - 1).abs().argmax()])
        raise ConfigurationError(
            f"takes targets that sum to 1 for each example, and got a sum of {worst:g}; for several classes "
            "an example use BCEWithLogitsLoss"
        )


def _check_outputs(loss: nn.Module, outputs: Tensor) -> None:
    """Refuse outputs of a readout where a loss wants (log-)probabilities."""
    if isinstance(loss, nn.NLLLoss | nn.KLDivLoss):
        normalized = float(outputs.logsumexp(1).abs().max()) < 1e-2
        if not normalized and all_finite(outputs):
            raise ConfigurationError(
                "takes log-probabilities, and the outputs are none; use CrossEntropyLoss, which takes logits "
                "and numbers or probabilities of classes"
            )
    if isinstance(loss, nn.BCELoss) and not bool(((outputs >= 0) & (outputs <= 1)).all()):
        raise ConfigurationError("takes probabilities, and the outputs are none; use BCEWithLogitsLoss")
