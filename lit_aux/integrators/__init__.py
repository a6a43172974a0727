"""How small full-batch networks move: gradient flow and gradient descent, many replicas at once."""

from lit_aux.integrators.base import Integrator
from lit_aux.integrators.descent import Descent, GradientDescent, TorchOptimizer
from lit_aux.integrators.exact import Exact
from lit_aux.integrators.gradient_flow import GradientFlow
from lit_aux.integrators.objective import FunctionObjective, Objective
from lit_aux.integrators.state import Counts, IntegratorState, Observer, Solution, Step

INTEGRATORS: dict[str, type[GradientFlow] | type[GradientDescent] | type[Exact]] = {
    kind.name: kind for kind in (GradientFlow, GradientDescent, Exact)
}
"""By the names that options and tables use."""

__all__ = [
    "INTEGRATORS",
    "Counts",
    "Descent",
    "Exact",
    "FunctionObjective",
    "GradientDescent",
    "GradientFlow",
    "Integrator",
    "IntegratorState",
    "Objective",
    "Observer",
    "Solution",
    "Step",
    "TorchOptimizer",
]
