"""What is looked at once: whether outputs and targets are what a task's loss and metrics are for."""

from collections.abc import Callable, Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lit_aux.errors import ConfigurationError
from lit_aux.functional._labels import MISSING
from lit_aux.modules.scoring import classification, score
from lit_aux.modules.targets import Targets

_FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, NotImplementedError)
_OF_THE_DEVICE = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))


class OneLine:
    """Say in one line what a loss or metric does not take, in place of its own error.

    A context manager that costs little: it is entered several times in every step.

    Args:
        what: Who raises, as ``losses: MSELoss of task 'main'``.
        outputs: For their shape.
        y: The targets.
    """

    def __init__(self, what: str, outputs: Tensor, y: object) -> None:
        self.what, self.outputs, self.y = what, outputs, y

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ConfigurationError):
            raise ConfigurationError(f"{self.what} {error}") from error
        if isinstance(error, _FAILURES) and not isinstance(error, _OF_THE_DEVICE):
            reason = " ".join(str(error).split()) or type(error).__name__
            y = self.y
            given = f"{y.dtype} {tuple(y.shape)}" if isinstance(y, Tensor) else f"of type {type(y).__name__}"
            raise ConfigurationError(
                f"{self.what} refuses outputs {tuple(self.outputs.shape)} and targets "
                f"{given.removeprefix('torch.')}: {reason}"
            ) from error


def check_targets(loss: nn.Module, outputs: Tensor, targets: Targets) -> None:
    """Refuse targets and outputs out of the range of a loss of torch's, about which it may say nothing.

    Raises:
        ConfigurationError: The message begins after the name of the loss.
    """
    y, known = targets.y.detach(), targets.known
    found = (y if known is None else y[known]).cpu().double()
    low, high = float(found.min()), float(found.max())
    if targets.kind == "classes" and (low < 0 or high >= outputs.shape[1]):
        remedy = "subtract 1" if low == 1 and high == outputs.shape[1] else f"{MISSING} is for missing labels"
        raise ConfigurationError(
            f"takes classes 0 to {outputs.shape[1] - 1}, and got {low:g} to {high:g}; {remedy}"
        )
    if targets.kind == "shares" and (low < 0 or high > 1):
        raise ConfigurationError(
            f"takes targets from 0 to 1, and got {low:g} to {high:g}; NaN is for missing"
        )
    if targets.kind == "signs" and not bool((found.abs() == 1).all()):
        raise ConfigurationError(f"takes targets of 1 and -1, and got {low:g} to {high:g}")
    if targets.kind == "values" and not bool(found.isfinite().all()):
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
        if not normalized and bool(outputs.isfinite().all()):
            raise ConfigurationError(
                "takes log-probabilities, and the outputs are none; use CrossEntropyLoss, which takes logits "
                "and numbers or probabilities of classes"
            )
    if isinstance(loss, nn.BCELoss) and not bool(((outputs >= 0) & (outputs <= 1)).all()):
        raise ConfigurationError("takes probabilities, and the outputs are none; use BCEWithLogitsLoss")


def check_metrics(
    metrics: Mapping[str, Metric], loss: nn.Module, outputs: Tensor, targets: Targets, task: str
) -> set[str]:
    """Try copies of metrics on a batch.

    Returns:
        The names of those that want outputs (B, 1) and targets (B,) as they are.

    Raises:
        ConfigurationError: Naming the metric that does not take the batch.
    """
    as_given = set()
    for name, metric in metrics.items():
        what = f"metrics: {name} ({type(metric).__name__}) of task {task!r}"
        per_output = targets.y.is_floating_point() or targets.y.shape == outputs.shape
        if classification(metric) == "Multiclass" and targets.kind != "distributions" and per_output:
            raise ConfigurationError(
                f"{what} compares classes, and the targets are a {targets.y.dtype} for each output; give "
                "metrics of another kind, as MultilabelAccuracy or MeanAbsoluteError".replace("torch.", "")
            )

        def attempt(given: bool, metric: Metric = metric) -> None:
            score(deepcopy(metric), loss, outputs, targets, as_given=given)

        with OneLine(what, outputs, targets.y):
            if wants_as_given(targets, attempt):
                as_given.add(name)
    return as_given


def wants_as_given(targets: Targets, attempt: Callable[[bool], None]) -> bool:
    """Find how a loss or metric takes one output an example: both (B,), or outputs (B, 1) and targets (B,).

    Of the first it can make nothing wrong; of the second, whoever subtracts them makes (B, B).
    """
    if targets.flat:
        try:
            attempt(False)
        except _FAILURES:
            attempt(True)
            return True
        return False
    attempt(False)
    return False
