"""Metrics that accumulate over batches and processes; the mathematics is in `lit_aux.functional`."""

from lit_aux.metrics.dimensionality import EffectiveSharedDimensions, ParticipationRatio

__all__ = ["EffectiveSharedDimensions", "ParticipationRatio"]
