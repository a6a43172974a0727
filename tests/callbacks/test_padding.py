"""Padded, ragged and flattened tokens, against means over the real ones by hand."""

import warnings
from copy import deepcopy
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from callback_helpers import trainer
from test_representation_dimensionality import brute_force
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence
from torch.utils.data import DataLoader

from lit_aux.callbacks import RepresentationDimensionality
from lit_aux.callbacks._inputs import resolved
from lit_aux.errors import ConfigurationError

WIDTH = 8


def sequences(n: int = 24) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, 9, (n,), generator=generator)
    return [torch.randn(int(length), 4, generator=generator) for length in lengths]


def padded(parts: list[Tensor], to: int | None = None, filler: float = 9.0) -> tuple[Tensor, Tensor]:
    """Return sequences filled up with rubbish, and where they are real."""
    length = to or max(map(len, parts))
    x = torch.full((len(parts), length, 4), filler)
    mask = torch.zeros(len(parts), length, dtype=torch.bool)
    for i, each in enumerate(parts):
        x[i, : len(each)], mask[i, : len(each)] = each, True
    return x, mask


class Net(pl.LightningModule):
    """Embeds tokens one by one, so that each sequence's features are known without the others."""

    def __init__(self, name: str = "attention_mask", flat: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.name, self.flat = name, flat
        self.tokens, self.wide, self.head = nn.Linear(4, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor, **masks: Tensor) -> Tensor:
        hidden = self.tokens(x.flatten(0, 1) if self.flat else x).tanh()
        hidden = self.wide(hidden).view(*x.shape[:2], WIDTH)
        keep = self.keep(masks[self.name], x.shape[1])
        return self.head((hidden * keep[:, :, None]).sum(1) / keep.sum(1, keepdim=True))

    def keep(self, mask: Tensor, length: int) -> Tensor:
        if mask.ndim == 1:
            return torch.arange(length)[None] < mask[:, None]
        return (mask == 0) if "padding" in self.name or mask.is_floating_point() else (mask != 0)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch["x"], **{self.name: batch[self.name]}), batch["y"])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch["x"], **{self.name: batch[self.name]})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader(name: str, form: Any, *, ragged: bool = True, size: int = 7) -> DataLoader:
    """Batches that are as long as their longest sequence, or all of one length."""

    def collate(parts: list[Tensor]) -> Any:
        x, mask = padded(parts, None if ragged else 8)
        return {"y": (x[:, 0, 0] > 0).long(), name: form(mask), "x": x}

    return DataLoader(sequences(), batch_size=size, collate_fn=collate)  # type: ignore[arg-type]


class First(pl.Callback):
    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.module = deepcopy(pl_module)


def fitted(tmp_path: Any, module: Any, batches: DataLoader, **options: Any) -> tuple[Any, Any, Any]:
    callback, first = RepresentationDimensionality(["wide"], picture=False, **options), First()
    trainer(tmp_path, callback, first, max_epochs=1).fit(module, batches, batches)
    (row,) = callback.results
    return (row.pr_before, row.pr_after, row.ensd), first.module, module


def alone(module: Any) -> Tensor:
    """The mean over each sequence's own tokens, one sequence at a time."""
    with torch.no_grad():
        return torch.stack([module.wide(module.tokens(x).tanh()).mean(0) for x in sequences()])


FORMS = {
    "attention_mask": lambda m: m.long(),
    "mask": lambda m: m,
    "src_key_padding_mask": lambda m: ~m,
    "key_padding_mask": lambda m: torch.zeros(m.shape).masked_fill(~m, -torch.inf),
    "lengths": lambda m: m.sum(1),
    "padding_mask": lambda m: ~m,
}


@pytest.mark.parametrize(
    ("name", "ragged"),
    [*((name, True) for name in FORMS), ("attention_mask", False), ("padding_mask", False)],
)
def test_the_mean_is_over_real_tokens(tmp_path: Any, name: str, ragged: bool) -> None:
    module, batches = Net(name), loader(name, FORMS[name], ragged=ragged)
    found, old, new = fitted(tmp_path, module, batches, spatial="mean")
    assert found == pytest.approx(brute_force(alone(old), alone(new)), rel=1e-5)
    everything, _ = padded(sequences(), 8)
    with torch.no_grad():
        wrong = new.wide(new.tokens(everything).tanh()).mean(1)
    assert abs(brute_force(wrong, wrong)[0] - found[1]) > 0.2  # the padding would have told


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("spatial", ["mean", "flatten"])
def test_tokens_that_are_flattened(tmp_path: Any, flat: bool, spatial: Any) -> None:
    batches = loader("attention_mask", FORMS["attention_mask"])
    found, old, new = fitted(tmp_path, Net(flat=flat), batches, spatial=spatial)
    if spatial == "mean":
        pair = [alone(old), alone(new)]
    else:
        x, mask = padded(sequences())
        with torch.no_grad():
            pair = [(m.wide(m.tokens(x).tanh()) * mask[:, :, None]).flatten(1) for m in (old, new)]
    assert found == pytest.approx(brute_force(*pair), rel=1e-5)


def test_a_mask_may_be_given_by_name_or_function_or_be_left_out(tmp_path: Any) -> None:
    name = "real"  # which nothing recognizes
    batches = loader(name, lambda m: m)
    for option, right in ((lambda b: b["real"], True), (False, False)):
        found, old, new = fitted(tmp_path, Net(name), batches, spatial="mean", mask=option)
        if right:
            assert found == pytest.approx(brute_force(alone(old), alone(new)), rel=1e-5)
        else:
            assert found[1] != pytest.approx(brute_force(alone(old), alone(new))[1], rel=1e-2)
    batches = loader("mask", lambda m: m)
    found, old, new = fitted(tmp_path, Net("mask"), batches, spatial="mean", mask="mask")
    assert found == pytest.approx(brute_force(alone(old), alone(new)), rel=1e-5)


@pytest.mark.parametrize(
    ("mask", "words"),
    [("maks", "mask: 'maks' is unknown"), (lambda b: b["y"], r"mask: \(7,\) for 7 samples; give")],
)
def test_masks_that_are_none_are_refused(tmp_path: Any, mask: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        fitted(tmp_path, Net("mask"), loader("mask", lambda m: m), mask=mask)


def test_a_mask_that_may_mean_either_is_not_used_and_said() -> None:
    either = torch.tensor([[True, False], [False, True]])
    with pytest.warns(UserWarning, match="mask: 'mask' may be true for what is real or for padding"):
        assert resolved([{"mask": either}], None) == [{}]
    with pytest.raises(ConfigurationError, match="mask: 'mask' may be true for what is real"):
        resolved([{"mask": either}], "mask")
    # one sample without padding, in whatever piece, settles it for all
    full = torch.tensor([[True, True]])
    assert resolved([{"mask": either}, {"mask": full}], None)[0]["mask"].tolist() == either.tolist()
    assert resolved([{"mask": either}, {"mask": ~full}], None)[0]["mask"].tolist() == (~either).tolist()


class Packed(Net):
    """Takes a packed sequence; its recurrent layer gives another one."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.LSTM(4, WIDTH, batch_first=True)  # type: ignore[assignment]

    def forward(self, x: Any) -> Tensor:
        out, _ = self.wide(x)
        hidden, lengths = pad_packed_sequence(out, batch_first=True)
        return self.head(hidden.sum(1) / lengths[:, None].to(hidden))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])


def test_packed_sequences(tmp_path: Any) -> None:
    def collate(parts: list[Tensor]) -> Any:
        return pack_sequence(parts, enforce_sorted=False), torch.tensor([int(p[0, 0] > 0) for p in parts])

    batches = DataLoader(sequences(), batch_size=7, collate_fn=collate)  # type: ignore[arg-type]
    found, old, new = fitted(tmp_path, Packed(), batches, spatial="mean", batch_size=3)
    with torch.no_grad():
        pair = [torch.stack([m.wide(x)[0].mean(0) for x in sequences()]) for m in (old, new)]
    assert found == pytest.approx(brute_force(*pair), rel=1e-4)


class Listed(Net):
    """Takes a list of sequences of different lengths, and pads for itself."""

    def forward(self, x: list[Tensor]) -> Tensor:
        whole, mask = padded(x)
        hidden = self.wide(self.tokens(whole[mask]).tanh())  # the real tokens alone
        sums = torch.zeros(len(x), WIDTH).index_add(0, mask.nonzero()[:, 0], hidden)
        return self.head(sums / mask.sum(1, keepdim=True))

    training_step, validation_step = Packed.training_step, Packed.validation_step


def test_nested_lists_whose_real_tokens_alone_are_seen(tmp_path: Any) -> None:
    def collate(parts: list[Tensor]) -> Any:
        return parts, torch.tensor([int(p[0, 0] > 0) for p in parts])

    batches = DataLoader(sequences(), batch_size=7, collate_fn=collate)  # type: ignore[arg-type]
    found, old, new = fitted(
        tmp_path, Listed(), batches, spatial="mean", batch_size=3, mask=lambda b: padded(b[0])[1]
    )
    assert found == pytest.approx(brute_force(alone(old), alone(new)), rel=1e-5)


class Transformer(Net):
    """Torch's own encoder, which skips the code of its layers in eval mode."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__("src_key_padding_mask")
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=batch_first)
        self.encoder, self.batch_first = nn.TransformerEncoder(layer, 2), batch_first
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor, src_key_padding_mask: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        out = self.encoder(x, src_key_padding_mask=src_key_padding_mask)
        out = out if self.batch_first else out.transpose(0, 1)
        keep = ~src_key_padding_mask[:, :, None]
        return self.head((out * keep).sum(1) / keep.sum(1))


INNER = ["encoder.layers.1", "encoder.layers.0.linear1", "encoder.layers.0.self_attn", "encoder"]


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_fast_path_of_transformers_is_off_while_layers_are_watched(
    tmp_path: Any, batch_first: bool
) -> None:
    callback = RepresentationDimensionality(INNER, spatial="mean", picture=False)
    module, batches = Transformer(batch_first), loader("src_key_padding_mask", lambda m: ~m)
    assert torch.backends.mha.get_fastpath_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(tmp_path, callback, max_epochs=1).fit(module, batches, batches)
    assert torch.backends.mha.get_fastpath_enabled()
    rows = {row.layer: row.pr_after for row in callback.results}
    assert [*rows] == [name for name in (row.layer for row in callback.results)]
    assert {*rows} == {*INNER}
    module.eval()  # one sequence at a time: no padding, nothing to mask
    with torch.no_grad():
        one = [
            module.encoder(x[None] if batch_first else x[:, None]).reshape(-1, 4).mean(0) for x in sequences()
        ]
    expected = brute_force(torch.stack(one), torch.stack(one))[0]
    assert rows["encoder"] == rows["encoder.layers.1"] == pytest.approx(expected, rel=1e-4)


class Text(Net):
    """Convolutions over tokens, which have channels before positions, and one that changes their number."""

    def __init__(self) -> None:
        super().__init__("mask")
        self.wide, self.short = nn.Conv1d(4, WIDTH, 1), nn.Conv1d(WIDTH, 2, 2, padding=1)  # type: ignore[assignment]

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        hidden = self.wide(x.transpose(1, 2)) * mask[:, None]
        return self.short(hidden).mean(2)


def test_channels_before_positions_and_masks_that_do_not_fit(tmp_path: Any) -> None:
    module, batches = Text(), loader("mask", lambda m: m)
    callback = RepresentationDimensionality(["wide", "short"], spatial="mean", picture=False)
    with pytest.warns(UserWarning, match="the mask does not fit the positions of 'short'") as told:
        trainer(tmp_path, callback, max_epochs=1).fit(module, batches, batches)
    assert len([w for w in told if "does not fit" in str(w.message)]) == 1
    with torch.no_grad():
        one = torch.stack([module.wide(x.T[None])[0].mean(1) for x in sequences()])
    assert callback.results[0].pr_after == pytest.approx(brute_force(one, one)[0], rel=1e-5)
