from collections import Counter

import pytest
import torch

from lit_aux.data.loader import generator_for
from lit_aux.data.tasks import assign_classes, draw_samples
from lit_aux.errors import ConfigurationError

NAMES = [f"class{i}" for i in range(10)]


def test_counts_take_consecutive_slices_of_one_permutation():
    two = assign_classes({"main": 2, "aux": 8}, NAMES, seed=3)
    three = assign_classes({"main": 2, "b": 3, "c": 4}, NAMES, seed=3)
    assert sorted(two["main"] + two["aux"]) == list(range(10))
    assert three["main"] == two["main"]
    assert three["b"] + three["c"] == two["aux"][:7]


def test_seeds_give_different_classes_and_repeat_themselves():
    draws = [tuple(assign_classes({"main": 2, "aux": 8}, NAMES, seed)["main"]) for seed in range(20)]
    again = [tuple(assign_classes({"main": 2, "aux": 8}, NAMES, seed)["main"]) for seed in range(20)]
    assert draws == again
    assert len(set(draws)) > 10


def test_listed_classes_are_taken_as_they_are():
    result = assign_classes({"aux": 8, "main": ["class8", 3]}, NAMES, seed=0)
    assert list(result) == ["aux", "main"]
    assert result["main"] == [8, 3]
    assert sorted(result["aux"]) == [0, 1, 2, 4, 5, 6, 7, 9]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({}, "at least one task"),
        ({"main": ["clas3", 4]}, "'clas3' is unknown; did you mean 'class3'"),
        ({"main": [3, 10]}, "class 10 is unknown; indices go from 0 to 9"),
        ({"main": [3, -1]}, "class -1 is unknown"),
        ({"main": [3, 4], "aux": [5, "class4"]}, "'class4' is given twice, in 'main' and 'aux'"),
        ({"main": [3, 3]}, "given twice"),
        ({"main": 5, "aux": 6}, "'aux' asks for 6 classes, but of 10 only 5 are left"),
        ({"main": 0}, "has 0 classes"),
        ({"main": []}, "has 0 classes"),
        ({"main": [4]}, "at least 2"),
        ({"ma.in": 2}, "'ma.in' cannot name a task"),
        ({"a/b": 2}, "'a/b' cannot name a task"),
        ({"": 2}, "cannot name a task"),
        ({"main": "class3"}, "a number of classes or a list"),
    ],
)
def test_wrong_classes(classes, message):
    with pytest.raises(ConfigurationError) as error:
        assign_classes(classes, NAMES, seed=0)
    text = str(error.value)
    assert message in text
    assert text.startswith("--data.classes")
    assert "\n" not in text


LABELS = torch.randint(0, 5, (1000,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("balanced", [True, False])
def test_smaller_draws_begin_larger_ones(balanced):
    draws = {n: draw_samples(LABELS, [1, 4], n, generator_for(7), balanced).tolist() for n in (4, 50, None)}
    assert draws[50][:4] == draws[4]
    assert draws[None][:50] == draws[50]
    assert sorted(draws[None]) == [i for i, label in enumerate(LABELS.tolist()) if label in (1, 4)]
    assert draw_samples(LABELS, [1, 4], 50, generator_for(8), balanced).tolist() != draws[50]


def test_balanced_draws_differ_by_one_at_most():
    for n in range(3, 40):
        drawn = draw_samples(LABELS, [0, 2, 3], n, generator_for(n))
        counts = Counter(LABELS[drawn].tolist())
        assert set(counts) == {0, 2, 3}
        assert max(counts.values()) - min(counts.values()) <= 1


def test_balanced_draw_uses_up_a_small_class():
    labels = torch.tensor([0] * 3 + [1] * 20)
    counts = Counter(labels[draw_samples(labels, [0, 1], 15, generator_for(0))].tolist())
    assert counts == {0: 3, 1: 12}


def test_uniform_draws_follow_the_sizes_of_classes():
    labels = torch.tensor([0] * 100 + [1] * 900)
    share = sum(
        (labels[draw_samples(labels, [0, 1], 10, generator_for(seed), False)] == 0).sum().item()
        for seed in range(400)
    )
    assert abs(share / 4000 - 0.1) < 0.02  # four standard errors


def test_drawing_more_than_there_is():
    with pytest.raises(ValueError, match="1001 samples"):
        draw_samples(LABELS, range(5), 1001, generator_for(0))
