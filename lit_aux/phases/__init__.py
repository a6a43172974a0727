"""Phases: what they are, and the Trainer that runs them."""

from lit_aux.phases.answers import Answers
from lit_aux.phases.checkpoint import PhaseCheckpoint
from lit_aux.phases.phase import LRSchedulerCallable, OptimizerCallable, Phase, PhaseSettings
from lit_aux.phases.state import PhaseResult
from lit_aux.phases.store import PhaseStore
from lit_aux.phases.trainer import PhaseTrainer

__all__ = [
    "Answers",
    "LRSchedulerCallable",
    "OptimizerCallable",
    "Phase",
    "PhaseCheckpoint",
    "PhaseResult",
    "PhaseSettings",
    "PhaseStore",
    "PhaseTrainer",
]
