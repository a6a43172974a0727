"""What diagnostics must not do: change the training; and what they must refuse, in one line."""

import re
from typing import Any, ClassVar

import lightning.pytorch as pl
import pytest
import torch
from callback_helpers import Foreign, trainer
from diagnostic_helpers import TASKS, Pictures, diagnostics, images, pictures
from lightning.pytorch.callbacks import ModelCheckpoint
from task_helpers import Stranger, data
from torch.utils.data import DataLoader, TensorDataset
from toys import ToyData, toy_module, toy_trainer

from lit_aux.callbacks import FisherTrace, GradientCoherence, GradientConflict, Sharpness
from lit_aux.callbacks._task_model import on_device, undisturbed
from lit_aux.callbacks.task_diagnostic import TaskDiagnostic
from lit_aux.errors import ConfigurationError

ONE_OF_EACH = [Sharpness, GradientCoherence, FisherTrace]


def with_values() -> dict[str, Any]:
    """Return examples whose targets are values, in place of classes."""
    given = data()
    return {"train": {task: (x, y + 0.5) for task, (x, y) in given["train"].items()}}


class State(pl.Callback):
    """Keeps all that a batch leaves behind, step by step."""

    def __init__(self) -> None:
        self.steps: list[Any] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.keep(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.keep(trainer, pl_module)

    def keep(self, trainer: Any, module: Any) -> None:
        momentum = trainer.optimizers[0].state_dict()["state"]
        found = {f"momentum {i}": state["momentum_buffer"].clone() for i, state in momentum.items()}
        found |= {name: value.clone() for name, value in module.state_dict().items()}
        found |= {f"grad {n}": p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
        found |= {"rng": torch.get_rng_state(), "order": module.order.get_state()}
        found["modes"] = torch.tensor([layer.training for layer in module.modules()])
        self.steps.append(found)


@pytest.mark.parametrize(
    ("precision", "start", "fresh"),
    [
        ("32-true", "zero", False),
        ("32-true", "random", True),
        ("64-true", "zero", True),
        ("bf16-true", "zero", False),
        ("bf16-mixed", "zero", False),
    ],
)
def test_training_is_bit_for_bit_what_it_is_without(
    tmp_path: Any, precision: Any, start: Any, fresh: bool
) -> None:
    runs = []
    for watched in (False, True):
        callbacks = diagnostics(every_n_steps=2) if watched else []
        if watched:
            callbacks[0].start = start
        pl.seed_everything(5, verbose=False)
        state, module = State(), Pictures(momentum=0.9)
        module.reestimate_batchnorm = fresh
        module.shared[1].eval()  # a stranger may keep some layer in eval mode
        trainer(tmp_path, *callbacks, state, precision=precision).fit(module)
        runs.append(state.steps)
        for callback in callbacks:
            assert {row.step for row in callback.results} == {2, 4, 6}
            assert all(row.value > 0 for row in callback.results if row.measure != "gradient_norm")
    assert len(runs[0]) == len(runs[1]) == 7
    for one, other in zip(*runs, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_other_precisions_give_nearly_the_values_of_float32(tmp_path: Any, precision: Any) -> None:
    values = []
    for chosen in ("32-true", precision):
        callbacks = diagnostics(every_n_steps=1)
        trainer(tmp_path, *callbacks, precision=chosen, max_steps=1).fit(Pictures(lr=1e-6))
        values.append([row.value for callback in callbacks for row in callback.results])
    assert values[1] == pytest.approx(values[0], rel=0.15 if precision == "bf16-true" else 1e-3)


class Broken(Pictures):
    """Fails the third time that a task is looked at in eval mode, and sets its buffers anew."""

    looks: ClassVar[list[str]] = []  # what a module keeps of a pass is dropped
    breaks = True

    def task_outputs(self, task: str, x: Any) -> Any:
        if not self.training:
            self.shared[1].running_mean = self.shared[1].running_mean + 1
            self.looks.append(task)
            if self.breaks and len(self.looks) > 3:
                raise KeyError("broken")
        return super().task_outputs(task, x)


def test_all_is_put_back_after_an_error(tmp_path: Any) -> None:
    class Watch(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            before = {name: value.clone() for name, value in pl_module.state_dict().items()}
            mean, rng = pl_module.shared[1].running_mean, torch.get_rng_state()
            with pytest.raises(KeyError, match="broken"):
                sharpness.observe(trainer, pl_module)
            assert all(torch.equal(value, before[name]) for name, value in pl_module.state_dict().items())
            assert pl_module.shared[1].running_mean is mean
            assert all(layer.training for layer in pl_module.modules())
            assert torch.equal(rng, torch.get_rng_state())
            pl_module.breaks = False
            done.append(True)

    done: list[bool] = []
    sharpness = Sharpness(data=pictures())
    trainer(tmp_path, sharpness, Watch(), max_epochs=1).fit(Broken())
    assert done


def test_examples_may_be_data_sets_loaders_lists_or_a_function(tmp_path: Any) -> None:
    pairs = {task: images(task) for task in TASKS}
    sources: list[Any] = [
        pictures(),
        {"train": {task: list(pair) for task, pair in pairs.items()}},
        {"train": {task: TensorDataset(*pair) for task, pair in pairs.items()}},
        {"train": {task: DataLoader(TensorDataset(*pair), batch_size=7) for task, pair in pairs.items()}},
        {"train": {task: [(x[:18], y[:18]), (x[18:], y[18:])] for task, (x, y) in pairs.items()}},
        lambda trainer: pictures(),
    ]
    probes = []
    for source in sources:
        coherence = GradientCoherence(data=source, num_samples=30, batch_size=10)
        coherence.on_fit_end = lambda *args: None  # type: ignore[method-assign]  # keep the probe
        trainer(tmp_path, coherence, max_epochs=1).fit(Pictures())
        probes.append((coherence.probe, [row.value for row in coherence.results]))
    for task in TASKS:
        assert all(torch.equal(p[task][0], pairs[task][0][:30]) for p, _ in probes)
    assert all(values == probes[0][1] for _, values in probes)


def test_inputs_may_be_dictionaries(tmp_path: Any) -> None:
    class Named(Stranger):
        def task_outputs(self, task: str, x: Any) -> Any:
            return super().task_outputs(task, x["points"] if isinstance(x, dict) else x)

    named = {"train": {task: ({"points": x}, y) for task, (x, y) in data()["train"].items()}}
    values = []
    for source in (data(), named):
        callbacks = [Sharpness(batch_size=8, data=source), GradientCoherence(batch_size=5, data=source)]
        trainer(tmp_path, *callbacks).fit(Named())
        values.append([row for callback in callbacks for row in callback.results])
    assert values[0] == values[1] != []


def test_statistics_are_reestimated_where_the_module_does_so(tmp_path: Any) -> None:
    class Fresh(Pictures):
        reestimate_batchnorm = True

    class Look(TaskDiagnostic):
        def measure(self, trainer: Any, module: Any) -> Any:
            norm = module.shared[1]
            x = torch.cat([on_device(trainer, module, self.probe[task])[0] for task in TASKS])
            y = module.shared[0](x).transpose(0, 1).flatten(1)
            torch.testing.assert_close(norm.running_mean, y.mean(1), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(norm.running_var, y.var(1), rtol=1e-4, atol=1e-5)
            return {"a": {"looked": 1.0}}

    look = Look(data=pictures())
    trainer(tmp_path, look).fit(Fresh())
    assert len(look.results) == 2


def test_a_resumed_run_goes_on_where_it_stopped(tmp_path: Any) -> None:
    class PowerCut(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 2:
                raise RuntimeError("power cut")

    def fit(*others: Any, ckpt_path: Any = None) -> list[Any]:
        callbacks = diagnostics(data=data(), every_n_epochs=1)
        files = ModelCheckpoint(tmp_path, filename="last", enable_version_counter=False)
        run = trainer(tmp_path, *callbacks, files, *others, enable_checkpointing=True, max_epochs=4)
        run.fit(Stranger(momentum=0.9), ckpt_path=ckpt_path)
        return [callback.results for callback in callbacks]

    whole = fit()
    with pytest.raises(RuntimeError, match="power cut"):
        fit(PowerCut())
    assert fit(ckpt_path=tmp_path / "last.ckpt") == whole
    assert [row.epoch for row in whole[0]] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


class ByTask(ToyData):
    """Toy tasks that can be asked for one by one."""

    def task_batches(self, split: str, task: str) -> Any:
        items = self._loader({"train": 0, "val": 1, "test": 2}[split], False).dataset.items  # type: ignore[attr-defined]
        return [items[task]] if task in items else []


def test_phases_have_results_of_their_own(tmp_path: Any) -> None:
    every = [Sharpness(iterations=2, batch_size=8), GradientCoherence(batch_size=4), FisherTrace()]
    only = GradientConflict(tasks=["main"], every_n_steps=1)
    toy_trainer(tmp_path, callbacks=[*every, only]).fit(toy_module(), datamodule=ByTask())
    for callback in every:
        found = {(row.phase, row.epoch, row.task) for row in callback.results}
        pretrain = {("pretrain", epoch, "aux") for epoch in (1, 2, 3)}
        assert found == pretrain | {("finetune", epoch, "main") for epoch in (1, 2)}
    assert {(row.phase, row.task) for row in only.results} == {("finetune", "main")}


@pytest.mark.parametrize("kind", ONE_OF_EACH)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every_n_epochs": 0}, "every_n_epochs: 0 must be at least 1"),
        ({"every_n_steps": -5}, "every_n_steps: -5 must be at least 1"),
        ({"every_n_steps": 5, "every_n_epochs": 1}, "every_n_steps: 5 is given beside every_n_epochs 1"),
        ({"num_samples": 0}, "num_samples: 0"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"tasks": []}, r"tasks: \[\] names no task"),
    ],
)
def test_bad_options_of_all(kind: Any, options: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        kind(**options)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sharpness(0.0), "rho: 0.0 must be above 0"),
        (lambda: Sharpness(-1e-3), "rho: -0.001 must be above 0"),
        (lambda: Sharpness(iterations=0), "iterations: 0 must be at least 1"),
        (lambda: Sharpness(start="Zero"), "start: 'Zero' is unknown; did you mean 'zero' or"),  # type: ignore[arg-type]
        (lambda: GradientCoherence(num_batches=1), "num_batches: 1 must be at least 2"),
        (lambda: FisherTrace(chunk=0), "chunk: 0 must be at least 1"),
    ],
)
def test_bad_options_of_one(make: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(words)}"):
        make()


class OneLogit(Stranger):
    def task_outputs(self, task: str, x: Any) -> Any:
        return super().task_outputs(task, x)[:, 0]

    def task_loss(self, task: str, outputs: Any, y: Any) -> Any:
        return (outputs - y).square().mean()


@pytest.mark.parametrize(
    ("module", "callback", "words"),
    [
        (
            Foreign,
            lambda: Sharpness(data=data()),
            "Sharpness: Foreign has no task_outputs; give it task_outp",
        ),
        (Stranger, Sharpness, "Sharpness: data: the tasks are not known; give data={'train'"),
        (
            Stranger,
            lambda: FisherTrace(data={"train": {"a": [], "b": data()["train"]["b"]}}),
            "FisherTrace: task 'a' has no training examples",
        ),
        (
            Stranger,
            lambda: FisherTrace(data=data(), tasks=["aa"]),
            "FisherTrace: tasks: 'aa' is unknown; did you mean 'a'?",
        ),
        (
            Stranger,
            lambda: Sharpness(data=data(), shared=["shard.*"]),
            "Sharpness: shared: 'shard.*' is unknown; did you mean 'shared.0.",
        ),
        (
            Stranger,
            lambda: GradientCoherence(data=data()),
            "batch_size: 2 batches of 32 need 64 examples; task 'a' has 40 (num_",
        ),
        (
            OneLogit,
            lambda: FisherTrace(data=data()),
            "FisherTrace: task 'a': outputs: shape (2,); labels are drawn from logits (examples, classes)",
        ),
        (
            Stranger,
            lambda: FisherTrace(data=with_values()),
            "FisherTrace: task 'a': targets of shape (40,) are no numbers of classes",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(
    tmp_path: Any, module: Any, callback: Any, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(words)}") as error:
        trainer(tmp_path, callback()).fit(module(), DataLoader(TensorDataset(*images("a")), batch_size=9))
    assert "\n" not in str(error.value)


def test_undisturbed_needs_no_probe(tmp_path: Any) -> None:
    class Look(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            with torch.no_grad(), undisturbed(trainer, pl_module, pl_module):
                assert torch.is_grad_enabled()
                assert not any(layer.training for layer in pl_module.modules())

    trainer(tmp_path, Look(), max_epochs=1).fit(Pictures())
