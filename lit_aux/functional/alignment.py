"""How close the directions that a network has learned are to a teacher's."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError, check_known
from lit_aux.functional._kmeans import (
    Array,
    answer,
    centres,
    check_seed,
    cluster,
    counts_of,
    living_units,
    over_largest,
    replicas_of,
)

Similarity = Literal["cosine", "pearson"]
"""How directions are compared: as they are, or after removing each one's mean over the inputs."""


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
    check_similarity(similarity)
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


def check_similarity(similarity: str) -> None:
    """Raise `ConfigurationError` for an unknown similarity."""
    check_known("similarity", similarity, get_args(Similarity))


def _compared(vectors: Array, similarity: Similarity, scale: Array | float) -> Array:
    """Give (n, d) vectors length 1, after removing their means for Pearson; rounding errors of zero are 0."""
    if similarity == "pearson":
        vectors = vectors - vectors.mean(1, keepdims=True)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    gone = norms <= 1e-12 * scale
    result: Array = np.where(gone, 0.0, vectors / np.where(gone, 1.0, norms))
    return result
