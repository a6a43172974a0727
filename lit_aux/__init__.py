"""Auxiliary-task learning in PyTorch Lightning: pretrain, rescale, finetune, and see what was reused."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_aux.phases import Phase, PhaseSettings, PhaseTrainer
    from lit_aux.reporting import report

__version__ = "0.1.0"
__all__ = ["Phase", "PhaseSettings", "PhaseTrainer", "report"]


def __getattr__(name: str) -> Any:
    """Import what needs Lightning when it is asked for: ``import lit_aux`` costs no more than torch."""
    from importlib import import_module

    if name == "report":
        return import_module("lit_aux.reporting").report
    if name in __all__:
        return getattr(import_module("lit_aux.phases"), name)
    raise AttributeError(f"module 'lit_aux' has no attribute {name!r}")
