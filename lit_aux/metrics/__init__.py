"""Metrics that accumulate over batches and processes; the mathematics is in `lit_aux.functional`."""

from lit_aux.metrics.effective_shared_dimensions import EffectiveSharedDimensions
from lit_aux.metrics.participation_ratio import ParticipationRatio

__all__ = ["EffectiveSharedDimensions", "ParticipationRatio"]
