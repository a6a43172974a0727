"""How few directions the input weights of hidden units lie in."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError, check_known
from lit_aux.functional._kmeans import (
    Array,
    Units,
    answer,
    centres,
    check_seed,
    cluster,
    counts_of,
    living_units,
    replicas_of,
)
from lit_aux.ranges import NOT_NEGATIVE, check

Reference = Literal["mean", "origin"]
"""What the scatter around cluster centres is compared with: that around the mean, or around the origin."""


@torch.no_grad()
def kmeans_inertia(
    weights: Tensor,
    k: int | Sequence[int],
    *,
    unit_weights: Tensor | None = None,
    reference: Reference = "mean",
    min_norm: float = 0.0,
    seed: int = 0,
) -> Tensor:
    r"""Compute the share of the variance of units' directions that k clusters leave unexplained.

    Each unit's input weights are divided by their norm (:math:`u_h`), dead units are dropped, and the rest is
    clustered by k-means with centres :math:`c` (Lippl & Lindsey, "Inductive biases of multi-task learning and
    finetuning: multiple regimes of feature reuse", for ReLU networks):

    .. math:: \sum_h a_h \|u_h - c_{k(h)}\|^2 \,/\, \sum_h a_h \|u_h - \bar u\|^2

    with :math:`\bar u` the mean weighted by the same :math:`a_h`. Near 0, the units lie in k directions: the
    network has learned sparse features. Near 1, the clusters explain nothing. For k = 1 the value is
    1 whatever the weights are; ``reference="origin"`` divides by :math:`\sum_h a_h \|u_h\|^2` instead, which
    says for k = 1 how far the units are from one common direction.

    k-means is scikit-learn's, the best of ten starts or more, in float64 on the CPU. Equal arguments give
    equal values, and global random states are not touched.

    Args:
        weights: Input weights (H, d) of H units, or (R, H, d) of R networks; any real dtype.
        k: The number of clusters, or several of them.
        unit_weights: How much each unit counts, (H,) or (R, H), at least 0; 1 by default. The useful
            alternative is a unit's contribution, the norm of its output weights times that of its input
            weights. Units of weight 0 are dropped.
        reference: ``"mean"`` or ``"origin"``, see above.
        min_norm: Units whose input weights are shorter than this are dropped; those of length 0 always are.
        seed: Of k-means, from 0 to 2^32 - 1.

    Returns:
        float64 on the device of ``weights``, of shape (), (R,), (number of k,) or (R, number of k). NaN
        where all units point the same way and ``reference`` is the mean: there is no variance to explain.

    Raises:
        ConfigurationError: For bad shapes, values that are not finite, negative ``unit_weights``, no living
            unit, a seed out of range, or ``k`` above the number of different directions.

    Example:
        >>> from torch import tensor
        >>> from lit_aux.functional import kmeans_inertia
        >>> weights = tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])  # two directions
        >>> round(kmeans_inertia(weights, k=2).item(), 6)
        0.0
    """
    check_reference(reference)
    check_min_norm(min_norm)
    check_seed(seed)
    numbers, several = counts_of(k)
    networks, stacked = replicas_of("weights", weights, 2, "(units, inputs) or (replicas, units, inputs)")
    counted = _unit_weights(unit_weights, networks)
    rows = []
    for r, network in enumerate(networks):
        name = f" of replica {r}" if stacked else ""
        units = living_units(network, None if counted is None else counted[r], min_norm, name)
        rows.append([_inertia(units, number, reference, seed, name) for number in numbers])
    return answer(rows, several, stacked, torch.as_tensor(weights).device)


def check_reference(reference: str) -> None:
    """Raise `ConfigurationError` for an unknown reference."""
    check_known("reference", reference, get_args(Reference))


def check_min_norm(min_norm: float) -> None:
    """Raise `ConfigurationError` for a norm that is negative or not finite."""
    check("min_norm", min_norm, NOT_NEGATIVE)


def _unit_weights(unit_weights: Tensor | None, networks: Tensor) -> Tensor | None:
    """Return the weights of units as (R, H)."""
    if unit_weights is None:
        return None
    found, _ = replicas_of("unit_weights", unit_weights, 1, "(units,) or (replicas, units)")
    if found.shape[1] != networks.shape[1] or len(found) not in (1, len(networks)):
        raise ConfigurationError(
            f"unit_weights: shape {tuple(found.shape)} for {len(networks)} replicas of {networks.shape[1]} "
            "units; give one weight a unit"
        )
    if bool((found < 0).any()):
        raise ConfigurationError(f"unit_weights: {found.min():g} is negative; give weights of at least 0")
    return found.expand(len(networks), -1)


def _inertia(units: Units, k: int, reference: Reference, seed: int, replica: str) -> float:
    """Compute the ratio for one network and one k."""
    labels = cluster(units, k, seed, replica)
    total = _scatter(units, centres(units, np.zeros_like(labels), 1)[0])
    # What rounding leaves of units that point the same way is no variance.
    if reference == "mean" and total <= 1e-24 * len(labels):
        return math.nan
    if k == 1 and reference == "mean":
        return 1.0
    whole = total if reference == "mean" else _scatter(units, np.zeros(1))
    return _scatter(units, centres(units, labels, k)[labels]) / whole


def _scatter(units: Units, around: Array) -> float:
    """Sum the weighted squared distances of units from points."""
    return float((units.weights * ((units.directions - around) ** 2).sum(1)).sum())
