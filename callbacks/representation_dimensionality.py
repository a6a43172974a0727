"""Compare the dimensionality of layers before and after a fit."""

import math
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_aux.callbacks import _measurements as measurements
from lit_aux.callbacks._averages import Ran, which_weights
from lit_aux.callbacks._inputs import Inputs, Mask
from lit_aux.callbacks._layers import Look, Spatial, activations, look, refuse_lazy, resolve_layers
from lit_aux.callbacks._loggers import log_picture, log_table
from lit_aux.callbacks._no_trace import never_fatal, snapshot, swapped, told
from lit_aux.callbacks._options import check_choice, check_source, names_of
from lit_aux.callbacks._processes import Brought
from lit_aux.callbacks._start import starts_untrained
from lit_aux.callbacks.probe import collect_probe
from lit_aux.drawing.layers import draw_layers
from lit_aux.drawing.style import save
from lit_aux.errors import ConfigurationError
from lit_aux.functional.dimensionality import participation_ratio, shared_dimensionality
from lit_aux.ranges import POSITIVE, Range, check
from lit_aux.verdicts import UNTRAINED

_CHANGED = "the network does not give what it gave before (something beside weights has changed)"
_NUMBERS = ("layer", "pr_before", "pr_after", "ensd", "pr_ratio", "ensd_ratio")
GROUP_BYTES = 3 << 29
"""Activations (before and after) held at a time; more layers than fit take further passes of the probe."""


@dataclass(eq=False, repr=False)
class RepresentationDimensionality(measurements.Measuring):
    """Measures, layer by layer, how many dimensions a fit uses and how many of them it found there.

    At the start of every fit (``on_train_start``: after a rescale, whatever the order of callbacks) a copy
    of the weights is kept in CPU memory. At the end, and every few epochs, a fixed probe runs through the old
    and the new weights, and the participation ratios (PR) of both and the effective number of dimensions they
    share (ENSD; Giaffar, Buxo & Aoi, AISTATS 2024) are compared: PR falling while ENSD stays close to it is
    the signature of nested feature selection (Lippl & Lindsey). See
    :func:`~lit_aux.callbacks.verdict` for the verdicts.

    Where a fit starts from random weights there were no features to be reused, and rows have no verdict. A
    module that knows says so by an attribute ``starts_untrained``; else it shows in the weights (gains and
    biases that are all the same, no batch counted, the bounds of torch's draws).

    Logged per layer: ``{layer}/pr_before``, ``/pr_after``, ``/ensd``, ``/pr_ratio`` and ``/ensd_ratio``,
    after the module's ``log_prefix`` if it has one. The copy is part of checkpoints, so that a resumed run
    compares with its true beginning. W&B gets the table of layers and the picture, TensorBoard the
    picture. Training is bit for bit what it is without the callback. Every process
    runs the whole probe. Weights must not be sharded.

    Attributes:
        results: One :class:`LayerDimensionality` per phase and layer, as of the end of the latest fit of each
            phase; a fit that was skipped leaves none.

    Args:
        layers: Names or globs over ``named_modules``; by default stem, stages, pooled features and readout of
            networks whose parts can be recognised, else the children with parameters.
        num_samples: Inputs to take from a loader; all of a smaller one.
        probe: The inputs themselves, a loader, or a function of the Trainer that returns inputs. By default
            the validation set's first inputs, or training inputs drawn with a fixed seed if there is none.
        to_input: Finds in a batch of a loader what the network takes: one argument, or a tuple or dictionary
            of several. By default it is called as the module's own ``validation_step`` (of training data, its
            ``training_step``) calls it, or with all inputs of ``{task: (x, y)}``.
        every_n_epochs: Compare (and log) every so many epochs of the fit too.
        spatial: ``"flatten"`` counts each position of a convolutional map (n, c, h, w) or each token
            (n, tokens, width) as features of its own, padding as 0; ``"mean"`` averages over positions or
            tokens first, padding left out.
        mask: Which positions of padded inputs are real. By default ``attention_mask``,
            ``..._key_padding_mask``, ``lengths`` and their like are found in the batch and the network's
            arguments; a name says which to take; a function of the batch returns (n, positions), true where
            an input is real; False takes none.
        pairing: ``"feature"`` or ``"sample"``, see :func:`lit_aux.functional.effective_shared_dimensions`.
        center: Remove each feature's mean over the probe.
        unbiased: Use the estimators without finite-sample bias; needs at least 4 inputs.
        batchnorm: ``"eval"`` uses running statistics; ``"train"``, as published, those of each batch of the
            probe, leaving the running ones untouched.
        batch_size: Inputs per forward pass, at most.
        nested_below: PR ratio below which a layer is called nested.
        replaced_below: ENSD ratio below which a layer is called replaced.
        picture: Whether to write ``dimensionality.png`` (after the phase's name) to the log directory.

    Raises:
        ConfigurationError: For bad options; before training starts for unknown layers, layers that do not
            run, or a probe that is too small.
    """

    layers: list[str] | None = None
    _: KW_ONLY
    num_samples: int = 1000
    probe: Any = None
    to_input: Callable[[Any], Any] | None = None
    spatial: Spatial = "flatten"
    mask: Mask = None
    pairing: Literal["feature", "sample"] = "feature"
    center: bool = True
    unbiased: bool = False
    batchnorm: Literal["eval", "train"] = "eval"
    batch_size: int = 250
    nested_below: float = 0.8
    replaced_below: float = 0.5
    picture: bool = True

    results = Brought[list[measurements.LayerDimensionality]]()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._least = 4 if self.unbiased else 2
        check("num_samples", self.num_samples, Range(least=self._least, whole=True))
        check("batch_size", self.batch_size, Range(least=2, whole=True))
        check("nested_below", self.nested_below, POSITIVE)
        check("replaced_below", self.replaced_below, POSITIVE)
        check_source("probe", self.probe, "loader, function of the Trainer, tensor or other inputs")
        check_choice("spatial", self.spatial, "flatten", "mean")
        check_choice("pairing", self.pairing, "feature", "sample")
        check_choice("batchnorm", self.batchnorm, "eval", "train")
        self.layers = names_of("layers", self.layers, "layer")

    def _forget(self) -> None:
        super()._forget()
        self._before: dict[str, Tensor] | None = None
        self._pieces: list[Inputs] = []
        self._looks: dict[str, Look] = {}
        self._weights = ""
        self._untrained = False
        self._unmasked: set[str] = set()

    def state_dict(self) -> dict[str, Any]:
        """Return the results so far and the weights at the start of this fit."""
        return {
            "results": [asdict(row) for row in self.results],
            "before": self._before,
            "epochs": self._epochs,
            "untrained": self._untrained,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.results = [measurements.LayerDimensionality(**row) for row in state_dict["results"]]
        self._before, self._epochs = state_dict["before"], state_dict["epochs"]
        self._untrained = state_dict.get("untrained", self._untrained)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say so if the run that is resumed did not keep its first weights."""
        if self.state_key not in checkpoint.get("callbacks", {}):
            self._untrained = False  # what it will begin with is in the checkpoint
            rank_zero_warn(
                "The checkpoint lacks the weights before training: dimensionality is compared with its own."
            )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start afresh in every fit; a resume restores the state after this."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._untrained = starts_untrained(pl_module)  # now, before anything is rescaled

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse unknown layers before anything is loaded."""
        resolve_layers(pl_module, self.layers)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights, collect the probe and see that every layer runs."""
        refuse_lazy(pl_module, self.user)
        options = self.num_samples, self.probe, self.to_input, self.mask
        self._pieces = collect_probe(trainer, pl_module, *options)
        size = sum(piece.size for piece in self._pieces)
        if size < self._least:
            own = self.probe is not None
            raise ConfigurationError(
                f"probe: it has {size} inputs{'' if own else ' (of the validation set)'}; "
                f"{'unbiased=True ' if self.unbiased else ''}needs at least {self._least}"
                f"{'' if own else ', more of which come with --data.n_val'}"
            )
        layers, ran = resolve_layers(pl_module, self.layers), Ran(pl_module)
        with ran.watching(), swapped(pl_module, self._before):
            self._looks = look(trainer, pl_module, self._pieces, layers, chosen=self.layers is not None)
        silent = [layer for layer in layers if layer not in self._looks]
        if silent and (self.layers is not None or not self._looks):
            raise ConfigurationError(f"layers: {silent[0]!r} does not run in forward(x); choose another")
        self._weights = which_weights(trainer, self, ran)
        if self._before is None:
            self._before = snapshot(pl_module)

    def try_to_observe(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare now; what goes wrong is a warning."""
        with never_fatal(f"{self.user} after epoch {self._epochs}"):
            self.compare(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, keep the results and draw them."""
        rows = self.compare(trainer, pl_module)
        phase = measurements.phase_of(pl_module)
        self.results = [row for row in self.results if row.phase != phase] + rows
        self._tell(rows)
        folder = measurements.folder_of(trainer)
        if folder is None:
            return
        with never_fatal("Logging the table of layers"):
            shown = [
                [*(getattr(row, name) for name in _NUMBERS), row.shown_verdict, row.note] for row in rows
            ]
            log_table(trainer, pl_module, "layers", [*_NUMBERS, "verdict", "note"], shown)
        if self.picture:
            name = f"{phase}_dimensionality.png" if phase else "dimensionality.png"
            with never_fatal("Drawing dimensionality"):
                path = save(draw_layers(rows), folder / name.replace("/", "_"))
                log_picture(trainer, pl_module, "dimensionality", path)

    def _tell(self, rows: list[measurements.LayerDimensionality]) -> None:
        """Warn of what the table alone would not say loudly enough."""
        if self._weights:
            rank_zero_warn(f"{self.user}: {self._weights}")
        for layer in sorted(self._unmasked):
            rank_zero_warn(
                f"{self.user}: the mask does not fit the positions of {layer!r}, so that padding is not left "
                "out there; give mask= for it, or choose another layer"
            )
        for row in rows:
            note = row.note.removesuffix(UNTRAINED).removesuffix("; ")
            if note not in ("", self._weights):
                rank_zero_warn(f"{self.user}: {row.layer}: {note}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if nothing was measured, and free the memory."""
        if not self._looks:
            rank_zero_warn(f"{self.user} measured nothing: the fit trained no step.")
        self._forget()

    def compare(self, trainer: Trainer, pl_module: LightningModule) -> list[measurements.LayerDimensionality]:
        """Measure all layers now, inside a fit; log and return one row per layer."""
        rows = [row for group in self._groups() for row in self._compare_group(trainer, pl_module, group)]
        measures = ("pr_before", "pr_after", "ensd", "pr_ratio", "ensd_ratio")
        values = {f"{row.layer}/{key}": float(getattr(row, key)) for row in rows for key in measures}
        measurements.log_scalars(trainer, pl_module, values)
        return rows

    def _groups(self) -> Iterator[list[str]]:
        """Cut the layers into groups whose activations fit into memory together, or of one layer."""
        n = sum(piece.size for piece in self._pieces)
        group: list[str] = []
        used = 0
        for layer, seen in self._looks.items():
            size = 2 * n * seen.size
            if group and used + size > GROUP_BYTES:
                yield group
                group, used = [], 0
            group.append(layer)
            used += size
        if group:
            yield group

    def _compare_group(
        self, trainer: Trainer, module: LightningModule, layers: list[str]
    ) -> Iterator[measurements.LayerDimensionality]:
        """Run the probe through both sets of weights and compare some layers; never raise."""
        with swapped(module, self._before):
            old, old_wrong = self._run(trainer, module, layers)
            changed = self._changed(trainer, module, layers) if old else []
        new, new_wrong = self._run(trainer, module, layers)
        for layer in layers:
            if layer in changed:
                old.pop(layer, None)
                old_wrong[layer] = _CHANGED
            why = {"now": new_wrong.get(layer), "with the weights before": old_wrong.get(layer)}
            wrong = [f"{reason}, {when}" for when, reason in why.items() if reason]
            note = wrong[0] if wrong else self._weights
            phase = measurements.phase_of(module)
            try:
                yield self._row(phase, layer, old.pop(layer, None), new.pop(layer, None), note)
            except Exception as error:
                yield self._row(phase, layer, None, None, told(error))

    def _row(
        self, phase: str, layer: str, before: Tensor | None, after: Tensor | None, note: str
    ) -> measurements.LayerDimensionality:
        """Return one layer's row, of its activations (samples x features) where it has any."""
        notes = [note] if note else []
        x, y = (None if t is None or not bool(t.isfinite().all()) else t for t in (before, after))
        measures = math.nan, math.nan, math.nan
        if any(t is not None and found is None for t, found in ((before, x), (after, y))):
            notes.append("activations are not finite")
        elif x is not None and y is not None and (x.shape[1] == y.shape[1] or self.pairing == "sample"):
            how: dict[str, Any] = {"center": self.center, "unbiased": self.unbiased}
            pr_x, pr_y, ensd = map(float, shared_dimensionality(x, y, pairing=self.pairing, **how))
            measures = pr_x, pr_y, ensd
        else:
            measures = self._pr(x), self._pr(y), math.nan
            if x is not None and y is not None:
                notes.append(f"the layer had {x.shape[1]} features before and has {y.shape[1]} now")
        return measurements.LayerDimensionality.compare(
            phase,
            layer,
            *measures,
            nested_below=self.nested_below,
            replaced_below=self.replaced_below,
            note="; ".join(notes),
            untrained=self._untrained,
        )

    def _pr(self, x: Tensor | None) -> float:
        if x is None:
            return math.nan
        return float(participation_ratio(x, center=self.center, unbiased=self.unbiased))

    def _run(
        self, trainer: Trainer, module: LightningModule, layers: list[str]
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the activations, and for layers without any, why."""
        try:
            return activations(
                trainer,
                module,
                self._pieces,
                layers,
                batch_size=self.batch_size,
                spatial=self.spatial,
                batch_statistics=self.batchnorm == "train",
                unmasked=self._unmasked.add,
            )
        except Exception as error:  # of a stranger's code; the fit is worth more than this table
            return {}, dict.fromkeys(layers, told(error))

    def _changed(self, trainer: Trainer, module: LightningModule, layers: list[str]) -> list[str]:
        """Return the layers that no longer give, with the weights before, what they gave then."""
        try:
            found = look(trainer, module, self._pieces, layers)
        except Exception:  # of one layer that is another now
            return layers
        return [layer for layer in layers if not self._looks[layer].same(found.get(layer))]
