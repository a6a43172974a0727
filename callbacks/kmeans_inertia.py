"""Follow how few directions the input weights of hidden units lie in."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Literal, get_args

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lit_aux.callbacks import _weight_measures as of_weights
from lit_aux.callbacks._options import check_choice, check_text
from lit_aux.errors import ConfigurationError, check_known
from lit_aux.functional.clustering import Reference, check_seed, kmeans_inertia
from lit_aux.functional.norms import unit_contributions
from lit_aux.ranges import NOT_NEGATIVE, check


@dataclass(eq=False, repr=False)
class KMeansInertia(of_weights.WeightMeasures):
    """Measures the share of the variance of units' directions that K clusters leave unexplained.

    Near 0 for K small: the layer's units lie in K directions, the network has learned sparse features; near
    1: the clusters explain nothing. See :func:`lit_aux.functional.kmeans_inertia` for the definition (Lippl &
    Lindsey). Logged as ``{layer}/inertia_k{K}`` after the module's ``log_prefix``: the mean over replicas
    where the layer has several networks' weights (R, H, d), with every replica's value in ``results``. A
    replica with fewer than K directions, or weights that are not finite, has the value NaN.

    Works in anybody's Trainer. Training is bit for bit what it is without the callback. Weights must not be
    sharded.

    Attributes:
        results: A :class:`~lit_aux.callbacks.WeightMeasurement` for each moment, layer and
            K, in order of time; a new fit of a phase replaces that phase's rows.

    Args:
        layer: The name of, or a glob over, modules or parameters with weights (units, inputs) or (replicas,
            units, inputs): ``net.0`` for an ``nn.Linear``, ``net.first.weight``. Convolutions count as
            (channels, everything else). With a glob, every layer that it matches is measured.
        k: The number of clusters, or several.
        every_n_epochs: Measure every so many epochs of the fit too.
        at_start: Whether to measure before the first step (after a rescale).
        unit_weights: None counts units equally. ``"contribution"`` weighs each by the norm of its output
            weights times that of its input weights, and needs ``readout``.
        readout: The name of the parameter or module with the output weights (outputs, units) or (replicas,
            outputs, units) for it.
        reference: ``"mean"``, or ``"origin"``, which is the useful one for K = 1.
        min_norm: Units with shorter input weights are dropped; those of length 0 always are.
        seed: Of k-means, from 0 to 2^32 - 1.

    Raises:
        ConfigurationError: For bad options; before training starts for an unknown layer or readout, a readout
            of another number of units, or more clusters than units.
    """

    layer: str
    k: int | list[int]
    _: KW_ONLY
    unit_weights: Literal["contribution"] | None = None
    readout: str | None = None
    reference: Reference = "mean"
    min_norm: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("unit_weights", self.unit_weights, "contribution", None)
        if (self.unit_weights is None) != (self.readout is None):
            raise ConfigurationError(
                f"readout: {self.readout!r} does not go with unit_weights {self.unit_weights!r}; "
                "give both ('contribution' and the readout's name) or neither"
            )
        check_known("reference", self.reference, get_args(Reference))
        check("min_norm", self.min_norm, NOT_NEGATIVE)
        check_seed(self.seed)
        check_text("layer", self.layer)
        self.k = self._counts = of_weights.counts("k", self.k)

    @property
    def state_key(self) -> str:
        """Tell callbacks for different layers or measures apart."""
        return self._generate_state_key(
            layer=self.layer, k=self.k, unit_weights=self.unit_weights, reference=self.reference
        )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be measured before anything is trained."""
        for name, weights in of_weights.find_weights("layer", pl_module, self.layer).items():
            of_weights.check_counts(self._counts, weights.shape[-2], name)
            self._contributions(pl_module, name, weights)

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> of_weights.Measures:
        """Return the inertia of every replica by layer and K, as the weights are now."""
        found: of_weights.Measures = {}
        for name, weights in of_weights.find_weights("layer", pl_module, self.layer).items():
            networks, counted = of_weights.stacked(weights), self._contributions(pl_module, name, weights)
            for k in self._counts:
                measure = f"inertia_k{k}"
                one = partial(self._inertia, k)
                found[name, measure] = self._each(f"{name}/{measure}", one, networks, counted)
        return found

    def _inertia(self, k: int, network: Tensor, unit_weights: Tensor | None) -> Tensor:
        """Return the inertia of one replica."""
        return kmeans_inertia(
            network,
            k,
            unit_weights=unit_weights,
            reference=self.reference,
            min_norm=self.min_norm,
            seed=self.seed,
        )

    def _contributions(self, module: LightningModule, name: str, weights: Tensor) -> Sequence[Tensor | None]:
        """Return what each unit of each replica contributes (H,), or None where units count equally."""
        first = of_weights.stacked(weights)
        if self.readout is None:
            return [None] * len(first)
        readout = of_weights.stacked(of_weights.find_one("readout", module, self.readout))
        if readout.shape[-1] != first.shape[-2] or len(readout) != len(first):
            raise ConfigurationError(
                f"readout: {self.readout!r} of shape {tuple(readout.shape)} does not read the units of "
                f"{name!r}, {tuple(first.shape)}; name one of shape (replicas, outputs, units)"
            )
        return list(unit_contributions(first.double(), readout.double()))
