"""Metrics that accumulate over batches and processes; the mathematics is in `lit_aux.functional`."""

from lit_aux.metrics.dimensionality import EffectiveSharedDimensions, ParticipationRatio
from lit_aux.metrics.r2_score import R2Score

__all__ = ["EffectiveSharedDimensions", "ParticipationRatio", "R2Score"]
