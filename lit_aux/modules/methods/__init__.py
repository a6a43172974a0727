"""How the losses or gradients of several tasks become one step."""

from lit_aux.modules.methods.aggregation import Aggregation
from lit_aux.modules.methods.gradnorm import GradNorm
from lit_aux.modules.methods.task_method import TaskMethod
from lit_aux.modules.methods.weightings import (
    LossWeighting,
    RandomWeighting,
    Scalarization,
    UncertaintyWeighting,
)

__all__ = [
    "Aggregation",
    "GradNorm",
    "LossWeighting",
    "RandomWeighting",
    "Scalarization",
    "TaskMethod",
    "UncertaintyWeighting",
]
