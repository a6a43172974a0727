"""Fits whose last phase is trained in one batch end as they would have alone."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from batch_helpers import SGD, Attention, Made, ResNet, assert_same, fit
from lightning.pytorch.callbacks import ModelSummary
from torch import Tensor, nn
from toys import FEATURES

from lit_aux.batched import fit_together
from lit_aux.callbacks import L2SP, RepresentationDimensionality

RUNS = [(1.0, 0), (0.3, 0), (0.5, 1)]


def both(tmp_path: Path, backbone: Callable[[], nn.Module], **options: Any) -> tuple[list[Made], list[Made]]:
    """Return runs that were trained together and the same ones, each alone."""
    together: list[Made] = []
    alone: list[Made] = []
    ends = fit_together(
        [partial(fit, together, tmp_path / f"t{i}", backbone, *run, **options) for i, run in enumerate(RUNS)]
    )
    assert [(end.error, end.reason) for end in ends] == [(None, "")] * len(RUNS)
    for i, run in enumerate(RUNS):
        fit(alone, tmp_path / f"a{i}", backbone, *run, **options)
    return together, alone


@pytest.mark.parametrize("backbone", [ResNet, Attention])
@pytest.mark.parametrize("optimizer", [SGD, torch.optim.Adam], ids=["sgd", "adam"])
def test_fifty_steps_in_double_precision(
    tmp_path: Path, backbone: Callable[[], nn.Module], optimizer: Any
) -> None:
    options = {"trainer": {"precision": "64-true"}, "optimizer": optimizer, "max_epochs": 25}
    together, alone = both(tmp_path, backbone, **options)
    assert alone[0][0].phase_results[-1].steps == 50
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other, 1e-9)


def test_five_steps_in_single_precision(tmp_path: Path) -> None:
    together, alone = both(tmp_path, ResNet, optimizer=SGD, max_steps=5)
    for one, other in zip(together, alone, strict=True):
        assert one[0].phase_results[-1].steps == 5
        assert_same(one, other, 1e-4)


def test_each_stops_on_its_own(tmp_path: Path) -> None:
    options = {"trainer": {"precision": "64-true"}, "optimizer": SGD, "max_epochs": 60}
    together, alone = both(tmp_path, ResNet, stop_at_training_loss=0.3, **options)
    epochs = [trainer.phase_results[-1].epochs for trainer, _ in alone]
    assert len({*epochs}) > 1
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other, 1e-8)
        ended = [
            torch.load(trainer.phase_results[-1].checkpoint, weights_only=True) for trainer, _ in (one, other)
        ]
        assert ended[0]["epoch"] == ended[1]["epoch"]
        assert ended[0]["global_step"] == ended[1]["global_step"]
        assert ended[0]["loops"].keys() == ended[1]["loops"].keys()
        own, expected = (end["optimizer_states"][0]["state"] for end in ended)
        for number, state in expected.items():
            torch.testing.assert_close(
                own[number]["momentum_buffer"], state["momentum_buffer"], rtol=1e-7, atol=1e-9
            )
        random = [end["lit_aux"]["random_state"]["torch"] for end in ended]
        assert torch.equal(*random)


def test_dimensionality_compares_with_the_rescaled_start(tmp_path: Path) -> None:
    measures = []

    def measuring() -> list[Any]:
        measures.append(RepresentationDimensionality(picture=False))
        return [measures[-1]]

    made: list[Made] = []
    runs = [(tmp_path / f"{i}", ResNet, *run) for i, run in enumerate([*RUNS[:2]] * 2)]
    options = {"trainer": {"precision": "64-true"}, "optimizer": SGD, "max_epochs": 5}
    calls = [partial(fit, made, *run, callbacks=measuring(), **options) for run in runs]
    ends = fit_together(calls[:2])
    assert [(end.error, end.reason) for end in ends] == [(None, "")] * 2
    for one in calls[2:]:
        one()
    for one, other in zip(measures[:2], measures[2:], strict=True):
        assert one.results
        for row, expected in zip(one.results, other.results, strict=True):
            assert row.layer == expected.layer
            for name in ("pr_before", "pr_after", "ensd"):
                assert getattr(row, name) == pytest.approx(getattr(expected, name), rel=1e-8)


def test_one_that_diverges_fails_alone(tmp_path: Path) -> None:
    made: list[Made] = []
    runs = [(1.0, SGD), (1.0, partial(torch.optim.SGD, lr=1e10, momentum=0.99)), (0.5, SGD)]
    ends = fit_together(
        [
            partial(fit, made, tmp_path / str(i), Attention, factor, 0, optimizer=optimizer, max_epochs=30)
            for i, (factor, optimizer) in enumerate(runs)
        ]
    )
    assert [end.error is None for end in ends] == [True, False, True]
    assert "finite" in str(ends[1].error)
    expected: list[Made] = []
    fit(expected, tmp_path / "alone", Attention, 0.5, 0, optimizer=SGD, max_epochs=30)
    assert_same(made[2], expected[0], 1e-4)


class Ending(ModelSummary):
    """Shows nothing, and ends the phase before its first step."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = True


def test_one_that_ends_before_its_first_step(tmp_path: Path) -> None:
    made: list[Made] = []
    expected: list[Made] = []
    runs = [(made, "0", [Ending()]), (made, "1", []), (made, "2", []), (expected, "alone", [Ending()])]
    calls = [
        partial(fit, into, tmp_path / name, ResNet, 0.5, 0, callbacks=callbacks, max_epochs=2)
        for into, name, callbacks in runs
    ]
    assert [(end.error, end.reason) for end in fit_together(calls[:3])] == [(None, "")] * 3
    calls[3]()
    steps = {trainer.default_root_dir: trainer.phase_results[-1].steps for trainer, _ in made}
    assert [steps[str(tmp_path / name)] for name in "012"] == [0, 4, 4]
    assert expected[0][0].phase_results[-1].steps == 0
    ended = next(one for one in made if one[0].default_root_dir == str(tmp_path / "0"))
    assert_same(ended, expected[0], 1e-6)


def dropping() -> nn.Module:
    backbone = nn.Sequential(nn.Linear(FEATURES, 5), nn.Dropout(0.5))
    backbone.num_features = 5  # type: ignore[assignment]
    return backbone


class Noise(nn.Module):
    """Adds noise, in no way that its name would tell."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


def noisy() -> nn.Module:
    backbone = nn.Sequential(nn.Linear(FEATURES, 5), Noise())
    backbone.num_features = 5  # type: ignore[assignment]
    return backbone


@pytest.mark.parametrize(
    ("backbone", "options", "reason"),
    [
        (dropping, {}, "layer 'backbone.1' (Dropout) draws at random"),
        (noisy, {}, "random operation"),
        (ResNet, {"callbacks": [L2SP(0.1)]}, "callback L2SP"),
        (ResNet, {"optimizer": torch.optim.Adagrad}, "optimizer Adagrad"),
        (ResNet, {"trainer": {"accumulate_grad_batches": 2}}, "accumulate_grad_batches 2"),
        (
            ResNet,
            {"restore_best": "main/val_loss", "trainer": {"check_val_every_n_epoch": 1}},
            "restore_best",
        ),
    ],
)
def test_what_cannot_be_batched_is_trained_alone_and_says_why(
    tmp_path: Path, backbone: Callable[[], nn.Module], options: dict[str, Any], reason: str
) -> None:
    made: list[Made] = []
    calls = [
        partial(fit, made, tmp_path / str(i), backbone, factor, 0, max_epochs=2, **options)
        for i, factor in enumerate((1.0, 0.5))
    ]
    ends = fit_together(calls)
    assert all(end.error is None and reason in end.reason for end in ends), ends
    expected: list[Made] = []
    fit(expected, tmp_path / "alone", backbone, 0.5, 0, max_epochs=2, **options)
    assert_same(made[-1], expected[0], 0)


def test_a_network_of_another_kind_is_trained_alone(tmp_path: Path) -> None:
    made: list[Made] = []
    kinds = (ResNet, Attention, ResNet)
    ends = fit_together(
        [partial(fit, made, tmp_path / str(i), kind, 1.0, i, max_epochs=1) for i, kind in enumerate(kinds)]
    )
    assert [end.reason == "" for end in ends] == [True, False, True]
    assert "no other fit" in ends[1].reason


def test_sixteen_fits_within_each_other(tmp_path: Path) -> None:
    made: list[Made] = []
    calls = [partial(fit, made, tmp_path / str(i), ResNet, 1.0, i, max_epochs=1) for i in range(16)]
    assert [(end.error, end.reason) for end in fit_together(calls)] == [(None, "")] * 16


def test_a_fit_that_cannot_begin_costs_the_others_nothing(tmp_path: Path) -> None:
    made: list[Made] = []

    def broken() -> None:
        raise ValueError("no data")

    good = [partial(fit, made, tmp_path / str(i), ResNet, 1.0, i, max_epochs=1) for i in range(2)]
    ends = fit_together([good[0], broken, good[1]])
    assert [str(end.error) for end in ends] == ["None", "no data", "None"]
    assert [end.reason == "" for end in ends] == [True, False, True]
