import itertools

import pytest
import torch

from lit_aux.data.loader import InMemoryLoader
from lit_aux.data.multi_task_loader import MultiTaskLoader
from lit_aux.errors import ConfigurationError


def task(n, batch_size=4, *, training=True, first=0, **kwargs):
    """Images whose only pixel, like their label, is the sample's number (plus ``first``)."""
    numbers = torch.arange(first, first + n)
    images = numbers.to(torch.uint8).view(n, 1, 1, 1)
    return InMemoryLoader(images, numbers, batch_size=batch_size, training=training, **kwargs)


def read(loader):
    return [{name: y.tolist() for name, (_, y) in batch.items()} for batch in loader]


def test_images_and_labels_belong_together():
    for x, y in task(30):
        assert x.dtype == torch.float32
        assert torch.equal(x.flatten().long(), y)


def test_interleaved_epoch():
    loader = MultiTaskLoader({"main": task(6), "aux": task(33, first=100)})
    steps = read(loader)
    assert len(steps) == len(loader) == 8  # 7 batches of 4 and one of 5
    assert all(set(step) == {"main", "aux"} for step in steps)
    assert sorted(itertools.chain(*(s["aux"] for s in steps))) == list(range(100, 133))
    cycles = [steps[2 * k]["main"] + steps[2 * k + 1]["main"] for k in range(4)]
    assert all(sorted(cycle) == list(range(6)) for cycle in cycles)
    assert len({tuple(cycle) for cycle in cycles}) > 1


def test_sequential_epoch():
    loader = MultiTaskLoader({"main": task(6), "aux": task(10, first=100)}, "sequential")
    steps = read(loader)
    assert [list(step) for step in steps] == [["main"]] * 2 + [["aux"]] * 3
    assert len(loader) == 5
    assert sorted(steps[0]["main"] + steps[1]["main"]) == list(range(6))
    assert sorted(itertools.chain(*(s["aux"] for s in steps[2:]))) == list(range(100, 110))


def test_evaluation_ends_when_each_task_does():
    loader = MultiTaskLoader({"main": task(3, training=False), "aux": task(9, training=False)}, "sequential")
    assert read(loader) == [
        {"main": [0, 1, 2], "aux": [0, 1, 2, 3]},
        {"aux": [4, 5, 6, 7]},
        {"aux": [8]},
    ]


def test_a_process_without_samples_gets_one_empty_batch():
    ranks = [MultiTaskLoader({"main": task(1, training=False, rank=r, world_size=2)}) for r in (0, 1)]
    assert [read(rank) for rank in ranks] == [[{"main": [0]}], [{}]]
    assert [len(rank) for rank in ranks] == [1, 1]


def test_passes_differ_and_set_epoch_repeats_them():
    loader = MultiTaskLoader({"main": task(20)})
    first, second = read(loader), read(loader)
    assert first != second
    assert loader.epoch == 1
    loader.sampler.set_epoch(0)
    assert read(loader) == first
    assert read(loader) == second
    loader.sampler.set_epoch(0)
    next(iter(loader))  # a pass that was broken off counts as one
    assert read(loader) == second


def test_the_epoch_may_be_set_after_the_iterator_was_made():
    loader, other = MultiTaskLoader({"main": task(20)}), MultiTaskLoader({"main": task(20)})
    iterator = iter(loader)
    loader.set_epoch(5)
    other.set_epoch(5)
    assert [b["main"][1].tolist() for b in iterator] == [b["main"] for b in read(other)]


def test_first_epoch_shifts_the_order():
    early, late = MultiTaskLoader({"main": task(20)}), MultiTaskLoader({"main": task(20)}, first_epoch=7)
    early.set_epoch(2)
    late.set_epoch(9)
    assert read(early) == read(late)


@pytest.mark.parametrize("order", ["interleaved", "sequential"])
@pytest.mark.parametrize("position", [0, 1, 4, 6])
def test_resumes_in_the_middle_of_an_epoch(order, position):
    def make():
        return MultiTaskLoader({"main": task(6, seed=3), "aux": task(22, seed=3)}, order)

    whole = make()
    whole.set_epoch(2)
    iterator = iter(whole)
    for _ in range(position):
        next(iterator)
    state = whole.state_dict()
    rest = [{k: y.tolist() for k, (_, y) in b.items()} for b in iterator]
    resumed = make()
    resumed.load_state_dict(state)
    resumed.set_epoch(2)
    assert read(resumed) == rest
    assert len(rest) == len(whole) - position
    resumed = make()  # what was saved at the end of an epoch goes on with the next one
    resumed.load_state_dict(state)
    resumed.set_epoch(3)
    whole.set_epoch(3)
    assert read(resumed) == read(whole)


def test_state_of_another_length():
    loader = MultiTaskLoader({"main": task(20)})
    next(iter(loader))
    with pytest.raises(ConfigurationError, match="after batch 1 of 5, but an epoch now has 10"):
        MultiTaskLoader({"main": task(20, 2)}).load_state_dict(loader.state_dict())


def test_wrong_order_and_no_tasks():
    with pytest.raises(ConfigurationError, match="'interleave' is unknown; did you mean 'interleaved'"):
        MultiTaskLoader({"main": task(20)}, "interleave")
    with pytest.raises(ConfigurationError, match="at least one task"):
        MultiTaskLoader({})


@pytest.mark.parametrize(("training", "num_workers"), [(True, 0), (False, 0), (False, 1)])
def test_undivided_is_what_one_process_serves(training, num_workers):
    """Shares of processes with parts of a training batch, or whole batches of evaluation, each."""
    one, third = (
        MultiTaskLoader(
            {
                "main": task(
                    7, 6 // world if training else 3, training=training, world_size=world, rank=rank
                ),
                "aux": task(
                    22,
                    6 // world if training else 3,
                    training=training,
                    first=100,
                    world_size=world,
                    rank=rank,
                ),
            },
            num_workers=num_workers,
        )
        for world, rank in ((1, 0), (3, 2))
    )
    before = third.state_dict()
    whole = third.undivided()
    assert read(whole) == read(one)
    assert third.state_dict() == before
    assert len(third) < len(one) or training
