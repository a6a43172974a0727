"""Networks: one shared backbone (any timm network, or any module) with a readout for every task."""

from lit_aux.models.export import export_state_dict
from lit_aux.models.multi_head_net import MultiHeadNet
from lit_aux.models.timm_backbone import TimmBackbone

__all__ = ["MultiHeadNet", "TimmBackbone", "export_state_dict"]
