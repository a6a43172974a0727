"""Means and centred second moments that add up exactly over batches and over processes.

One flat float64 vector holds the count, the scales, the means and the second moments around them, so that
one reduction sees all of them: two parts with different means combine by Chan's formula, which needs the
means of both. Sums around zero would cancel where means are large, and sums around a shift would need the
same shift in every process. The scale of a set is 1 unless all of its values are so small, or one so large,
that squares would be lost (see `lit_aux.functional._scale`); it is 0 as long as all values were. Means and
moments are those of the values over their scale.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_aux.functional._scale import safe_scale


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
