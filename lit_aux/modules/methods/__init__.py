"""How the losses or gradients of several tasks become one step."""

from lit_aux.modules.methods.aggregation import Aggregation
from lit_aux.modules.methods.gradnorm import GradNorm
from lit_aux.modules.methods.loss_weighting import LossWeighting
from lit_aux.modules.methods.random_weighting import RandomWeighting
from lit_aux.modules.methods.scalarization import Scalarization
from lit_aux.modules.methods.task_method import TaskMethod
from lit_aux.modules.methods.uncertainty import UncertaintyWeighting

__all__ = [
    "Aggregation",
    "GradNorm",
    "LossWeighting",
    "RandomWeighting",
    "Scalarization",
    "TaskMethod",
    "UncertaintyWeighting",
]
