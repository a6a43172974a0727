"""Participation ratio accumulated over batches and processes."""

from typing import Any

from torch import Tensor

from lit_aux.metrics._base import DimensionalityMetric


class ParticipationRatio(DimensionalityMetric):
    r"""Participation ratio :math:`(\mathrm{tr}\,C)^2 / \mathrm{tr}\,C^2` of activations seen batch by batch.

    The value over all batches and processes is that of `lit_aux.functional.participation_ratio` on all
    samples at once. Without ``num_samples`` the state is the D x D second moments in float64, for D up to the
    number of samples. With it, the state is an (n x D) float64 buffer filled at sample ids: for more features
    than samples, for the unbiased estimator, and where a distributed sampler repeats samples (each counts
    once).

    Args:
        num_features: D, where it is known beforehand; by default the first batch tells.
        num_samples: Keep the activations of this many samples; ``update`` then needs their ids in 0..n-1.
            Samples that were never seen are left out.
        center: Subtract the mean over the samples.
        unbiased: Correct for the finite number of samples (Chun et al., ICLR 2026); needs ``num_samples``.
        kwargs: Options of `torchmetrics.Metric`.

    Raises:
        ConfigurationError: If options exclude each other, or D is too large for second moments.

    Example:
        >>> import torch
        >>> from lit_aux.metrics import ParticipationRatio
        >>> metric = ParticipationRatio(center=False)
        >>> for batch in torch.eye(4)[:, :3].split(2):
        ...     metric.update(batch)
        >>> round(metric.compute().item(), 6)
        3.0
    """

    def __init__(
        self,
        num_features: int | None = None,
        num_samples: int | None = None,
        *,
        center: bool = True,
        unbiased: bool = False,
        **kwargs: Any,
    ) -> None:
        sizes = None if num_features is None else (num_features,)
        super().__init__(
            1, sizes, num_samples=num_samples, pairing="sample", center=center, unbiased=unbiased, **kwargs
        )

    def update(self, x: Tensor, ids: Tensor | None = None) -> None:
        """Add activations.

        Args:
            x: (n, D) or (n, ...), which is flattened; any real dtype.
            ids: (n,) integer sample ids, needed with ``num_samples`` and ignored without.

        Raises:
            ConfigurationError: If shapes or ids do not fit, or a value is not finite.
        """
        self._add([x], ids)

    def compute(self) -> Tensor:
        """Return the participation ratio, a 0-dim float64 tensor; NaN with a warning for too few samples."""
        return self._evaluate().pr_x
