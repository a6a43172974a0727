"""How much of the variance of values is predicted, of the values that are there."""

from typing import Any

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.metrics.double_precision import DoublePrecisionMetric
from lit_aux.ranges import WHOLE, check


class R2Score(DoublePrecisionMetric):
    r"""Coefficient of determination :math:`R^2`, the mean over outputs; targets of NaN are left out.

    For each output :math:`1 - \sum (y - \hat y)^2 / \sum (y - \bar y)^2` over the targets that are there, in
    float64. As in scikit-learn, an output whose targets are all the same has 1 where they are predicted
    exactly, and else 0. An output with fewer than two targets is left out; without any other the value is
    NaN. What batches and processes hold does not matter: deviations are merged from each one's own mean.

    Args:
        num_outputs: Number of values of an example, C.
        kwargs: Options of `torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> from lit_aux.metrics import R2Score
        >>> metric = R2Score()
        >>> metric.update(torch.tensor([2.5, 0.0, 2.0, 8.0]), torch.tensor([3.0, -0.5, 2.0, 7.0]))
        >>> round(float(metric.compute()), 4)
        0.9486
    """

    is_differentiable = True
    higher_is_better = True
    full_state_update = False
    takes_missing = True
    moments: Tensor

    def __init__(self, num_outputs: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check("num_outputs", num_outputs, WHOLE)
        self.num_outputs = num_outputs
        zeros = torch.zeros(4, num_outputs, dtype=torch.float64)
        self.add_state("moments", zeros, dist_reduce_fx=_merged)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            preds: Predictions (B,) or (B, C, ...).
            target: Values in the same shape, NaN where one is missing.

        Raises:
            ConfigurationError: For another shape.
        """
        if preds.shape != target.shape or (preds.ndim > 1 and preds.shape[1] != self.num_outputs):
            raise ConfigurationError(
                f"num_outputs: {self.num_outputs} with predictions of shape {tuple(preds.shape)} and targets "
                f"of {tuple(target.shape)}; both must be (B, {self.num_outputs}, ...)"
            )
        preds, target = (x.detach().reshape(len(x), self.num_outputs, -1).double() for x in (preds, target))
        known = ~target.isnan()
        count = known.sum((0, 2)).double()
        y = torch.where(known, target, 0)
        mean = y.sum((0, 2)) / count.clamp(min=1)
        spread = torch.where(known, target - mean[:, None], 0).square().sum((0, 2))
        residual = torch.where(known, target - preds, 0).square().sum((0, 2))
        batch = torch.stack((count, mean, spread, residual)).to(self.moments.device)
        self.moments = _merged(torch.stack((self.moments, batch)))

    def compute(self) -> Tensor:
        """Return the mean over outputs."""
        count, _, spread, residual = self.moments
        share = 1 - residual / torch.where(spread > 0, spread, 1)
        constant = (residual == 0).to(share)
        values = torch.where(spread > 0, share, constant)
        enough = count > 1
        mean: Tensor = torch.where(enough, values, 0).sum() / enough.sum()
        return mean


def _merged(moments: Tensor) -> Tensor:
    """Merge counts, means, squared deviations from these, and squared residuals (Chan et al., 1983).

    Args:
        moments: (parts, 4, C).
    """
    counts, means, spreads, residuals = moments.unbind(1)
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count.clamp(min=1)
    spread = (spreads + counts * (means - mean).square()).sum(0)
    return torch.stack((count, mean, spread, residuals.sum(0)))
