"""Metrics over batches and processes against the functions on all samples at once."""

import copy
import pickle
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn

from lit_aux.errors import ConfigurationError
from lit_aux.functional import effective_shared_dimensions, participation_ratio
from lit_aux.metrics import EffectiveSharedDimensions, ParticipationRatio

N, D = 41, 12
SHARDS = [[(0, 17), (17, 20), (20, 41)], []]  # the second process sees nothing
UNEVEN = [[(0, 9), (9, 33)], [(33, 41)]]


def activations(n=N, d=D, mean=1000.0):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.linspace(0.2, 3, d)
    drift = torch.linspace(-2, 2, n, dtype=torch.float64)[:, None]  # every batch has another mean
    y = x.flip(1) * 0.5 + torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x + drift + mean, y - 2 * drift + mean / 2


def cases():
    """Every metric in every mode: a name, a constructor and the value of one call on everything."""
    for center, unbiased, buffered in [
        (True, False, False),
        (False, False, False),
        (True, False, True),
        (True, True, True),
    ]:
        state = {"num_samples": N} if buffered else {}
        options = {"center": center, "unbiased": unbiased}
        yield ParticipationRatio, {**options, **state}, lambda x, y, o=options: participation_ratio(x, **o)
        for pairing in ("feature", "sample"):
            paired = {**options, "pairing": pairing}
            expected = lambda x, y, o=paired: effective_shared_dimensions(x, y, **o)  # noqa: E731
            yield EffectiveSharedDimensions, {**paired, **state}, expected


CASES = list(cases())
IDS = [f"{kind.__name__}-{'-'.join(map(str, options.values()))}" for kind, options, _ in CASES]


def feed(metric, x, y, start, stop):
    """Hand one batch to the metric, with ids if it wants them."""
    inputs = (x, y) if isinstance(metric, EffectiveSharedDimensions) else (x,)
    ids = torch.arange(start, stop) if metric.num_samples else None
    return metric.update(*(z[start:stop] for z in inputs), ids=ids)


@pytest.mark.parametrize(("kind", "options", "expected"), CASES, ids=IDS)
def test_batches_add_up_to_the_whole(kind, options, expected):
    x, y = activations()
    metric = kind(**options)
    for _ in range(2):
        for start, stop in [(0, 1), (1, 17), (17, 17), (17, N)]:
            feed(metric, x, y, start, stop)
        value = metric.compute()
        assert value.dtype == torch.float64
        assert value.item() == pytest.approx(expected(x, y).item(), rel=1e-9)
        metric.reset()


@pytest.mark.parametrize(("kind", "options", "expected"), CASES, ids=IDS)
def test_forward_returns_the_batch_and_accumulates(kind, options, expected):
    x, y = activations()
    metric = kind(**options)
    for start, stop in [(0, 9), (9, 30), (30, N)]:
        inputs = (x, y) if kind is EffectiveSharedDimensions else (x,)
        ids = {"ids": torch.arange(start, stop)} if metric.num_samples else {}
        batch = metric(*(z[start:stop] for z in inputs), **ids)
        assert batch.item() == pytest.approx(expected(x[start:stop], y[start:stop]).item(), rel=1e-8)
    assert metric.compute().item() == pytest.approx(expected(x, y).item(), rel=1e-9)


def worker(rank, address, results):
    """Compute every case over both ways of sharing the samples out."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    x, y = activations()
    values = []
    for shards in (SHARDS, UNEVEN):
        for kind, options, _ in CASES:
            metric = kind(**options)
            for start, stop in shards[rank]:
                feed(metric, x, y, start, stop)
            values.append(metric.compute().item())
            if shards is SHARDS:  # synchronising must leave each process with its own samples
                feed(metric, x, y, 0, 8 if rank == 0 else 5)
            elif metric.num_samples:
                feed(metric, x, y, 30, N)  # both processes see these again, as padding samplers do
            values.append(metric.compute().item())
    empty = ParticipationRatio()
    values.append(empty.compute().item())
    torch.save(values, f"{results}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def distributed(tmp_path_factory):
    """Values of both processes, computed by one pair of them."""
    folder = tmp_path_factory.mktemp("gloo")
    torch.multiprocessing.spawn(worker, (f"file://{folder}/store", str(folder)), nprocs=2)
    values = [torch.load(folder / f"{rank}.pt") for rank in range(2)]
    return values


@pytest.mark.parametrize("layout", [0, 1], ids=["empty-rank", "uneven"])
@pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)
def test_two_processes_give_the_value_of_one(distributed, case, layout):
    _, options, expected = CASES[case]
    x, y = activations()
    at = 2 * (layout * len(CASES) + case)
    again = expected(x, y).item()
    if layout == 0 and "num_samples" not in options:  # the moments count what is fed again
        index = torch.cat((torch.arange(N), torch.arange(8), torch.arange(5)))
        again = expected(x[index], y[index]).item()
    for values in distributed:
        assert values[at] == pytest.approx(expected(x, y).item(), rel=1e-9)
        assert values[at + 1] == pytest.approx(again, rel=1e-9)


def test_processes_that_all_saw_nothing_agree_on_nan(distributed):
    assert all(values[-1] != values[-1] for values in distributed)


@pytest.mark.parametrize("buffered", [False, True])
def test_states_stay_float64_in_an_owner_of_another_dtype(buffered):
    x, y = activations()
    owner = nn.Module()
    owner.metric = EffectiveSharedDimensions(D, N if buffered else None)
    feed(owner.metric, x, y, 0, 20)
    owner.to(torch.bfloat16)
    owner.half()
    owner.metric.set_dtype(torch.float16)
    feed(owner.metric, x, y, 20, N)
    assert owner.metric.compute().item() == pytest.approx(effective_shared_dimensions(x, y).item(), rel=1e-9)


def test_states_follow_the_device():
    metric = ParticipationRatio(D).to("meta")
    assert metric.moments.device.type == "meta"
    assert metric.moments.dtype == torch.float64
    assert metric.device.type == "meta"


def test_different_networks_with_known_or_unknown_sizes():
    x, y = activations()
    expected = effective_shared_dimensions(x, y[:, :5], pairing="sample").item()
    for sizes in (None, (D, 5)):
        metric = EffectiveSharedDimensions(sizes, pairing="sample")
        metric.update(x[:20], y[:20, :5])
        metric.update(x[20:], y[20:, :5])
        assert metric.compute().item() == pytest.approx(expected, rel=1e-9)


def test_wide_layers_low_precision_and_unseen_samples():
    x = activations(10, 300)[0].float().reshape(10, 3, 10, 10)
    metric = ParticipationRatio(num_samples=25, unbiased=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for ids in torch.randperm(10, generator=torch.Generator().manual_seed(0)).split(4):
            metric.update(x[ids], ids + 7)
        assert metric.compute().item() == pytest.approx(
            participation_ratio(x, unbiased=True).item(), rel=1e-9
        )


@pytest.mark.parametrize("buffered", [False, True])
def test_merging_copying_and_pickling(buffered):
    x, y = activations()
    options = {"num_samples": N} if buffered else {}
    one, two = EffectiveSharedDimensions(D, **options), EffectiveSharedDimensions(D, **options)
    feed(one, x, y, 0, 15)
    feed(two, x, y, 15, N)
    one.merge_state(pickle.loads(pickle.dumps(copy.deepcopy(two))))
    one.merge_state(EffectiveSharedDimensions(**options))
    assert one.compute().item() == pytest.approx(effective_shared_dimensions(x, y).item(), rel=1e-9)
    with pytest.raises(ConfigurationError, match="num_features: None"):
        EffectiveSharedDimensions(**options).merge_state(two)


@pytest.mark.parametrize(("unbiased", "few"), [(False, 1), (True, 3)])
def test_too_few_samples_are_nan_with_a_warning(unbiased, few):
    metric = ParticipationRatio(num_samples=5, unbiased=unbiased)
    metric.update(activations(few)[0], torch.arange(few))
    with pytest.warns(UserWarning, match="too few"):
        assert metric.compute().isnan()


def test_errors_name_the_option():
    x, y = activations()
    with pytest.raises(ConfigurationError, match="unbiased: True needs every sample"):
        ParticipationRatio(unbiased=True)
    with pytest.raises(ConfigurationError, match="did you mean 'feature'"):
        EffectiveSharedDimensions(pairing="features")
    with pytest.raises(ConfigurationError, match="pairing: 'feature' needs the same"):
        EffectiveSharedDimensions().update(x, y[:, :5])
    with pytest.raises(ConfigurationError, match="num_samples: None"):
        ParticipationRatio(100_000)
    with pytest.raises(ConfigurationError, match="num_samples: 0"):
        ParticipationRatio(num_samples=0)
    with pytest.raises(ConfigurationError, match="needs one id for each"):
        ParticipationRatio(num_samples=N).update(x)
    with pytest.raises(ConfigurationError, match=r"must lie in 0\.\.9"):
        ParticipationRatio(num_samples=10).update(x, torch.arange(N))
    with pytest.raises(ConfigurationError, match="y: 5 samples, but x has 41"):
        EffectiveSharedDimensions().update(x, y[:5])
    metric = ParticipationRatio()
    metric.update(x)
    with pytest.raises(ConfigurationError, match="num_features"):
        metric.update(x[:, :5])
    with pytest.raises(ConfigurationError, match="NaN or infinite"):
        metric.update(x * float("nan"))
