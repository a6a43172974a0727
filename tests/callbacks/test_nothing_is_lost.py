"""What a callback measures never loses a fit that is over; and what measured nothing says so."""

import math
import warnings
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from callback_helpers import Foreign, network, train_loader, trainer, val_loader
from lightning.pytorch.callbacks import EMAWeightAveraging
from task_helpers import TASKS, Stranger, data, examples
from test_gradient_conflict import cosine, gradient
from test_representation_dimensionality import brute_force, outputs
from torch import Tensor, nn

from lit_aux.callbacks import (
    FisherTrace,
    GradientCoherence,
    GradientConflict,
    KMeansInertia,
    RepresentationDimensionality,
    Sharpness,
    TrajectoryLog,
    WiSEFT,
)
from lit_aux.errors import ConfigurationError
from lit_aux.verdicts import UNTRAINED

LAYERS = ["net.0", "net.5"]


def messages(told: Any) -> str:
    return "\n".join(str(warning.message) for warning in told)


class AtTheEnd(pl.Callback):
    """Does something to the module as training ends, before anything is measured."""

    def __init__(self, act: Any) -> None:
        self.act = act

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.act(pl_module)


def grow_head(module: Any) -> None:
    module.net[5] = nn.Linear(64, 7)


def grow_in_place(module: Any) -> None:
    module.net[5].weight.data = torch.randn(7, 64)
    module.net[5].bias.data = torch.zeros(7)


def stop_running(module: Any) -> None:
    module.net[5] = nn.Identity()


def run_past(module: Any) -> None:
    parts = list(module.net.children())
    module.forward = lambda x: nn.Sequential(*parts[:5])(x)


def fail(module: Any) -> None:
    def forward(x: Tensor) -> Tensor:
        raise KeyError("gone")

    module.net[2].forward = forward


@pytest.mark.parametrize(
    ("act", "note", "conv"),
    [
        (grow_head, "3 features before and has 7 now", True),
        (grow_in_place, "3 features before and has 7 now", True),
        (stop_running, "something beside weights has changed", True),
        (run_past, "the layer did not run", True),
        (fail, "KeyError", False),
    ],
)
def test_a_layer_that_changed_ends_in_a_row_that_says_so(
    tmp_path: Any, act: Any, note: str, conv: bool
) -> None:
    callback, module = RepresentationDimensionality(LAYERS), Foreign()
    first = network()
    with pytest.warns(UserWarning, match=rf"net\.5: .*{note}"):
        trainer(tmp_path, AtTheEnd(act), callback).fit(module, train_loader(), val_loader())
    rows = {row.layer: row for row in callback.results}
    assert [*rows] == LAYERS
    assert note in rows["net.5"].note
    assert rows["net.5"].verdict == "undefined"
    assert math.isnan(rows["net.5"].ensd)
    x = torch.cat([batch[0] for batch in val_loader()])
    if conv:
        expected = brute_force(outputs(first, x, 0), outputs(module.net, x, 0))
        row = rows["net.0"]
        assert (row.pr_before, row.pr_after, row.ensd) == pytest.approx(expected, rel=1e-5)
    if act in (grow_head, grow_in_place):
        assert rows["net.5"].pr_before == pytest.approx(brute_force(*[outputs(first.eval(), x, 5)] * 2)[0])
        assert module.net[5].weight.shape == (7, 64)


class Memory(Foreign):
    """A buffer that grows with every step, a head that is built late, and a log in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(0, 3))
        self.late: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.log("inputs", float(len(x)))
        if self.late is None:
            self.late = nn.Linear(3, 3)
        out = self.net(x)
        self.seen = torch.cat([self.seen, out.detach()])
        return self.late(out)


def test_buffers_that_grow_late_layers_and_logs_in_forward(tmp_path: Any) -> None:
    runs = []
    for callbacks in ([], [RepresentationDimensionality([*LAYERS], every_n_epochs=1, picture=False)]):
        pl.seed_everything(3, verbose=False)
        module = Memory()
        trainer(tmp_path, *callbacks).fit(module, train_loader(), val_loader())
        runs.append(module.state_dict())
    assert runs[0].keys() == runs[1].keys()
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert all(row.note in ("", UNTRAINED) and math.isfinite(row.ensd) for row in callbacks[0].results)


def test_lazy_layers_are_refused_before_training(tmp_path: Any) -> None:
    module = Foreign(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)))
    callback = RepresentationDimensionality(["net.1"])
    with pytest.raises(ConfigurationError, match=r"'net\.1\.weight' has no shape before the first batch"):
        trainer(tmp_path, callback).fit(module, train_loader())


def test_a_picture_that_cannot_be_drawn_is_a_warning(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("lit_aux.callbacks.representation_dimensionality.draw_layers", full)
    callback = RepresentationDimensionality(LAYERS)
    with pytest.warns(UserWarning, match="Drawing dimensionality failed.*no space left"):
        trainer(tmp_path, callback, max_epochs=1).fit(Foreign(), train_loader(), val_loader())
    assert len(callback.results) == 2


class Late(Stranger):
    """Cannot be looked at any more once two epochs are over."""

    def task_outputs(self, task: str, x: Tensor) -> Tensor:
        if self.current_epoch >= 1 and not self.training:
            raise RuntimeError("out of memory")
        return super().task_outputs(task, x)


@pytest.mark.parametrize(
    "make",
    [
        lambda **o: Sharpness(iterations=1, batch_size=8, every_n_epochs=1, **o),
        lambda **o: GradientCoherence(batch_size=8, every_n_steps=5, **o),
        lambda **o: FisherTrace(every_n_epochs=1, **o),
        lambda **o: TrajectoryLog(**o),
        lambda **o: GradientConflict(every_n_steps=2, **o),
    ],
)
def test_a_diagnostic_that_fails_midway_keeps_rows_and_the_fit(tmp_path: Any, make: Any) -> None:
    callback = make(data=data())
    with pytest.warns(UserWarning, match="failed at step .*RuntimeError: out of memory"):
        trainer(tmp_path, callback).fit(Late())
    good = [row for row in callback.results if not row.note]
    bad = [row for row in callback.results if row.note]
    assert good
    assert all(row.epoch <= 1 for row in good)
    assert {(row.task, row.measure) for row in bad} == {(row.task, row.measure) for row in good}
    assert all(math.isnan(row.value) and "out of memory" in row.note for row in bad)


def test_weights_that_cannot_be_read_any_more_and_mixtures_that_fail(tmp_path: Any) -> None:
    inertia = KMeansInertia("net.5", [2])
    with pytest.warns(UserWarning, match="KMeansInertia failed after epoch 2"):
        trainer(tmp_path, AtTheEnd(stop_running), inertia).fit(Foreign(), train_loader())
    assert [row.note == "" for row in inertia.results] == [True, False]
    mixing = WiSEFT([0, 1], data=data() | {"test": data()["train"]})
    with pytest.warns(UserWarning, match="WiSEFT failed.*out of memory"):
        trainer(tmp_path, mixing).fit(Late())


class Two(Stranger):
    """Two optimizers, stepped in every batch, in turn, or several times a batch; or by themselves."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.automatic_optimization, self.how = False, how

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.shared, self.heads)]

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        optimizers: Any = self.optimizers(use_pl_optimizer=self.how != "raw")
        if self.how == "in turn":
            optimizers = [optimizers[batch_idx % 2]]
        for _ in range(3 if self.how == "thrice" else 1):
            loss = sum(self.task_loss(t, self.task_outputs(t, x), y) for t, (x, y) in batch.items())
            self.zero_grad()
            self.manual_backward(loss)
            for optimizer in optimizers:
                optimizer.step()


class Steps(pl.Callback):
    """Works out, batch by batch, the cosine of each task's gradient with what the batch did."""

    def __init__(self) -> None:
        self.found: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.before = torch.cat([p.detach().flatten().double() for p in pl_module.shared.parameters()])
        self.gradients = {task: gradient(pl_module, task) for task in TASKS}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        now = torch.cat([p.detach().flatten().double() for p in pl_module.shared.parameters()])
        step = (self.before - now).numpy()
        if abs(step).max() > 0:
            self.found.append({task: cosine(g, step) for task, g in self.gradients.items()})


@pytest.mark.parametrize("how", ["every batch", "in turn", "thrice"])
@pytest.mark.parametrize("every", [1, 2])
def test_conflict_with_two_optimizers(tmp_path: Any, how: str, every: int) -> None:
    conflict = GradientConflict(every_n_steps=every, pairwise_every=0, data=data(), batch_size=40)
    steps = Steps()
    trainer(tmp_path, steps, conflict, max_epochs=1).fit(Two(how))
    chosen = steps.found[every - 1 :: every]
    assert len(chosen) == (3 if how == "in turn" else 5) // every
    assert len(conflict.results) == 3
    for row in conflict.results:
        mean = sum(found[row.task] for found in chosen) / len(chosen)
        assert row.value == pytest.approx(mean, rel=2e-5, abs=2e-6)


def test_a_step_that_moves_nothing_is_made_up_for_by_the_next(tmp_path: Any) -> None:
    class Warm(Stranger):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.optimizers().param_groups[0]["lr"] = 0.1 if batch_idx == 4 else 0.0

    conflict = GradientConflict(every_n_steps=2, pairwise_every=0, data=data(), batch_size=40)
    steps = Steps()
    trainer(tmp_path, steps, conflict, max_epochs=1).fit(Warm())
    (expected,) = steps.found
    assert {row.task: row.value for row in conflict.results} == pytest.approx(expected, rel=2e-5)


def test_periods_in_steps_hold_where_steps_come_in_twos(tmp_path: Any) -> None:
    watched = GradientCoherence(batch_size=8, every_n_steps=3, data=data())
    trainer(tmp_path, watched, max_epochs=1).fit(Two("every batch"))
    assert [row.step for row in watched.results if row.measure == "gradient_norm"] == [4] * 3 + [6] * 3 + [
        10
    ] * 3


@pytest.mark.parametrize(
    ("make", "module", "words"),
    [
        (lambda: GradientConflict(data=data()), Stranger, "every_n_steps is 50 and the shared .* 5 step"),
        (
            lambda: GradientConflict(every_n_steps=1, data=data()),
            lambda: Stranger(lr=0.0),
            "no step .* moved",
        ),
        (
            lambda: GradientConflict(every_n_steps=2, data=data()),
            lambda: Two("raw"),
            "no optimizer step of the",
        ),
        (lambda: Sharpness(every_n_epochs=3, data=data()), Stranger, "every_n_epochs is 3 and the fit had 1"),
        (lambda: FisherTrace(every_n_steps=9, data=data()), Stranger, "every_n_steps is 9 and the fit had 5"),
        (lambda: FisherTrace(every_n_steps=1, data=data()), lambda: Two("raw"), "no optimizer step was seen"),
        (lambda: WiSEFT(data=data()), Stranger, "there are no validation or test examples"),
    ],
)
def test_a_fit_without_a_measurement_says_why(tmp_path: Any, make: Any, module: Any, words: str) -> None:
    callback = make()
    with pytest.warns(
        UserWarning, match=rf"{type(callback).__name__} measured nothing: [^\n]*{words}[^\n]*\.$"
    ):
        trainer(tmp_path, callback, max_epochs=1).fit(module())
    assert callback.results == []


def test_one_that_measured_is_quiet_and_a_fit_of_no_step_is_said(tmp_path: Any) -> None:
    made = [GradientConflict(every_n_steps=2, data=data()), TrajectoryLog(data=data())]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer(tmp_path, *made, max_epochs=1).fit(Stranger())
    assert "measured nothing" not in messages(told)
    watching = [RepresentationDimensionality(LAYERS), KMeansInertia("net.5", [2])]
    with pytest.warns(UserWarning, match="measured nothing") as told:  # type: ignore[assignment]
        trainer(tmp_path, *watching, max_epochs=0).fit(Foreign(), train_loader(), val_loader())
    assert messages(told).count("measured nothing: the fit trained no step") == 2


class Averaged(Foreign):
    """Holds an average of its network, which it runs in eval mode if asked."""

    def __init__(self, used: bool) -> None:
        super().__init__()
        self.used, self.ema = used, torch.optim.swa_utils.AveragedModel(self.net)

    def forward(self, x: Tensor) -> Tensor:
        return (self.ema if self.used and not self.training else self.net)(x)

    def on_train_batch_end(self, *args: Any) -> None:
        self.ema.update_parameters(self.net)


@pytest.mark.parametrize("used", [True, False])
def test_it_is_said_which_weights_were_measured(tmp_path: Any, used: bool) -> None:
    layer = "ema.module.0" if used else "net.0"
    callback, module = RepresentationDimensionality([layer], picture=False), Averaged(used)
    words = (
        "measured the averaged copy ema"
        if used
        else "measured the weights that are trained, not the averaged copy ema"
    )
    with pytest.warns(UserWarning, match=words):
        trainer(tmp_path, callback).fit(module, train_loader(), val_loader())
    (row,) = callback.results
    assert words in row.note
    x = torch.cat([batch[0] for batch in val_loader()])
    chosen = module.ema.module if used else module.net
    assert row.pr_after == pytest.approx(brute_force(*[outputs(chosen, x, 0)] * 2)[0], rel=1e-5)


@pytest.mark.parametrize("first", [True, False])
def test_averages_of_other_callbacks_are_said_too(tmp_path: Any, first: bool) -> None:
    callback, average = KMeansInertia("net.5", [2]), EMAWeightAveraging()
    words = "the average of EMAWeightAveraging" if first else "before EMAWeightAveraging puts in its average"
    with pytest.warns(UserWarning, match=words):
        trainer(tmp_path, *([average, callback] if first else [callback, average])).fit(
            Foreign(), train_loader()
        )


def test_diagnostics_of_tasks_say_which_weights_they_look_at(tmp_path: Any) -> None:
    class Both(Stranger):
        def __init__(self) -> None:
            super().__init__()
            self.shared_ema = torch.optim.swa_utils.AveragedModel(self.shared)

        def task_outputs(self, task: str, x: Tensor) -> Tensor:
            return self.heads[task]((self.shared if self.training else self.shared_ema)(x))

    log = TrajectoryLog(splits=["train"], data=data(), every_n_epochs=2)
    with pytest.warns(UserWarning, match="TrajectoryLog: measured the averaged copy shared_ema"):
        trainer(tmp_path, log, max_epochs=1).fit(Both())
    x, y = examples("a")
    module = Both()
    first = nn.functional.cross_entropy(module.heads["a"](module.shared(x)), y)
    assert log.results[0].value == pytest.approx(float(first), rel=1e-5)
