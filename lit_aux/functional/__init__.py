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
from lit_aux.functional.gradient_flow import FlowLimit, conserved, gradient_flow_limit
from lit_aux.functional.group_norm import minimal_group_norm
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
from lit_aux.functional.orders import (
    NESTED,
    REGIMES,
    feature_dependence,
    l_order,
    nested_ratios,
    regime,
)
from lit_aux.functional.penalties import (
    group_penalty,
    mtl_marginal_penalty,
    q_penalty,
    relu_finetuning_penalty,
    relu_input_norm,
)
from lit_aux.functional.readout_path import ProbeSolution, gradient_descent_probe, gradient_flow_probe

__all__ = [
    "NESTED",
    "REGIMES",
    "FlowLimit",
    "ProbeSolution",
    "SharedDimensionality",
    "conserved",
    "effective_shared_dimensions",
    "entry_share",
    "f1_norm",
    "f12_norm",
    "feature_alignment",
    "feature_dependence",
    "gradient_descent_probe",
    "gradient_flow_limit",
    "gradient_flow_probe",
    "group_penalty",
    "kmeans_inertia",
    "l1_norm",
    "l2_norm",
    "l12_norm",
    "l_order",
    "minimal_group_norm",
    "mtl_marginal_penalty",
    "nested_ratios",
    "participation_ratio",
    "q_penalty",
    "reestimate_batchnorm",
    "regime",
    "relu_finetuning_penalty",
    "relu_input_norm",
    "shared_dimensionality",
    "top_share",
    "unit_products",
]
