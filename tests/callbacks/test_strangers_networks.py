"""Networks that are called in other ways than ``forward(x)``, against numbers taken by hand."""

import warnings
from collections import UserDict, namedtuple
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from callback_helpers import trainer
from test_representation_dimensionality import brute_force
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_aux.callbacks import RepresentationDimensionality, WeightRescaling
from lit_aux.errors import ConfigurationError

N, LENGTH, WIDTH = 12, 5, 3


def samples(n: int = N, seed: int = 0) -> dict[str, Tensor]:
    """Token ids whose padding, where the mask is 0, is all but harmless."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 9, (n, LENGTH), generator=generator)
    lengths = torch.randint(1, LENGTH + 1, (n,), generator=generator)
    lengths[0] = LENGTH
    mask = (torch.arange(LENGTH)[None] < lengths[:, None]).long()
    return {"labels": ids.sum(1) % 2, "attention_mask": mask, "input_ids": ids}


class TwoInputs(nn.Module):
    """Mixes both inputs in another way than their names' order, so that no exchange goes unnoticed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm, self.head = nn.Embedding(9, WIDTH), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.embed(input_ids) * attention_mask[:, :, None]
        return self.head(self.norm(hidden.sum(1)))


class Base(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = TwoInputs()

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        self.log("loss", (loss := nn.functional.cross_entropy(outputs, labels)))
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.step(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.step(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.3)


class ByName(Base):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.net(input_ids, attention_mask)

    def step(self, batch: Any) -> Tensor:
        return self.loss(self(batch["input_ids"], batch["attention_mask"]), batch["labels"])


class Unpacked(Base):
    def forward(self, **batch: Tensor) -> Tensor:
        return self.net(batch["input_ids"], batch["attention_mask"])

    def step(self, batch: Any) -> Tensor:
        return self.loss(self(**batch), batch["labels"])


class InOrder(Base):
    """The order in the batch is not the order of the arguments."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.net(input_ids, attention_mask)

    def step(self, batch: Any) -> Tensor:
        labels, mask, ids = batch
        return self.loss(self.forward(ids, attention_mask=mask), labels)


class Optional(Base):
    """Would run without its mask, and give other numbers."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.net(input_ids, torch.ones_like(input_ids) if attention_mask is None else attention_mask)

    def step(self, batch: Any) -> Tensor:
        return self.loss(self(batch["input_ids"], batch["attention_mask"]), batch["labels"])


class Members(ByName):
    def step(self, batch: Any) -> Tensor:
        return self.loss(self(batch.input_ids, batch.attention_mask), batch.labels)


class NoForward(Base):
    """Has parts and no forward; and counts, and keeps what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, WIDTH), nn.Linear(WIDTH, 2)
        self.norm, self.net = self.net.norm, nn.Identity()
        self.embed.load_state_dict(TwoInputs().embed.state_dict())
        self.seen: list[int] = []
        self.count = 0

    def step(self, batch: Any) -> Tensor:
        self.seen.append(len(batch["labels"]))
        self.count += 1
        hidden = self.embed(batch["input_ids"]) * batch["attention_mask"][:, :, None]
        return self.loss(self.head(self.norm(hidden.sum(1))), batch["labels"])


class Manual(ByName):
    """Optimizes by itself, after which weights would have moved."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        raise RuntimeError("not for this batch")

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        self.toggle_optimizer(optimizer)
        optimizer.zero_grad()
        self.manual_backward(self.step(batch))
        optimizer.step()
        self.untoggle_optimizer(optimizer)


class Encoding(UserDict):
    """As tokenizers give it: a mapping that is no dict."""


Named = namedtuple("Named", ["labels", "attention_mask", "input_ids"])


@dataclass
class Record:
    labels: Tensor
    attention_mask: Tensor
    input_ids: Tensor


def loader(kind: Callable[..., Any] = dict, seed: int = 0, size: int = 5) -> DataLoader:
    data = samples(seed=seed)
    rows = [{name: value[i] for name, value in data.items()} for i in range(N)]

    def collate(chosen: Any) -> Any:
        batch = {name: torch.stack([row[name] for row in chosen]) for name in data}
        if kind is tuple:
            return tuple(batch.values())
        return kind(**batch) if kind in (Named, Record) else kind(batch)

    return DataLoader(rows, batch_size=size, collate_fn=collate)  # type: ignore[arg-type]


CASES = [
    (ByName, dict), (ByName, Encoding), (Unpacked, dict), (Unpacked, Encoding), (InOrder, tuple),
    (Optional, dict), (Members, Named), (Members, Record), (Manual, dict),
]  # fmt: skip


class First(pl.Callback):
    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.module = deepcopy(pl_module.net)


@pytest.mark.parametrize(("made", "kind"), CASES)
def test_the_network_is_called_as_its_own_code_calls_it(tmp_path: Any, made: Any, kind: Any) -> None:
    callback, first, module = RepresentationDimensionality(["net.head"], picture=False), First(), made()
    trainer(
        tmp_path, callback, first, num_sanity_val_steps=0, limit_val_batches=0 if made is Manual else 1.0
    ).fit(module, loader(kind), None if made is Manual else loader(kind, seed=0))
    x = samples()
    with torch.no_grad():
        old, new = (net.eval()(x["input_ids"], x["attention_mask"]) for net in (first.module, module.net))
    (row,) = callback.results
    assert (row.pr_before, row.pr_after, row.ensd) == pytest.approx(brute_force(old, new), rel=1e-5)


@pytest.mark.parametrize(("made", "kind"), [*CASES, (NoForward, dict)])
def test_statistics_are_estimated_by_calling_the_network_as_its_own_code_does(
    tmp_path: Any, made: Any, kind: Any
) -> None:
    module = made()
    embed = deepcopy(getattr(module.net, "embed", None) or module.embed)
    norm = module.net.norm if made is not NoForward else module.norm

    class Look(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
            self.mean, self.var = norm.running_mean.clone(), norm.running_var.clone()
            self.state = getattr(pl_module, "count", 0), list(getattr(pl_module, "seen", []))

    rescaling, look = WeightRescaling(0.5, reestimate_batchnorm=True), Look()
    trainer(tmp_path, rescaling, look, max_epochs=1).fit(module, loader(kind))
    x = samples()
    hidden = (0.5 * embed(x["input_ids"]) * x["attention_mask"][:, :, None]).sum(1)
    assert torch.allclose(look.mean, hidden.mean(0), atol=1e-6)
    assert torch.allclose(look.var, hidden.var(0), rtol=1e-5)
    assert look.state == (0, [])


def test_a_module_without_forward_is_measured_by_its_step_and_nobody_can_tell(tmp_path: Any) -> None:
    runs = []
    for callbacks in ([], [RepresentationDimensionality(["embed", "head"], every_n_epochs=1, picture=False)]):
        pl.seed_everything(1, verbose=False)
        module = NoForward()
        run = trainer(tmp_path, *callbacks)
        run.fit(module, loader(), loader())
        runs.append([*module.state_dict().values(), module.count, module.seen, run.callback_metrics["loss"]])
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(*runs, strict=True))
    assert [row.layer for row in callbacks[0].results] == ["embed", "head"]
    x = samples()
    with torch.no_grad():
        hidden = module.embed(x["input_ids"]) * x["attention_mask"][:, :, None]
        out = module.eval().head(module.norm(hidden.sum(1)))
    assert callbacks[0].results[1].pr_after == pytest.approx(brute_force(out, out)[0], rel=1e-5)


@pytest.mark.parametrize(
    "to_input",
    [
        lambda b: (b["input_ids"], b["attention_mask"]),
        lambda b: {"attention_mask": b["attention_mask"], "input_ids": b["input_ids"]},
    ],
)
def test_to_input_may_give_several_arguments(tmp_path: Any, to_input: Any) -> None:
    x, module = samples(), ByName()
    for options in ({"to_input": to_input, "probe": loader()}, {"probe": to_input(x)}):
        callback = RepresentationDimensionality(["net.head"], picture=False, **options)
        trainer(tmp_path, callback).fit(module, loader(), loader())
        with torch.no_grad():
            out = module.eval().net(x["input_ids"], x["attention_mask"])
        assert callback.results[0].pr_after == pytest.approx(brute_force(out, out)[0], rel=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RepresentationDimensionality(["net.head"], to_input=lambda b: b["labels"][:, None].float()),
        lambda: RepresentationDimensionality(["net.head"], probe=torch.ones(6, 2)),
        lambda: WeightRescaling(0.5, reestimate_batchnorm=True, to_input=lambda b: b["labels"]),
    ],
)
def test_a_pass_that_fails_names_to_input_and_probe(tmp_path: Any, make: Any) -> None:
    class Untrained(ByName):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if self.trainer.sanity_checking or self.training:
                raise AssertionError("training has started")
            return super().training_step(batch, batch_idx)

    with pytest.raises(ConfigurationError, match=r"^to_input, probe: Untrained\.forward fails on [^\n]*$"):
        trainer(tmp_path, make()).fit(Untrained(), loader(), loader())


def test_logging_and_states_of_metrics_are_not_disturbed(tmp_path: Any) -> None:
    from torchmetrics import MeanMetric

    class Logs(ByName):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.meter = MeanMetric(), {"sum": torch.zeros(1), "names": ["a"]}

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            self.mean.update(input_ids.float())
            self.meter["sum"] += 1
            self.meter["names"].append("b")
            self.log("seen", float(len(input_ids)))
            return super().forward(input_ids, attention_mask)

    runs = []
    for callbacks in ([], [RepresentationDimensionality(["net.head"], every_n_epochs=1, picture=False)]):
        module = Logs()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer(tmp_path, *callbacks).fit(module, loader(), loader())
        runs.append((float(module.mean.compute()), float(module.meter["sum"]), len(module.meter["names"])))
    assert runs[0] == runs[1]
    assert len(callbacks[0].results) == 1
