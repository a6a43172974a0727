"""Batches in which every class of a task is equally likely."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from torch import Tensor, nn
from torch.utils.data import WeightedRandomSampler
from toys import toy_trainer

from lit_aux.data import ArraysDataModule, DiabetesDataModule, DigitsDataModule
from lit_aux.data.loader import BatchOrder, InMemoryLoader, draw_balanced
from lit_aux.errors import ConfigurationError
from lit_aux.modules import SingleTaskModule
from lit_aux.phases import Phase
from lit_aux.tasks import Task

LABELS = torch.tensor([0] * 70 + [1] * 20 + [2] * 7 + [-100] * 3)


def order(**options: Any) -> BatchOrder:
    return BatchOrder(len(LABELS), 16, training=True, seed=3, classes=LABELS, **options)


def test_every_class_and_every_sample_of_it_is_as_likely_as_torchs_weighted_sampler_draws_it() -> None:
    count = 60_000
    ours = draw_balanced(LABELS, count, torch.Generator().manual_seed(0))
    weights = [0.0 if label == -100 else 1.0 / int((label == LABELS).sum()) for label in LABELS]
    sampler = WeightedRandomSampler(weights, count, generator=torch.Generator().manual_seed(1))
    theirs = torch.tensor([*sampler])
    for drawn in (ours, theirs):
        found = Counter(LABELS[drawn].tolist())
        assert set(found) == {0, 1, 2}
        for label, number in found.items():
            assert number == pytest.approx(count / 3, rel=0.03)
            rows = drawn[LABELS[drawn] == label].bincount(minlength=100)
            rows = rows[label == LABELS].double()
            mean = number / len(rows)
            assert float(((rows - mean) ** 2 / mean).sum()) < len(rows) + 5 * (2 * len(rows)) ** 0.5


def test_an_epoch_has_as_many_batches_and_depends_on_seed_and_epoch_alone() -> None:
    balanced, plain = order(), BatchOrder(len(LABELS), 16, training=True, seed=3)
    assert balanced.bounds == plain.bounds
    first, second = balanced.share(0), balanced.share(1)
    assert len(first) == len(LABELS)
    assert not torch.equal(first, second)
    assert not torch.equal(first, balanced.share(0, cycle=1))
    assert torch.equal(first, order().share(0))
    assert sorted(first.tolist()) != list(range(100))  # with replacement


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_what_one_would_draw(world: int) -> None:
    whole = order().share(2)
    shares = [order(rank=rank, world_size=world).share(2) for rank in range(world)]
    joint = torch.stack(shares, 1).flatten()
    assert torch.equal(joint[: len(whole)], whole)
    assert torch.equal(order(rank=1, world_size=world).undivided().share(2), whole)
    assert order(rank=1, world_size=world).undivided().batch_size == 16 * world


def test_a_loader_goes_on_in_the_middle_of_an_epoch() -> None:
    def loader() -> InMemoryLoader:
        x = torch.arange(100.0).unsqueeze(1)
        return InMemoryLoader(x, LABELS, training=True, batch_size=16, seed=1, classes=LABELS)

    once = loader()
    whole = [[x.clone() for x, _ in once] for _ in range(2)]
    cut = loader()
    cut.set_epoch(1)
    iterator = iter(cut)
    for _ in range(3):
        next(iterator)
    again = loader()
    again.load_state_dict(cut.state_dict())
    left = [x for x, _ in again]
    assert len(left) == len(whole[1]) - 3
    assert all(torch.equal(a, b) for a, b in zip(left, whole[1][3:], strict=True))


def arrays(**options: Any) -> ArraysDataModule:
    x = torch.arange(480.0).reshape(120, 4).sin()
    rare = (torch.arange(120) % 12 == 0).long()
    rare[5::12] = -100
    ignored = torch.where(torch.arange(120) % 3 == 1, 7, rare.clamp(min=0))
    tasks = {"ignored": Task(8, ignore=7)}
    pairs = {"main": (x, rare), "ignored": (x, ignored), "value": (x, x.sum(1))}
    return ArraysDataModule(pairs, tasks, seed=0, batch_size=32, test_fraction=0, n_val=0, **options)


def test_batches_of_a_data_module_are_balanced_task_by_task() -> None:
    data = arrays(balance_batches=["main", "ignored"])
    seen: dict[str, Counter[int]] = {"main": Counter(), "ignored": Counter()}
    loader = data.train_dataloader()
    for epoch in range(40):
        loader.set_epoch(epoch)
        for batch in loader:
            assert set(batch) == {"main", "ignored", "value"}
            for task, found in seen.items():
                found.update(batch[task][1].tolist())
    for found in seen.values():
        assert set(found) == {0, 1}  # neither what is missing nor what is ignored
        assert found[1] / sum(found.values()) == pytest.approx(0.5, abs=0.03)
    plain = Counter(y for batch in arrays().train_dataloader() for y in batch["main"][1].tolist())
    assert plain[1] < 0.2 * plain[0]
    # what diagnostics look at are all samples, as they are
    assert sum(len(y) for _, y in data.task_batches("train", "main")) == data.train_size("main")


def test_it_is_part_of_the_fingerprint_of_its_tasks_alone() -> None:
    plain, some, every = (
        DigitsDataModule(n_main=20, n_aux=40, size=8, channels=1, seed=0, balance_batches=given)
        for given in (False, ["main"], True)
    )
    for tasks in (["main"], ["aux"], ["main", "aux"]):
        assert (some.fingerprint(tasks) == plain.fingerprint(tasks)) == ("main" not in tasks)
        assert every.fingerprint(tasks) != plain.fingerprint(tasks)
    assert "balance_batches" not in vars(plain)
    assert some.fingerprint(["main"]) == every.fingerprint(["main"])
    assert arrays().fingerprint(["main"]) != arrays(balance_batches=["main"]).fingerprint(["main"])


class Cut(Callback):
    """Leaves a checkpoint and ends the process, as it were."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, idx: int) -> None:
        if (trainer.current_epoch, idx) == (1, 1):
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


def test_a_fit_goes_on_in_the_middle_of_an_epoch_bit_for_bit(tmp_path: Path) -> None:
    def fit(
        root: Path, *callbacks: Callback, ckpt_path: str | None = None, **options: Any
    ) -> dict[str, Tensor]:
        seed_everything(2)
        data = arrays(**{"balance_batches": ["main"], **options})
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
        phase = Phase(name="train", tasks=["main"], max_epochs=3)
        module = SingleTaskModule(net, data.task_types, num_features=8, phases=[phase])
        toy_trainer(root, callbacks=[*callbacks]).fit(module, datamodule=data, ckpt_path=ckpt_path)
        return {name: value.clone() for name, value in module.state_dict().items()}

    whole = fit(tmp_path / "whole")
    with pytest.raises(SystemExit):
        fit(tmp_path / "cut", Cut(tmp_path / "cut.ckpt"))
    again = fit(tmp_path / "again", ckpt_path=str(tmp_path / "cut.ckpt"))
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    with pytest.raises(ConfigurationError, match=r"balance_batches"):
        fit(tmp_path / "other", ckpt_path=str(tmp_path / "cut.ckpt"), balance_batches=None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (True, "task 'value' is of kind 'regression', whose samples have no class"),
        (["value"], "task 'value' is of kind 'regression'"),
        (["mian"], "'mian' is unknown; did you mean 'main'?"),
        ("main", "must be true, false or a list of tasks"),
        ([], "must be true, false or a list of tasks"),
        (3, "must be true, false or a list of tasks"),
        ({"main": True}, "must be true, false or a list of tasks"),
    ],
)
def test_bad_options_are_one_line(given: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        arrays(balance_batches=given)
    assert message in str(error.value)
    assert str(error.value).startswith("--data.balance_batches")
    assert "\n" not in str(error.value)


def test_targets_that_are_no_classes() -> None:
    x = torch.randn(20, 3)
    shares = torch.rand(20, 2)
    data = ArraysDataModule({"main": (x, shares)}, {"main": Task(2, loss=nn.CrossEntropyLoss())}, seed=0)
    assert data.task_types["main"].kind == "classification"
    data = ArraysDataModule(
        {"main": (x, shares)}, {"main": Task(2, loss=nn.CrossEntropyLoss())}, seed=0, balance_batches=True
    )
    with pytest.raises(ConfigurationError, match="classes are whole numbers"):
        data.train_dataloader()
    with pytest.raises(ConfigurationError, match="kind 'regression'"):
        DiabetesDataModule(balance_batches=True)
    assert DiabetesDataModule(balance_batches=["sex"]).balance_batches == ["sex"]
