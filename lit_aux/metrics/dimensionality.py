"""The dimensionality of activations, and how much of it two networks share, batch by batch."""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from lit_aux.errors import ConfigurationError
from lit_aux.functional import dimensionality as formulas
from lit_aux.functional._scale import magnitude, safe_scale
from lit_aux.metrics.double_precision import DoublePrecisionMetric

MAX_MOMENT_FEATURES = 8192
"""Largest D for which a D x D state is kept: 512 MiB in float64."""


class DimensionalityMetric(DoublePrecisionMetric):
    """Accumulates one or two sets of activations; subclasses name them and pick the value.

    Args:
        inputs: How many sets of activations `_add` takes, 1 or 2.
        num_features: Their numbers of features where they are known beforehand, else None: the first batch
            tells.
        num_samples: Keep all activations of this many samples, by id, instead of their moments.
        pairing: As in `lit_aux.functional.effective_shared_dimensions`.
        center: Subtract the mean over all samples.
        unbiased: Use the unbiased estimators; needs ``num_samples``.
        kwargs: Options of `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    moments: Tensor
    seen: Tensor

    def __init__(
        self,
        inputs: int,
        num_features: Sequence[int] | None,
        *,
        num_samples: int | None,
        pairing: formulas.Pairing,
        center: bool,
        unbiased: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        formulas.check_pairing(pairing)
        if unbiased and num_samples is None:
            raise ConfigurationError(
                "unbiased: True needs every sample; also give num_samples=n and pass ids to update"
            )
        if num_samples is not None and num_samples < 1:
            raise ConfigurationError(f"num_samples: {num_samples}; give the number of samples in the data")
        self.inputs, self.num_samples = inputs, num_samples
        self.pairing, self.center, self.unbiased = pairing, center, unbiased
        self._mixed = inputs == 2 and pairing == "sample"
        self._sizes: tuple[int, ...] | None = None
        self._allocate((0,) * inputs if num_features is None else tuple(num_features))

    def _allocate(self, sizes: tuple[int, ...]) -> None:
        """Register zeroed states for ``sizes`` features each; sizes of 0 stand for not yet known."""
        if any(sizes):
            formulas.check_same_features(self.pairing, sizes)
            if self.num_samples is None and max(sizes) > MAX_MOMENT_FEATURES:
                raise ConfigurationError(
                    f"num_samples: None keeps {max(sizes)}^2 moments; give num_samples=n and pass ids"
                )
            self._sizes = sizes
        if self.num_samples is None:
            length = Moments.length(sizes, self._mixed)
            merge = partial(merge_moments, sizes=sizes, mixed=self._mixed)
            self.add_state("moments", self._zeros(length), dist_reduce_fx=merge)
            return
        self.add_state("seen", self._zeros(self.num_samples), dist_reduce_fx="sum")
        for i, size in enumerate(sizes):
            self.add_state(f"samples_{i}", self._zeros(self.num_samples, size), dist_reduce_fx="sum")

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def _learn_sizes(self, batch: Sequence[Tensor]) -> None:
        """Take the numbers of features from the first batch and check them in later ones."""
        sizes = tuple(x.shape[1] for x in batch)
        if self._sizes is None:
            self._allocate(sizes)
        elif sizes != self._sizes:
            raise ConfigurationError(f"num_features: {self._sizes} so far, but this batch has {sizes}")

    @torch.no_grad()
    def _add(self, batch: Sequence[Tensor], ids: Tensor | None) -> None:
        """Add activations (n, ...) of the same samples to the state."""
        for name, x in zip("xy", batch, strict=False):
            formulas.check_activations(name, x)
            formulas.check_same_samples(batch[0], x)
        rows = [x.detach().flatten(1).to(self.device).to(torch.float64) for x in batch]
        self._learn_sizes(rows)
        largest = [magnitude(name, x, "activations") for name, x in zip("xy", rows, strict=False)]
        if self.num_samples is None:
            assert self._sizes is not None
            with torch.autocast(self.device.type, enabled=False):
                Moments(self.moments, self._sizes, self._mixed).add(rows, torch.stack(largest))
            return
        ids = self._check_ids(ids, rows[0].shape[0])
        for i, x in enumerate(rows):
            getattr(self, f"samples_{i}")[ids] = x
        self.seen[ids] = 1.0

    def _check_ids(self, ids: Tensor | None, n: int) -> Tensor:
        """Return ids as int64 on the metric's device, or raise."""
        assert self.num_samples is not None
        if ids is None or ids.shape != (n,):
            raise ConfigurationError(
                f"ids: num_samples={self.num_samples} needs one id for each of the {n} samples"
            )
        if n and (ids.min() < 0 or ids.max() >= self.num_samples):
            raise ConfigurationError(
                f"ids: {ids.min()} to {ids.max()}; they must lie in 0..{self.num_samples - 1}"
            )
        return ids.to(self.device, torch.int64)

    def _evaluate(self) -> formulas.SharedDimensionality:
        """Compute the measures of everything seen; NaN, with a warning, for too few samples."""
        count = int(self.moments[0].item() if self.num_samples is None else (self.seen > 0).sum().item())
        if self._sizes is None or count < formulas.least_samples(self.unbiased):
            name = type(self).__name__
            warnings.warn(f"{name}: {count} samples are too few, the result is NaN", stacklevel=3)
            nan = torch.full((), math.nan, dtype=torch.float64, device=self.device)
            return formulas.SharedDimensionality(nan, nan, nan)
        how: dict[str, Any] = {"pairing": self.pairing, "center": self.center}
        if self.num_samples is None:
            m = Moments(self.moments, self._sizes, self._mixed)
            return formulas.shared_dimensionality_from_moments(count, m.means, m.seconds, **how)
        rows = self._rows()
        return formulas.shared_dimensionality(rows[0], rows[-1], **how, unbiased=self.unbiased)

    def _rows(self) -> list[Tensor]:
        """Return the samples seen; one that several processes saw (padding) counts once."""
        seen = self.seen > 0
        return [getattr(self, f"samples_{i}")[seen] / self.seen[seen, None] for i in range(self.inputs)]

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        """Add another state; one from before the numbers of features were known is empty."""
        name = "moments" if self.num_samples is None else "samples_0"
        empty = Moments.length((0,) * self.inputs, self._mixed) if self.num_samples is None else 0
        unknown = incoming_state[name].numel() <= empty
        if self._sizes is None and not unknown:
            raise ConfigurationError(
                "num_features: None; give it at construction to merge into an empty metric"
            )
        super()._reduce_states(dict(self._defaults) if unknown else incoming_state)

    def _sync_dist(
        self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any | None = None
    ) -> None:
        """Gather and reduce; a process that saw no batch first learns the sizes from the others."""
        sizes = torch.tensor(self._sizes or (0,) * self.inputs, device=self.device)
        gathered = dist_sync_fn(sizes, group=process_group or self.process_group)
        largest = tuple(int(size) for size in torch.stack(gathered).amax(0))
        if self._sizes is None and any(largest):
            self._allocate(largest)
            self._cache = self._copy_state_dict()  # what comes back after the synchronised value is computed
        super()._sync_dist(dist_sync_fn, process_group=process_group)


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
        pairing: formulas.Pairing = "feature",
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


class Moments:
    """Views into the flat vector for one or two sets of features of the given sizes.

    Args:
        flat: The vector, of length `Moments.length(sizes, mixed)`; `add` writes into it.
        sizes: The numbers of features, one or two.
        mixed: Whether the second moments between the two sets are kept as well.
    """

    def __init__(self, flat: Tensor, sizes: Sequence[int], mixed: bool) -> None:
        pairs = self._pairs(sizes, mixed)
        products = [sizes[i] * sizes[j] for i, j in pairs]
        self.count, self.scales, means, *seconds = torch.split(flat, [1, len(sizes), sum(sizes), *products])
        self.means = torch.split(means, list(sizes))
        self.seconds = {(i, j): s.view(sizes[i], sizes[j]) for (i, j), s in zip(pairs, seconds, strict=True)}

    @staticmethod
    def _pairs(sizes: Sequence[int], mixed: bool) -> list[tuple[int, int]]:
        return [(i, i) for i in range(len(sizes))] + ([(0, 1)] if mixed else [])

    @classmethod
    def length(cls, sizes: Sequence[int], mixed: bool) -> int:
        """Return the length of the flat vector."""
        return 1 + len(sizes) + sum(sizes) + sum(sizes[i] * sizes[j] for i, j in cls._pairs(sizes, mixed))

    def add(self, batch: Sequence[Tensor], largest: Tensor) -> None:
        """Add samples: one (n, D) float64 tensor for each set of features, and their largest magnitudes."""
        n = batch[0].shape[0]
        if n == 0:
            return
        scales = self._rescale(torch.where(largest > 0, safe_scale(largest), 0.0))
        if bool((scales != 1).any()):
            batch = [x / scale for x, scale in zip(batch, scales, strict=True)]
        means = [x.mean(0) for x in batch]
        centred = [x - mean for x, mean in zip(batch, means, strict=True)]
        for (i, j), second in self.seconds.items():
            second.addmm_(centred[i].T, centred[j])
        self._shift(torch.full_like(self.count, float(n)), means)

    def merge(self, other: "Moments") -> None:
        """Add the samples that ``other`` stands for."""
        scales = self._rescale(other.scales)
        ratios = other.scales / scales
        for (i, j), second in self.seconds.items():
            second.add_(other.seconds[i, j] * ratios[i] * ratios[j])
        self._shift(other.count, [mean * ratio for mean, ratio in zip(other.means, ratios, strict=True)])

    def _rescale(self, scales: Tensor) -> Tensor:
        """Go over to the larger of two scales of each set; return them, 1 for sets without any."""
        if torch.equal(self.scales, scales) and bool((scales > 0).all()):
            return scales
        largest = torch.maximum(self.scales, scales)
        used = torch.where(largest > 0, largest, 1.0)
        ratios = self.scales / used
        for (i, j), second in self.seconds.items():
            second.mul_(ratios[i]).mul_(ratios[j])
        for mean, ratio in zip(self.means, ratios, strict=True):
            mean.mul_(ratio)
        self.scales.copy_(largest)
        return used

    def _shift(self, count: Tensor, means: Sequence[Tensor]) -> None:
        """Account for ``count`` samples with other means, whose moments around those are already added."""
        total = (self.count + count).clamp(min=1)
        deltas = [new - old for new, old in zip(means, self.means, strict=True)]
        weight = self.count * count / total
        for (i, j), second in self.seconds.items():
            second.addr_(deltas[i] * weight, deltas[j])
        for mean, delta in zip(self.means, deltas, strict=True):
            mean.add_(delta * (count / total))
        self.count.add_(count)


def merge_moments(stacked: Tensor, *, sizes: Sequence[int], mixed: bool) -> Tensor:
    """Combine the rows of ``stacked`` (parts, length), each the flat vector of one part of the samples."""
    total = torch.zeros_like(stacked[0])
    moments = Moments(total, sizes, mixed)
    for row in stacked:
        moments.merge(Moments(row, sizes, mixed))
    return total
