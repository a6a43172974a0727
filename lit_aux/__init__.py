"""Auxiliary-task learning in PyTorch Lightning: pretrain, rescale, finetune, and see what was reused."""

from typing import TYPE_CHECKING

from lit_aux.lazy import lazy

if TYPE_CHECKING:
    from lit_aux.phases import Phase, PhaseSettings, PhaseTrainer
    from lit_aux.reporting import report
    from lit_aux.tasks import Task

__version__ = "0.1.0"
__all__ = ["Phase", "PhaseSettings", "PhaseTrainer", "Task", "report"]
__getattr__, __dir__ = lazy(  # those that need Lightning: ``import lit_aux`` costs no more than torch
    __name__,
    {
        "Phase": "phases",
        "PhaseSettings": "phases",
        "PhaseTrainer": "phases",
        "Task": "tasks",
        "report": "reporting",
    },
)
