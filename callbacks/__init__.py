"""Lightning callbacks; each works in anybody's ``Trainer(callbacks=[...])`` over any LightningModule."""

from lit_aux.callbacks.feature_alignment import FeatureAlignment
from lit_aux.callbacks.kmeans_inertia import KMeansInertia
from lit_aux.callbacks.layer_dimensionality import LayerDimensionality, verdict
from lit_aux.callbacks.representation_dimensionality import RepresentationDimensionality
from lit_aux.callbacks.stop_at_training_loss import StopAtTrainingLoss
from lit_aux.callbacks.student_norms import StudentNorms
from lit_aux.callbacks.weight_measurement import WeightMeasurement
from lit_aux.callbacks.weight_rescaling import WeightRescaling

__all__ = [
    "FeatureAlignment",
    "KMeansInertia",
    "LayerDimensionality",
    "RepresentationDimensionality",
    "StopAtTrainingLoss",
    "StudentNorms",
    "WeightMeasurement",
    "WeightRescaling",
    "verdict",
]
