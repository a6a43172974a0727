"""Networks: a shared backbone with a readout for every task, and small students of synthetic teachers."""

from lit_aux.models.diagonal_net import DiagonalNet
from lit_aux.models.export import export_state_dict
from lit_aux.models.lenet import LeNet
from lit_aux.models.low_rank import LoRA
from lit_aux.models.mlp import MLP
from lit_aux.models.multi_head_net import MultiHeadNet
from lit_aux.models.relu_net import ReLUNet
from lit_aux.models.student import Problems, StudentNet
from lit_aux.models.timm_backbone import TimmBackbone
from lit_aux.models.transformers_backbone import TransformersBackbone

__all__ = [
    "MLP",
    "DiagonalNet",
    "LeNet",
    "LoRA",
    "MultiHeadNet",
    "Problems",
    "ReLUNet",
    "StudentNet",
    "TimmBackbone",
    "TransformersBackbone",
    "export_state_dict",
]
