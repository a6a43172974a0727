"""Alignment of cluster centres with a teacher against loops over every partition and every pair."""

import itertools

import numpy as np
import pytest
import torch

from lit_aux.errors import ConfigurationError
from lit_aux.functional import feature_alignment


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clusters(weights, k):
    """Centres of the best partition of the units' directions, found among all."""
    rows = np.stack([w / np.linalg.norm(w) for w in weights.numpy()])
    best, centres = np.inf, None
    for labels in itertools.product(range(k), repeat=len(rows)):
        if len(set(labels)) == k:
            means = [rows[np.array(labels) == c].mean(0) for c in range(k)]
            inertia = sum(((row - means[c]) ** 2).sum() for row, c in zip(rows, labels, strict=True))
            if inertia < best:
                best, centres = inertia, means
    return centres


def by_hand(weights, teacher, k, similarity):
    """Mean over teacher units of the best match, with numpy's own correlation for Pearson."""
    centres, total = clusters(weights, k), 0.0
    for t in teacher.numpy():
        if similarity == "pearson":
            total += max(np.corrcoef(c, t)[0, 1] for c in centres)
        else:
            total += max(c @ t / np.linalg.norm(c) / np.linalg.norm(t) for c in centres)
    return total / len(teacher)


@pytest.mark.parametrize("similarity", ["cosine", "pearson"])
@pytest.mark.parametrize(("k", "units"), [(1, 3), (2, 3), (3, 2), (3, 1)])
def test_alignment_is_its_definition(k, units, similarity):
    weights, teacher = draw(7, 4, seed=k), 3 * draw(units, 4, seed=10 + units)
    found = feature_alignment(weights, teacher, k, similarity=similarity)
    assert found.item() == pytest.approx(by_hand(weights, teacher, k, similarity), rel=1e-9)
    assert found.shape == ()
    assert found.dtype == torch.float64


def test_a_student_with_the_teachers_directions_is_aligned():
    teacher = torch.linalg.qr(draw(6, 6))[0][:4]
    sizes = torch.rand(40, 1, generator=torch.Generator().manual_seed(0)) + 0.1
    student = teacher.repeat(10, 1) * sizes
    assert feature_alignment(student, teacher, 4).item() == pytest.approx(1, abs=1e-12)
    # The mean of four orthogonal directions has a cosine of 1/2 with each.
    assert feature_alignment(student, teacher, 1).item() == pytest.approx(0.5, abs=1e-12)
    # Half of the teacher's units are the student's: the other half finds nothing.
    assert feature_alignment(student[:2], teacher, 2).item() == pytest.approx(0.5, abs=1e-12)
    assert feature_alignment(-student, teacher, 4).item() < 0.01


def test_zero_units_and_centres_that_cancel_count_for_nothing():
    weights, teacher = draw(5, 3), draw(2, 3, seed=1)
    padded = torch.cat([torch.zeros(2, 3), weights])
    assert torch.equal(feature_alignment(padded, teacher, 2), feature_alignment(weights, teacher, 2))
    opposite = torch.cat([weights[:1], -weights[:1]])
    assert feature_alignment(opposite, teacher, 1).item() == 0


def test_replicas_and_several_k_are_the_single_calls():
    weights, teachers = draw(3, 10, 4).float(), draw(3, 2, 4, seed=1).float()
    found = feature_alignment(weights, teachers, [1, 3], seed=2)
    assert found.shape == (3, 2)
    for r in range(3):
        assert torch.equal(found[r], feature_alignment(weights[r], teachers[r], [1, 3], seed=2))
    shared = feature_alignment(weights, teachers[0], 3)
    assert shared.shape == (3,)
    assert torch.equal(shared[2], feature_alignment(weights[2], teachers[0], 3))


@pytest.mark.parametrize(
    ("teacher", "options", "message"),
    [
        (draw(2, 5), {}, r"teacher: shape \(2, 5\) for weights \(4, 3\)"),
        (draw(2, 2, 3), {}, r"teacher: shape \(2, 2, 3\) for weights"),
        (draw(3), {}, "teacher: torch.float64 of shape"),
        (torch.zeros(2, 3), {}, "teacher: a unit is zero and"),
        (torch.ones(2, 3), {"similarity": "pearson"}, "zero but for its mean"),
        (draw(2, 3), {"similarity": "dot"}, "similarity: 'dot' is unknown"),
        (draw(2, 3), {"k": 5}, "k: 5 clusters of 4 distinct"),
        (draw(2, 3), {"k": -1}, "k: -1 is no number"),
        (draw(2, 3) * torch.inf, {}, "teacher: has NaN"),
    ],
)
def test_bad_arguments_are_refused(teacher, options, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        feature_alignment(draw(4, 3), teacher, **({"k": 2} | options))
    assert "\n" not in str(caught.value)
