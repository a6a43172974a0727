"""Lightning callbacks; each works in anybody's ``Trainer(callbacks=[...])`` over any LightningModule."""

from lit_aux.callbacks.layer_dimensionality import LayerDimensionality, verdict
from lit_aux.callbacks.representation_dimensionality import RepresentationDimensionality
from lit_aux.callbacks.stop_at_training_loss import StopAtTrainingLoss
from lit_aux.callbacks.weight_rescaling import WeightRescaling

__all__ = [
    "LayerDimensionality",
    "RepresentationDimensionality",
    "StopAtTrainingLoss",
    "WeightRescaling",
    "verdict",
]
