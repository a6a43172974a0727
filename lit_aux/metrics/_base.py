"""State that the dimensionality metrics share: moments without sample ids, a buffer of samples with them."""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from lit_aux.errors import ConfigurationError
from lit_aux.functional._scale import magnitude
from lit_aux.functional.dimensionality import (
    Pairing,
    SharedDimensionality,
    check_activations,
    check_pairing,
    check_same_features,
    check_same_samples,
    least_samples,
    shared_dimensionality,
    shared_dimensionality_from_moments,
)
from lit_aux.metrics._moments import Moments, merge_moments

MAX_MOMENT_FEATURES = 8192
"""Largest D for which a D x D state is kept: 512 MiB in float64."""


class DimensionalityMetric(Metric):
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
        pairing: Pairing,
        center: bool,
        unbiased: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_pairing(pairing)
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
            check_same_features(self.pairing, sizes)
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
            check_activations(name, x)
            check_same_samples(batch[0], x)
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

    def _evaluate(self) -> SharedDimensionality:
        """Compute the measures of everything seen; NaN, with a warning, for too few samples."""
        count = int(self.moments[0].item() if self.num_samples is None else (self.seen > 0).sum().item())
        if self._sizes is None or count < least_samples(self.unbiased):
            warnings.warn(
                f"{type(self).__name__}: {count} samples are too few, the result is NaN", stacklevel=3
            )
            nan = torch.full((), math.nan, dtype=torch.float64, device=self.device)
            return SharedDimensionality(nan, nan, nan)
        if self.num_samples is None:
            m = Moments(self.moments, self._sizes, self._mixed)
            return shared_dimensionality_from_moments(
                count, m.means, m.seconds, pairing=self.pairing, center=self.center
            )
        rows = self._rows()
        return shared_dimensionality(
            rows[0], rows[-1], pairing=self.pairing, center=self.center, unbiased=self.unbiased
        )

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

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Self:
        """Follow moves to another device, but stay in float64 whatever dtype the owner is cast to."""

        def move(tensor: Tensor) -> Tensor:
            device = fn(torch.empty(0, device=tensor.device)).device
            return tensor if device.type == "mps" else tensor.to(device)  # MPS has no float64

        super()._apply(move, exclude_state)
        return self
