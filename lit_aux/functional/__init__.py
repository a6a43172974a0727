"""Mathematics on tensors, without Lightning."""

from lit_aux.functional.batchnorm import reestimate_batchnorm
from lit_aux.functional.clustering import feature_alignment, kmeans_inertia
from lit_aux.functional.dimensionality import (
    SharedDimensionality,
    effective_shared_dimensions,
    participation_ratio,
    shared_dimensionality,
)
from lit_aux.functional.fisher_trace import draw_labels, fisher_trace
from lit_aux.functional.gradient_coherence import GradientMoments, gradient_coherence, moments_from_norms
from lit_aux.functional.gradient_conflict import gradient_conflict, gradient_cosine, pairwise_cosines
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
    unit_contributions,
    unit_products,
)
from lit_aux.functional.orders import NESTED, REGIMES, feature_dependence, l_order, nested_ratios, regime
from lit_aux.functional.penalties import (
    group_penalty,
    mtl_marginal_penalty,
    q_penalty,
    relu_finetuning_penalty,
    relu_input_norm,
)
from lit_aux.functional.readout_path import ProbeSolution, gradient_descent_probe, gradient_flow_probe
from lit_aux.functional.sharpness import adaptive_sharpness

__all__ = [
    "NESTED",
    "REGIMES",
    "FlowLimit",
    "GradientMoments",
    "ProbeSolution",
    "SharedDimensionality",
    "adaptive_sharpness",
    "conserved",
    "draw_labels",
    "effective_shared_dimensions",
    "entry_share",
    "f1_norm",
    "f12_norm",
    "feature_alignment",
    "feature_dependence",
    "fisher_trace",
    "gradient_coherence",
    "gradient_conflict",
    "gradient_cosine",
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
    "moments_from_norms",
    "mtl_marginal_penalty",
    "nested_ratios",
    "pairwise_cosines",
    "participation_ratio",
    "q_penalty",
    "reestimate_batchnorm",
    "regime",
    "relu_finetuning_penalty",
    "relu_input_norm",
    "shared_dimensionality",
    "top_share",
    "unit_contributions",
    "unit_products",
]
