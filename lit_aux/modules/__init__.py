"""LightningModules: one task, several at once, or one after another."""

from lit_aux.modules.base import AuxiliaryModule
from lit_aux.modules.methods import GradNorm, RandomWeighting, Scalarization, UncertaintyWeighting
from lit_aux.modules.multi_task import MultiTaskModule
from lit_aux.modules.pretrain_finetune import PretrainFinetuneModule
from lit_aux.modules.single_task import SingleTaskModule

__all__ = [
    "AuxiliaryModule",
    "GradNorm",
    "MultiTaskModule",
    "PretrainFinetuneModule",
    "RandomWeighting",
    "Scalarization",
    "SingleTaskModule",
    "UncertaintyWeighting",
]
