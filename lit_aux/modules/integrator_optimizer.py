"""An integrator as Lightning sees it: an optimizer whose step is a block of gradient evaluations."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from lit_aux.modules.student_phase import StudentPhase


class IntegratorOptimizer(torch.optim.Optimizer):
    """Advances a batch of students by ``block`` gradient evaluations a step; checkpoints hold where they are.

    Args:
        parameters: What trains.
        run: The phase of the students.
        block: Gradient evaluations of a replica in one step.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], run: StudentPhase, block: int) -> None:
        options = {k: v for k, v in vars(run.integrator).items() if isinstance(v, int | float | str | None)}
        super().__init__(parameters, {"integrator": run.integrator.name, "block": block, **options})
        self.run = run
        self.block = block

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Advance."""
        self.run.advance(self.block)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do nothing: gradients are not kept in the parameters."""

    def state_dict(self) -> dict[str, Any]:
        """Return where the students are."""
        return {"students": self.run.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint was, once training starts."""
        self.run.load_state_dict(state_dict["students"])
