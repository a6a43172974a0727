"""How much a loss rises when every weight may move by a given share of itself."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError, check_known
from lit_aux.ranges import POSITIVE, Range, check

Start = Literal["zero", "random"]
"""Where the search starts: at the weights themselves, or at a random point of the box."""

_MOMENTUM = 0.25
_PART = 1 << 20
"""Most weights whose next place is computed at a time."""
_IMPROVING = 0.75
"""Share of the steps since the last check that must have raised the loss; else the step is halved."""


def adaptive_sharpness(
    loss: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    rho: float,
    *,
    iterations: int = 20,
    start: Start = "zero",
    generator: torch.Generator | None = None,
) -> float:
    r"""Search :math:`\max_{|\epsilon_i| \le \rho |\theta_i|} L(\theta + \epsilon) - L(\theta)`.

    The worst case in a box that grows with each weight does not change when layers are rescaled against each
    other (Andriushchenko et al., "A Modern Look at the Relationship between Sharpness and Generalization",
    ICML 2023). It is sought by sign-gradient ascent with momentum and a step that is halved on a fixed
    schedule, starting at 2 rho (Auto-PGD; Croce & Hein, ICML 2020), so the answer is a lower bound: ascent
    ends in a local maximum, and at a critical point it does not leave ``start="zero"`` at all.

    Args:
        loss: Computes the loss, a scalar, for the present values of ``parameters``.
        parameters: The weights that may move, float32 or float64, with gradients. They are changed in place
            and put back bit for bit, also after an error.
        rho: Half the side of the box, in units of each weight's size; above 0.
        iterations: Steps; each costs one gradient.
        start: ``"zero"`` or ``"random"``.
        generator: On the CPU; draws the random start.

    Returns:
        The largest rise found, at least 0; NaN if the loss at the weights is.

    Raises:
        ConfigurationError: For an option out of range, or where parameters cannot hold such small changes:
            of half precision, or with a rho below their rounding.

    Example:
        >>> import torch
        >>> from lit_aux.functional import adaptive_sharpness
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> sharpness = adaptive_sharpness(lambda: (w**2).sum(), [w], rho=0.1)
        >>> round(sharpness, 2)  # from 1 up to 1.1 squared
        0.21
    """
    check_sharpness(rho, iterations, start)
    for parameter in parameters:
        kind = parameter.dtype
        if kind.is_floating_point and kind.itemsize >= 4 and rho < torch.finfo(kind).eps:
            raise ConfigurationError(
                f"rho: {rho:g} is below the rounding of {kind}, so that no weight would move; give at least "
                f"{torch.finfo(kind).eps:.2g}"
            )
        if not kind.is_floating_point or kind.itemsize < 4:
            raise ConfigurationError(
                f"parameters: {parameter.dtype} cannot hold changes of rho {rho}; give float32 or float64"
            )
    search = _Search(loss, parameters, rho)
    try:
        with torch.enable_grad():
            base = float(loss().detach())
            if start == "random":
                search.jump(generator)
            highest = search.ascend(iterations)
    finally:
        _copy(search.weights, parameters)
    return math.nan if math.isnan(base) else max(highest - base, 0.0)


class _Search:
    """Signed gradient ascent with momentum in a box around weights, whose step is halved where it stalls.

    The parameters are the place where it is. Beside them and their gradient it holds three tensors the size
    of the weights, and a byte or two for the sign of each slope.

    Args:
        loss: Computes the loss from the parameters.
        parameters: What moves.
        rho: Half the side of the box, in units of each weight's size.
    """

    def __init__(self, loss: Callable[[], Tensor], parameters: Sequence[Tensor], rho: float) -> None:
        self.loss, self.parameters, self.rho = loss, parameters, rho
        self.weights = _cloned(parameters)

    @torch.no_grad()
    def jump(self, generator: torch.Generator | None) -> None:
        """Move the parameters to a random place of the box."""
        for parameter, weight in zip(self.parameters, self.weights, strict=True):
            parameter += weight.abs() * self.rho * _uniform(weight, generator)

    def ascend(self, iterations: int) -> float:
        """Return the highest loss on the way from where the parameters are; NaN where one is."""
        checks, step, rises, checked = checkpoints(iterations), 2 * self.rho, 0, 0
        highest, signs = self._evaluate()
        previous, best, best_signs, value = _cloned(self.parameters), _cloned(self.parameters), signs, highest
        for done in range(1, iterations + 1):
            self._advance(previous, signs, step)
            before = value
            value, signs = self._evaluate(last=done == iterations)
            rises += value > before
            if value > highest or math.isnan(highest):
                highest, best_signs = value, signs
                _copy(self.parameters, best)
            if done in checks:
                if rises < _IMPROVING * (done - checked):
                    step /= 2  # and on from the best point
                    value, signs = highest, best_signs
                    _copy(best, self.parameters)
                rises, checked = 0, done
        return highest

    def _evaluate(self, *, last: bool = False) -> tuple[float, list[Tensor]]:
        """Return the loss and the signs of its slopes; none where it is the last one."""
        value = self.loss()
        if last:
            return float(value.detach()), []
        held = list(self.parameters)
        slopes = torch.autograd.grad(value, held, allow_unused=True, materialize_grads=True)
        return float(value.detach()), [_signs(slope) for slope in slopes]

    @torch.no_grad()
    def _advance(self, previous: list[Tensor], signs: list[Tensor], step: float) -> None:
        """Move the parameters, with momentum, within the box; ``previous`` becomes where they were."""
        for whole in zip(self.parameters, previous, signs, self.weights, strict=True):
            for now, old, sign, weight in zip(*map(_in_parts, whole), strict=True):
                size = weight.abs()
                offset = (now - weight).addcmul_(sign.to(size), size, value=step)
                size *= self.rho
                offset.clamp_(-size, size).mul_(1 - _MOMENTUM).add_(old - weight, alpha=_MOMENTUM)
                old.copy_(now)
                now.copy_(offset.add_(weight))


def _signs(slope: Tensor) -> Tensor:
    """Return signs as whole numbers; that of NaN, from which no way leads up, is 0."""
    found = torch.empty_like(slope, dtype=torch.int8)
    for own, part in zip(_in_parts(found), _in_parts(slope), strict=True):
        own.copy_(part.sign().nan_to_num_(0.0))
    return found


def _cloned(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _copy(these: Sequence[Tensor], there: Sequence[Tensor]) -> None:
    for one, other in zip(these, there, strict=True):
        other.copy_(one)


def _in_parts(tensor: Tensor) -> Sequence[Tensor]:
    """Return a tensor's rows in parts, so that what is computed of one takes little memory."""
    if tensor.ndim == 0 or tensor.numel() <= _PART:
        return [tensor]
    parts: Sequence[Tensor] = torch.split(tensor, max(1, _PART * len(tensor) // tensor.numel()))
    return parts


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw from [-1, 1), the same numbers on every device."""
    drawn = torch.rand(like.shape, generator=generator, dtype=torch.float64)
    return (2 * drawn - 1).to(like)


def check_sharpness(rho: float, iterations: int, start: str) -> None:
    """Raise `ConfigurationError` for options of :func:`adaptive_sharpness` that are out of range."""
    check("rho", rho, POSITIVE)
    check("iterations", iterations, Range(least=1, most=100_000))
    check_known("start", start, get_args(Start))


def checkpoints(iterations: int) -> list[int]:
    """Return after how many steps progress is checked: 22 %, 41 %, 57 %, ... of all."""
    percents = [0, 22]
    while percents[-1] <= 100:
        percents.append(percents[-1] + max(percents[-1] - percents[-2] - 3, 6))
    return sorted({math.ceil(iterations * percent / 100) for percent in percents[1:-1]})
