"""Follow how close the directions of hidden units come to a teacher's."""

import reprlib
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, get_args

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lit_aux.callbacks import _weight_measures as of_weights
from lit_aux.callbacks._options import check_text
from lit_aux.errors import ConfigurationError, check_known
from lit_aux.functional.clustering import Similarity, check_seed, feature_alignment


@dataclass(eq=False, repr=False)
class FeatureAlignment(of_weights.WeightMeasures):
    """Measures how well the cluster centres of a layer's units match a teacher's directions.

    The mean over the teacher's units of the best similarity with one of the K centres: 1 where each has a
    centre in its direction. See :func:`lit_aux.functional.feature_alignment` for the definition (Lippl &
    Lindsey). Logged as ``{layer}/alignment_k{K}`` after the module's ``log_prefix``, with ``_{task}`` behind
    it where several tasks' teachers are compared: the mean over replicas where the layer has several
    networks' weights (R, H, d), with every replica's value in ``results``. A replica with fewer than K
    directions, or weights that are not finite, has the value NaN.

    Works in anybody's Trainer. Training is bit for bit what it is without the callback. Weights must not be
    sharded.

    Attributes:
        results: A :class:`~lit_aux.callbacks.WeightMeasurement` for each moment, layer, K
            and task, in order of time; a new fit of a phase replaces that phase's rows.

    Args:
        layer: The name of, or a glob over, modules or parameters with weights (units, inputs) or (replicas,
            units, inputs), as for :class:`~lit_aux.callbacks.KMeansInertia`.
        teacher: Directions (J, inputs), one set a replica (R, J, inputs), or an object with such
            ``directions``. By default the Trainer's ``datamodule.teacher(replica, task)`` is asked for it,
            where ``replica`` is the index along the leading axis of the weights (0 without that axis).
        k: The number of clusters, or several; the published teachers have six units.
        tasks: The tasks whose teachers are compared, one after another; by default ``main`` where the phase
            trains it or there are no phases, else all tasks of the phase. Not with ``teacher``.
        every_n_epochs: Measure every so many epochs of the fit too.
        at_start: Whether to measure before the first step (after a rescale).
        similarity: ``"cosine"``, or ``"pearson"``, the correlation over inputs.
        seed: Of k-means, from 0 to 2^32 - 1.

    Raises:
        ConfigurationError: For bad options; before training starts for an unknown layer, no teacher, one
            without directions or of another number of inputs, or more clusters than units.
    """

    layer: str
    teacher: Any = None
    k: int | list[int] = 6
    _: KW_ONLY
    tasks: list[str] | None = None
    similarity: Similarity = "cosine"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known("similarity", self.similarity, get_args(Similarity))
        check_seed(self.seed)
        if self.tasks is not None and (self.teacher is not None or not self.tasks):
            raise ConfigurationError(
                f"tasks: {self.tasks} with teacher {type(self.teacher).__name__}; give names of tasks, or a "
                "teacher"
            )
        check_text("layer", self.layer)
        self.k = self._counts = of_weights.counts("k", self.k)

    @property
    def state_key(self) -> str:
        """Tell callbacks for different layers or measures apart."""
        return self._generate_state_key(
            layer=self.layer, k=self.k, tasks=self.tasks, similarity=self.similarity
        )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be measured before anything is trained."""
        for name, weights in of_weights.find_weights("layer", pl_module, self.layer).items():
            networks = of_weights.stacked(weights)
            of_weights.check_counts(self._counts, networks.shape[1], name)
            for task in self._tasks(pl_module):
                self._teachers(trainer, task, networks)

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> of_weights.Measures:
        """Return the alignment of every replica by layer, K and task, as the weights are now."""
        found: of_weights.Measures = {}
        tasks = self._tasks(pl_module)
        for name, weights in of_weights.find_weights("layer", pl_module, self.layer).items():
            networks = of_weights.stacked(weights)
            for task in tasks:
                teachers = self._teachers(trainer, task, networks)
                for k in self._counts:
                    measure = f"alignment_k{k}" if len(tasks) == 1 else f"alignment_k{k}_{task}"
                    one = partial(feature_alignment, k=k, similarity=self.similarity, seed=self.seed)
                    found[name, measure] = self._each(f"{name}/{measure}", one, networks, teachers)
        return found

    def _tasks(self, module: LightningModule) -> list[str]:
        """Return the tasks whose teachers count."""
        known = of_weights.chosen_tasks(module, self.tasks)
        return known if known and (self.tasks is not None or "main" not in known) else ["main"]

    def _teachers(self, trainer: Trainer, task: str, networks: Tensor) -> list[Tensor]:
        """Return the teacher's directions for every replica."""
        count, inputs = len(networks), networks.shape[2]
        if self.teacher is None:
            data = getattr(trainer, "datamodule", None)
            ask = getattr(data, "teacher", None)
            if not callable(ask):
                raise ConfigurationError(
                    f"teacher: not given, and the data ({type(data).__name__}) have no "
                    "teacher(replica, task); give directions of shape (units, inputs)"
                )
            found = [_directions(ask(replica, task)) for replica in range(count)]
        else:
            given = _directions(self.teacher)
            found = list(given) if given.ndim == 3 and len(given) == count else [given] * count
        for one in found:
            if one.ndim != 2 or one.shape[1] != inputs or not len(one):
                raise ConfigurationError(
                    f"teacher: directions of shape {tuple(one.shape)} for {count} replicas with {inputs} "
                    "inputs; give (units, inputs), or one set a replica"
                )
        return found


def _directions(teacher: object) -> Tensor:
    """Return a teacher's directions."""
    found = getattr(teacher, "directions", teacher)
    if not isinstance(found, Tensor):
        raise ConfigurationError(
            f"teacher: {reprlib.repr(teacher)} is no tensor and has no directions; give (units, inputs)"
        )
    return found.detach()
