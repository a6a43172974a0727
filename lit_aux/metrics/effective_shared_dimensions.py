"""Effective number of shared dimensions accumulated over batches and processes."""

from typing import Any

from torch import Tensor

from lit_aux.functional.dimensionality import Pairing
from lit_aux.metrics._base import DimensionalityMetric


class EffectiveSharedDimensions(DimensionalityMetric):
    r"""Effective number of shared dimensions of two networks' activations, seen batch by batch.

    The value over all batches and processes is that of `lit_aux.functional.effective_shared_dimensions` on
    all samples at once (Giaffar, Buxo and Aoi, AISTATS 2024). Without ``num_samples`` the state is the D x D
    second moments in float64 (and those between X and Y for the sample pairing), for D up to the number of
    samples. With it, the state is two (n x D) float64 buffers filled at sample ids: for more features than
    samples, for the unbiased estimator, and where a distributed sampler repeats samples (each counts once).

    Args:
        num_features: D, or (Dx, Dy) for the sample pairing, where known beforehand; by default the first
            batch tells.
        num_samples: Keep the activations of this many samples; ``update`` then needs their ids in 0..n-1.
            Samples that were never seen are left out.
        pairing: ``"feature"`` for the same neurons in both, ``"sample"`` for any two networks.
        center: Subtract the mean over the samples.
        unbiased: Correct for the finite number of samples; needs ``num_samples``.
        kwargs: Options of `torchmetrics.Metric`.

    Raises:
        ConfigurationError: If options exclude each other, or D is too large for second moments.

    Example:
        >>> import torch
        >>> from lit_aux.metrics import EffectiveSharedDimensions
        >>> metric = EffectiveSharedDimensions(center=False)
        >>> x = torch.eye(4)[:, :3]
        >>> metric.update(x, x)
        >>> round(metric.compute().item(), 6)
        3.0
    """

    def __init__(
        self,
        num_features: int | tuple[int, int] | None = None,
        num_samples: int | None = None,
        *,
        pairing: Pairing = "feature",
        center: bool = True,
        unbiased: bool = False,
        **kwargs: Any,
    ) -> None:
        sizes = (num_features, num_features) if isinstance(num_features, int) else num_features
        super().__init__(
            2, sizes, num_samples=num_samples, pairing=pairing, center=center, unbiased=unbiased, **kwargs
        )

    def update(self, x: Tensor, y: Tensor, ids: Tensor | None = None) -> None:
        """Add activations of the same samples in both networks.

        Args:
            x: (n, Dx) or (n, ...), which is flattened; any real dtype.
            y: (n, Dy) or (n, ...).
            ids: (n,) integer sample ids, needed with ``num_samples`` and ignored without.

        Raises:
            ConfigurationError: If shapes or ids do not fit, or a value is not finite.
        """
        self._add([x, y], ids)

    def compute(self) -> Tensor:
        """Return the shared dimensions, a 0-dim float64 tensor; NaN with a warning for too few samples."""
        return self._evaluate().ensd
