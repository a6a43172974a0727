"""Rows that say how layers' activations before and after a fit compare, or why they do not."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lit_aux.callbacks.layer_dimensionality import LayerDimensionality
from lit_aux.functional.dimensionality import participation_ratio, shared_dimensionality

Pairing = Literal["feature", "sample"]


@dataclass(frozen=True)
class Comparison:
    """How layers are compared; options of ``RepresentationDimensionality``."""

    pairing: Pairing
    center: bool
    unbiased: bool
    nested_below: float
    replaced_below: float
    untrained: bool = False

    def row(
        self, phase: str, layer: str, before: Tensor | None, after: Tensor | None, note: str = ""
    ) -> LayerDimensionality:
        """Return one layer's row.

        Args:
            phase: The phase.
            layer: The layer's name.
            before: Its activations (samples x features) before; None where it has none.
            after: The same now.
            note: What there is to say of them.
        """
        notes = [note] if note else []
        measures = (math.nan, math.nan, math.nan)
        x, y = (None if t is None or not bool(t.isfinite().all()) else t for t in (before, after))
        if any(t is not None and found is None for t, found in ((before, x), (after, y))):
            notes.append("activations are not finite")
        elif x is not None and y is not None and self._comparable(x, y):
            shared = shared_dimensionality(
                x, y, pairing=self.pairing, center=self.center, unbiased=self.unbiased
            )
            measures = (float(shared.pr_x), float(shared.pr_y), float(shared.ensd))
        else:
            measures = (self._pr(x), self._pr(y), math.nan)
            if x is not None and y is not None:
                notes.append(f"the layer had {x.shape[1]} features before and has {y.shape[1]} now")
        return LayerDimensionality.compare(
            phase,
            layer,
            *measures,
            nested_below=self.nested_below,
            replaced_below=self.replaced_below,
            note="; ".join(notes),
            untrained=self.untrained,
        )

    def _comparable(self, x: Tensor, y: Tensor) -> bool:
        return x.shape[1] == y.shape[1] or self.pairing == "sample"

    def _pr(self, x: Tensor | None) -> float:
        if x is None:
            return math.nan
        return float(participation_ratio(x, center=self.center, unbiased=self.unbiased))


def grouped(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """Cut layers, with their sizes in bytes, into groups of at most so many bytes, or of one layer."""
    group: list[str] = []
    used = 0
    for layer, size in sizes.items():
        if group and used + size > most:
            yield group
            group, used = [], 0
        group.append(layer)
        used += size
    if group:
        yield group
