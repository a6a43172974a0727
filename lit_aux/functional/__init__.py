"""Mathematics on tensors, without Lightning."""

from lit_aux.functional.alignment import feature_alignment
from lit_aux.functional.batchnorm import reestimate_batchnorm
from lit_aux.functional.clustering import kmeans_inertia
from lit_aux.functional.dimensionality import (
    SharedDimensionality,
    effective_shared_dimensions,
    participation_ratio,
    shared_dimensionality,
)
from lit_aux.functional.norms import (
    entry_share,
    f1_norm,
    f12_norm,
    l1_norm,
    l2_norm,
    l12_norm,
    top_share,
    unit_products,
)

__all__ = [
    "SharedDimensionality",
    "effective_shared_dimensions",
    "entry_share",
    "f1_norm",
    "f12_norm",
    "feature_alignment",
    "kmeans_inertia",
    "l1_norm",
    "l2_norm",
    "l12_norm",
    "participation_ratio",
    "reestimate_batchnorm",
    "shared_dimensionality",
    "top_share",
    "unit_products",
]
