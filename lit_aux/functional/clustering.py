"""Hidden units by the directions of their input weights: how few there are, and how near to a teacher's."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_aux.errors import ConfigurationError, check_known
from lit_aux.finite import all_finite
from lit_aux.ranges import NOT_NEGATIVE, check, is_whole

Reference = Literal["mean", "origin"]
"""What the scatter around cluster centres is compared with: that around the mean, or around the origin."""
Similarity = Literal["cosine", "pearson"]
"""How directions are compared: as they are, or after removing each one's mean over the inputs."""
Array = NDArray[np.float64]

_LARGEST_SEED = 2**32 - 1
STARTS = 10
"""Random starts of k-means, of which the best counts; a few units, where that is cheap, get more."""


class Units(NamedTuple):
    """The living units of one network: unit vectors (H', d), and how much each counts (H',), mean 1."""

    directions: Array
    weights: Array


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
    check_known("reference", reference, get_args(Reference))
    check("min_norm", min_norm, NOT_NEGATIVE)
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


@torch.no_grad()
def feature_alignment(
    weights: Tensor,
    teacher: Tensor,
    k: int | Sequence[int],
    *,
    similarity: Similarity = "cosine",
    seed: int = 0,
) -> Tensor:
    r"""Compute how well cluster centres of a network's units match a teacher's units.

    The units' input weights are divided by their norms, those of length 0 are dropped, and k-means gives k
    centres c as in :func:`~lit_aux.functional.kmeans_inertia`. The value is
    :math:`\frac1J \sum_j \max_c \mathrm{sim}(c, t_j)` over the J teacher units: 1 where each has a centre in
    exactly its direction (Lippl & Lindsey). A direction and its opposite are different features of a ReLU
    unit, so the sign counts; a centre at the origin (units that cancel) matches everything with 0.

    Args:
        weights: Input weights (H, d) of the student, or (R, H, d) of R students; any real dtype.
        teacher: The teacher's directions (J, d), or (R, J, d), one teacher a student; of any length above 0.
        k: The number of clusters, or several of them.
        similarity: ``"cosine"``, or ``"pearson"``, the correlation over the inputs.
        seed: Of k-means, from 0 to 2^32 - 1.

    Returns:
        float64 between -1 and 1 on the device of ``weights``, of shape (), (R,), (number of k,) or (R, number
        of k).

    Raises:
        ConfigurationError: For bad shapes, values that are not finite, a teacher unit without direction, no
            living unit, a seed out of range, or ``k`` above the number of different directions.

    Example:
        >>> from torch import tensor
        >>> from lit_aux.functional import feature_alignment
        >>> teacher = tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> weights = tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 0.5]])
        >>> round(feature_alignment(weights, teacher, k=2).item(), 6)
        1.0
    """
    check_known("similarity", similarity, get_args(Similarity))
    check_seed(seed)
    numbers, several = counts_of(k)
    students, stacked = replicas_of("weights", weights, 2, "(units, inputs) or (replicas, units, inputs)")
    teachers, _ = replicas_of("teacher", teacher, 2, "(units, inputs) or (replicas, units, inputs)")
    if teachers.shape[2] != students.shape[2] or len(teachers) not in (1, len(students)):
        raise ConfigurationError(
            f"teacher: shape {tuple(np.shape(teacher))} for weights {tuple(np.shape(weights))}; "
            "give directions of as many inputs, one set or one a replica"
        )
    directions = [over_largest(one)[0] for one in teachers.numpy()]
    targets = [_compared(one, similarity, np.linalg.norm(one, axis=1, keepdims=True)) for one in directions]
    if any((one == 0).all(1).any() for one in targets):
        raise ConfigurationError(
            f"teacher: a unit is zero{' but for its mean' if similarity == 'pearson' else ''} and has no "
            "direction; give directions only"
        )
    rows = []
    for r, student in enumerate(students):
        name = f" of replica {r}" if stacked else ""
        units = living_units(student, None, 0.0, name)
        target = targets[r % len(targets)]
        row = []
        for number in numbers:
            found = centres(units, cluster(units, number, seed, name), number)
            # Centres are means of unit vectors: their rounding errors are of the order of 1e-16.
            matches = _compared(found, similarity, 1.0) @ target.T  # an empty cluster is NaN and never best
            row.append(float(np.nanmax(matches, axis=0).mean()))
        rows.append(row)
    return answer(rows, several, stacked, torch.as_tensor(weights).device)


def _compared(vectors: Array, similarity: Similarity, scale: Array | float) -> Array:
    """Give (n, d) vectors length 1, after removing their means for Pearson; rounding errors of zero are 0."""
    if similarity == "pearson":
        vectors = vectors - vectors.mean(1, keepdims=True)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    gone = norms <= 1e-12 * scale
    result: Array = np.where(gone, 0.0, vectors / np.where(gone, 1.0, norms))
    return result


# What both do


def replicas_of(option: str, tensor: Tensor, ndim: int, shape: str) -> tuple[Tensor, bool]:
    """Return a float64 copy on the CPU with a leading replica axis, and whether it had one.

    Raises:
        ConfigurationError: If the number of dimensions is neither ``ndim`` nor one more, or a value is not
            finite.
    """
    tensor = torch.as_tensor(tensor).detach()
    if tensor.ndim not in (ndim, ndim + 1) or tensor.is_complex() or tensor.numel() == 0:
        raise ConfigurationError(
            f"{option}: {tensor.dtype} of shape {tuple(tensor.shape)}; give real {shape}"
        )
    values = tensor.to("cpu", torch.float64)
    if not all_finite(values):
        raise ConfigurationError(f"{option}: has NaN or infinite values; give finite ones")
    return (values, True) if tensor.ndim == ndim + 1 else (values[None], False)


def counts_of(k: int | Sequence[int]) -> tuple[list[int], bool]:
    """Return the numbers of clusters as a list, and whether they came as one.

    Raises:
        ConfigurationError: If one is no integer of at least 1, or there is none.
    """
    several = isinstance(k, Sequence)
    numbers = [count if is_whole(count) else 0 for count in (k if isinstance(k, Sequence) else [k])]
    if not numbers or min(numbers) < 1:
        raise ConfigurationError(f"k: {k!r} is no number of clusters; give integers of at least 1")
    return numbers, several


def check_seed(seed: int) -> None:
    """Raise `ConfigurationError` for a seed that k-means does not take."""
    if not is_whole(seed) or not 0 <= seed <= _LARGEST_SEED:
        raise ConfigurationError(
            f"seed: {seed!r} is no seed of k-means; give an integer from 0 to {_LARGEST_SEED}"
        )


def answer(rows: list[list[float]], several: bool, stacked: bool, device: torch.device) -> Tensor:
    """Make a float64 tensor of one row a replica, one value a k, without the axes that were not asked for."""
    found = torch.tensor(rows, dtype=torch.float64)
    found = found if several else found[:, 0]
    found = found if stacked else found[0]
    return found if device.type == "mps" else found.to(device)  # MPS has no float64


def living_units(weights: Tensor, unit_weights: Tensor | None, min_norm: float, replica: str = "") -> Units:
    """Drop the dead units of one (H, d) network and normalise the others.

    Dead are units at the origin, shorter than ``min_norm``, or of weight 0.

    Raises:
        ConfigurationError: If none is left.
    """
    rows = weights.numpy()
    counts = np.ones(len(rows)) if unit_weights is None else unit_weights.numpy()
    safe, largest = over_largest(rows)
    norms = np.linalg.norm(safe, axis=1)
    with np.errstate(over="ignore"):  # infinite is long enough
        alive = (norms > 0) & (norms * largest[:, 0] >= min_norm) & (counts > 0)
    if not alive.any():
        raise ConfigurationError(
            f"weights: no unit{replica} is alive (norm above 0, at least min_norm={min_norm:g}, and a weight "
            "above 0); nothing can be clustered"
        )
    directions = safe[alive] / norms[alive, None]
    counts = counts[alive] / counts[alive].max()  # their sum could overflow
    return Units(directions, counts / counts.mean())


def over_largest(rows: Array) -> tuple[Array, Array]:
    """Return rows over their largest entries, and those (n, 1): else squares could vanish or overflow."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    return rows / np.where(largest > 0, largest, 1), largest


def cluster(units: Units, k: int, seed: int, replica: str = "") -> NDArray[Any]:
    """Return the cluster (0 to k - 1) of each unit by weighted k-means, the best of several starts.

    Raises:
        ConfigurationError: If there are fewer than ``k`` different directions.
    """
    if k == 1:
        return np.zeros(len(units.directions), dtype=np.int64)
    distinct = len(np.unique(np.round(units.directions, 10), axis=0))
    if k > distinct:
        raise ConfigurationError(
            f"k: {k} clusters of {distinct} distinct living units{replica}; give at most {distinct}"
        )
    # Here and not above: importing lit_aux.functional must not load scikit-learn.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    search = KMeans(k, n_init=max(STARTS, 500 // len(units.directions)), random_state=seed, tol=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found: NDArray[Any] = search.fit(units.directions, sample_weight=units.weights).labels_
    return found


def centres(units: Units, labels: NDArray[Any], k: int) -> Array:
    """Return the weighted mean (k, d) of each cluster; an empty one gets NaN."""
    member = (labels[None] == np.arange(k)[:, None]) * units.weights
    with np.errstate(invalid="ignore"):
        mean: Array = member @ units.directions / member.sum(1, keepdims=True)
    return mean
