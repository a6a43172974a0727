"""Lightning callbacks; each works in anybody's ``Trainer(callbacks=[...])`` over any LightningModule."""

from lit_aux.callbacks._measurements import (
    LayerDimensionality,
    MixingMeasurement,
    TaskMeasurement,
    WeightMeasurement,
)
from lit_aux.callbacks._task_model import TaskModel
from lit_aux.callbacks.feature_alignment import FeatureAlignment
from lit_aux.callbacks.fisher_trace import FisherTrace
from lit_aux.callbacks.gradient_coherence import GradientCoherence
from lit_aux.callbacks.gradient_conflict import GradientConflict
from lit_aux.callbacks.kmeans_inertia import KMeansInertia
from lit_aux.callbacks.l2_sp import L2SP
from lit_aux.callbacks.representation_dimensionality import RepresentationDimensionality
from lit_aux.callbacks.sharpness import Sharpness
from lit_aux.callbacks.stop_at_training_loss import StopAtTrainingLoss
from lit_aux.callbacks.student_norms import StudentNorms
from lit_aux.callbacks.task_diagnostic import TaskDiagnostic
from lit_aux.callbacks.trajectory_log import TrajectoryLog
from lit_aux.callbacks.weight_rescaling import WeightRescaling
from lit_aux.callbacks.wise_ft import WiSEFT
from lit_aux.verdicts import verdict

__all__ = [
    "L2SP",
    "FeatureAlignment",
    "FisherTrace",
    "GradientCoherence",
    "GradientConflict",
    "KMeansInertia",
    "LayerDimensionality",
    "MixingMeasurement",
    "RepresentationDimensionality",
    "Sharpness",
    "StopAtTrainingLoss",
    "StudentNorms",
    "TaskDiagnostic",
    "TaskMeasurement",
    "TaskModel",
    "TrajectoryLog",
    "WeightMeasurement",
    "WeightRescaling",
    "WiSEFT",
    "verdict",
]
