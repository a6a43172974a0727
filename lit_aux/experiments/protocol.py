"""The published constants of a teacher-student run (Lippl & Lindsey, arXiv 2310.02396, appendix)."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

Network = Literal["diagonal", "relu"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What one run needs beside its place in the grid.

    Args:
        network: ``"diagonal"`` or ``"relu"``.
        in_features: Input dimension D of the diagonal network, d of the ReLU network.
        hidden: Width of the ReLU network.
        k_aux: Non-zero entries, or units, of the auxiliary teacher.
        n_aux: Rows of the auxiliary task.
        n_test: Rows of the test set.
        init_scale: Diagonal: every weight's start. ReLU: factor on weights drawn from N(0, 2/fan_in).
        readout_scale: Diagonal: every readout weight after pretraining (gamma). ReLU: factor on the readout
            that is drawn anew.
        lr: Step of the phase that is measured; with ``max_steps`` it sets the clock of gradient flow.
        pretrain_lr: The same of pretraining.
        batch_size: Rows of a shuffled batch in that phase, None for all of them. Gradient flow always sees
            all rows; pretraining does in any case.
        max_steps: Most steps of that phase.
        pretrain_max_steps: Most steps of pretraining.
        threshold: Training loss (mean square) below which a phase ends.
        divergence_limit: Loss above which a run starts again with a tenth of its step.
        pretrain_divergence_limit: The same of pretraining.
        dtype: Precision.
    """

    network: Network
    in_features: int
    hidden: int | None = None
    k_aux: int
    n_aux: int = 1024
    n_test: int = 10_000
    init_scale: float = 1e-3
    readout_scale: float = 1e-3
    lr: float
    pretrain_lr: float
    batch_size: int | None = None
    max_steps: int
    pretrain_max_steps: int
    threshold: float
    divergence_limit: float
    pretrain_divergence_limit: float
    dtype: Literal["float32", "float64"] = "float32"

    @property
    def duration(self) -> float:
        """Time that gradient flow has, that of ``max_steps`` published steps."""
        return self.lr * self.max_steps

    @property
    def pretrain_duration(self) -> float:
        """The same of pretraining."""
        return self.pretrain_lr * self.pretrain_max_steps


EPOCHS_RELU = 100_000
BATCH_RELU = 128


def published(experiment: str, setup: str, axes: Mapping[str, Any], in_features: int, k_aux: int) -> Protocol:
    """Return the published constants of one run.

    In ``diagonal-rescaling`` the factor s and the scale of small weights move together: a network that is
    trained from scratch starts at 1e-3 s, and after pretraining (from 1e-3, the same for every s) the weights
    are multiplied by s and the readouts set to 1e-3 s. So (s, scale) runs from (1, 1e-3) to (.001, 1e-6).
    In ``relu-rescaling`` a network that is trained from scratch starts at 1e-3 s in both layers.

    Args:
        experiment: Name of a teacher-student experiment.
        setup: One of its setups.
        axes: The run's place in the grid: ``n_main``, ``rescale``, ...
        in_features: Input dimension.
        k_aux: Non-zero entries, or units, of the auxiliary teacher.
    """
    network, _, grid = experiment.partition("-")
    scale = 1e-3
    if grid == "rescaling" and "rescale" in axes:
        scale = float(f"{scale * axes['rescale']:.12g}")  # 1e-06, not 1.0000000000000002e-06
    init_scale = 1e-3 if setup.startswith("PT+FT") else scale
    if network == "diagonal":
        return Protocol(
            network="diagonal",
            in_features=in_features,
            k_aux=k_aux,
            init_scale=init_scale,
            readout_scale=scale,
            lr=0.1,
            pretrain_lr=0.5,
            max_steps=1_000_000 if grid == "overlap" else 100_000,
            pretrain_max_steps=1_000_000,
            threshold=1e-10,
            divergence_limit=100.0,
            pretrain_divergence_limit=100.0,
        )
    joint, whole = setup == "MTL", grid == "correlation"
    rows = axes["n_main"] + (1024 if joint else 0)
    slow = grid in ("sparsity", "rescaling") and not joint
    return Protocol(
        network="relu",
        in_features=in_features,
        hidden=1000,
        k_aux=k_aux,
        init_scale=init_scale,
        lr=0.1 if slow else 1.0,
        pretrain_lr=0.1,
        batch_size=None if whole else BATCH_RELU,
        max_steps=EPOCHS_RELU * (1 if whole else ceil(rows / BATCH_RELU)),
        pretrain_max_steps=EPOCHS_RELU,
        threshold=1e-10 if whole else 1e-8,
        divergence_limit=100.0 if joint or whole else 1000.0,
        pretrain_divergence_limit=1000.0,
    )
