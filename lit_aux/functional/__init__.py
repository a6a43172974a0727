"""Mathematics on tensors, without Lightning."""

from lit_aux.functional.batchnorm import reestimate_batchnorm
from lit_aux.functional.dimensionality import (
    SharedDimensionality,
    effective_shared_dimensions,
    participation_ratio,
    shared_dimensionality,
)

__all__ = [
    "SharedDimensionality",
    "effective_shared_dimensions",
    "participation_ratio",
    "reestimate_batchnorm",
    "shared_dimensionality",
]
