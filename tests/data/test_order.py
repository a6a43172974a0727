from itertools import chain

import pytest
import torch

from lit_aux.data.loader import BatchOrder, derive_seed


def order(size, batch_size, *, training=True, shuffle=True, **kwargs):
    return BatchOrder(size, batch_size, training=training, shuffle=shuffle, **kwargs)


def batches(order, epoch, cycle=0):
    return [order.batch(epoch, cycle * len(order) + k).tolist() for k in range(len(order))]


@pytest.mark.parametrize(
    ("size", "batch_size", "sizes"),
    [
        (10, 128, [10]),
        (256, 128, [128, 128]),
        (300, 128, [128, 128, 44]),
        (257, 128, [128, 129]),
        (3, 2, [3]),
        (3, 1, [1, 1, 1]),
        (1, 128, [1]),
    ],
)
def test_sizes_of_training_batches(size, batch_size, sizes):
    assert [len(b) for b in batches(order(size, batch_size), 0)] == sizes


def test_evaluation_keeps_order_and_a_last_batch_of_one():
    one = order(5, 2, training=False, shuffle=False)
    assert batches(one, 0) == batches(one, 9) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 100])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_shards(size, world):
    training = [order(size, 4, rank=r, world_size=world) for r in range(world)]
    assert len({len(o) for o in training}) == 1
    seen = [i for o in training for b in batches(o, 3) for i in b]
    assert set(seen) == set(range(size))
    assert len(seen) == -(-size // world) * world
    evaluation = [
        order(size, 4, training=False, shuffle=False, rank=r, world_size=world) for r in range(world)
    ]
    assert sorted(i for o in evaluation for b in batches(o, 3) for i in b) == list(range(size))


def test_every_cycle_is_another_permutation():
    one = order(50, 8)
    passes = [list(chain(*batches(one, epoch, cycle))) for epoch in range(3) for cycle in range(3)]
    assert all(sorted(p) == list(range(50)) for p in passes)
    assert len({tuple(p) for p in passes}) == 9


def test_order_depends_on_seed_epoch_and_cycle_only():
    one, two, other = order(50, 8, seed=1), order(50, 8, seed=1), order(50, 8, seed=2)
    torch.manual_seed(5)
    one.batch(0, 0)
    expected = batches(one, 4, 2)
    torch.manual_seed(6)
    assert batches(two, 4, 2) == expected
    assert batches(other, 4, 2) != expected


def test_derived_seeds():
    seeds = {derive_seed(a, b) for a in range(30) for b in ("x", "y")}
    assert len(seeds) == 60
    assert all(0 <= seed < 2**63 for seed in seeds)
