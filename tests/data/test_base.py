import lightning
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import LightningDataModule, LightningModule, Trainer
from torch import nn

from lit_aux.data import DigitsDataModule, RandomCropFlip, ReLUTeacherDataModule
from lit_aux.data.base import TaskDataModule
from lit_aux.errors import ConfigurationError


class Toy(TaskDataModule):
    """Four classes of 20 pool and 5 test images; each image's pixels are its number in the source."""

    channels_given = 1

    @property
    def class_names(self):
        return ["a", "b", "c", "d"]

    def load_pool(self):
        numbers = torch.arange(80)
        images = numbers.byte().view(-1, 1, 1, 1).expand(-1, self.channels_given, 4, 4).contiguous()
        return images, numbers % 4

    def load_test(self):
        return torch.arange(100, 120).byte().view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous(), torch.arange(
            20
        ) % 4


def toy(**options):
    options = {"classes": {"main": 2, "aux": 2}, "mean": 0.0, "std": 1.0, "channels": 1, "seed": 0} | options
    return Toy(**options)


def numbers(samples):
    return set(samples.images[:, 0, 0, 0].tolist())


def test_splits_are_disjoint_and_labels_right():
    data = toy(n_main=10, n_aux=30, n_val=6)
    data.setup()
    seen = set()
    for task, classes in data.task_classes.items():
        for split, size in (("train", data.n[task]), ("val", 6), ("test", 10)):
            samples = data.samples(split, task)
            assert len(samples) == len(numbers(samples)) == size
            assert not seen & numbers(samples)
            seen |= numbers(samples)
            sources = samples.images[:, 0, 0, 0].long() % 4
            assert [classes[label] for label in samples.labels] == sources.tolist()
        assert torch.bincount(data.samples("train", task).labels).tolist() == [data.n[task] // 2] * 2


def test_default_validation_images_are_what_is_left():
    data = toy(n_main=10)
    data.setup("fit")
    assert [len(data.samples("val", task)) for task in ("main", "aux")] == [30, 0]
    assert list(data.val_dataloader().tasks) == ["main"]
    data.set_phase(["aux"])
    assert data.val_dataloader() == []
    reserved = toy(n_val=15)
    assert reserved.train_size("aux") == 25


def test_a_task_draws_the_same_whatever_the_others_do():
    few, many = toy(n_main=10, n_aux=4), toy(n_main=10, n_aux=40)
    assert numbers(few.samples("train", "main")) == numbers(many.samples("train", "main"))
    assert numbers(few.samples("train", "aux")) < numbers(many.samples("train", "aux"))
    assert few.fingerprint(["main"]) == many.fingerprint(["main"])
    assert few.fingerprint(["aux"]) != many.fingerprint(["aux"])
    assert numbers(toy(n_main=10, seed=1).samples("train", "main")) != numbers(few.samples("train", "main"))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"batch_size": 7},
        {"mean": 0.1},
        {"size": 5},
        {"n_main": 12},
        {"balanced": False},
        {"augment": RandomCropFlip(1)},
    ],
)
def test_fingerprint_changes_with(change):
    base = {"n_main": 10, "augment": RandomCropFlip(2)}
    assert toy(**base).fingerprint(["main"]) == toy(**base).fingerprint(["main"])
    assert toy(**(base | change)).fingerprint(["main"]) != toy(**base).fingerprint(["main"])


def test_fingerprint_knows_the_order_of_several_tasks():
    data = toy()
    both = ["main", "aux"]
    assert data.fingerprint(both) != data.fingerprint(both, "sequential")
    assert data.fingerprint(["main"]) == data.fingerprint(["main"], "sequential")


def test_phases_choose_tasks():
    data = toy(n_main=10, batch_size=8)
    assert data.batches_per_epoch("main") == 2
    assert data.batches_per_epoch("aux") == 5
    assert [set(batch) for batch in data.train_dataloader()] == [{"main", "aux"}] * 5
    data.set_phase(["main"])
    assert [set(batch) for batch in data.train_dataloader()] == [{"main"}] * 2
    assert [set(batch) for batch in data.test_dataloader()] == [{"main"}]
    data.set_phase(None, "sequential")
    assert [set(batch) for batch in data.train_dataloader()] == [{"main"}] * 2 + [{"aux"}] * 5
    with pytest.raises(ConfigurationError, match="'man' is unknown; did you mean 'main'"):
        data.set_phase(["man"])
    with pytest.raises(ConfigurationError, match="at least one task"):
        data.set_phase([])
    with pytest.raises(ConfigurationError, match="did you mean 'sequential'"):
        data.set_phase(None, "sequental")


def test_augments_training_batches_only():
    class Blacken(nn.Module):
        def forward(self, x):
            return torch.zeros_like(x)

    data = toy(n_main=10, augment=Blacken())
    assert all(not x.any() for batch in data.train_dataloader() for x, _ in batch.values())
    assert all(
        x.any()
        for loader in (data.val_dataloader(), data.test_dataloader())
        for b in loader
        for x, _ in b.values()
    )


def test_test_images_keep_their_order_and_have_a_cap():
    data = toy(n_test=4)
    assert all(len(data.samples("test", task)) == 4 for task in data.tasks)
    images = toy().samples("test", "aux").images[:, 0, 0, 0].tolist()
    assert images == sorted(images)


def test_seed_comes_from_seed_everything(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert toy(seed=None).seed == 0
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert toy(seed=None).seed == 5
    assert toy(seed=3).seed == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_main": 0}, "--data.n_main 0"),
        ({"n_aux": -3}, "--data.n_aux -3"),
        ({"n": {"aux": 0}}, "--data.n.aux 0"),
        ({"n": {"man": 4}}, "--data.n: 'man' is unknown; did you mean 'main'"),
        ({"n": {"main": 4}, "n_main": 5}, "--data.n_main 5: --data.n.main says 4"),
        ({"classes": {"x": 2}, "n_main": 5}, "--data.n_main 5: there is no task 'main'"),
        ({"n_main": 1}, "--data.n_main 1: task 'main' has 2 classes"),
        ({"n_val": -1}, "--data.n_val -1"),
        ({"n_test": 0}, "--data.n_test 0"),
        ({"batch_size": 0}, "--data.batch_size 0"),
        ({"eval_batch_size": 0}, "--data.eval_batch_size 0"),
        ({"size": 0}, "--data.size 0"),
        ({"channels": 2}, "--data.channels 2"),
        ({"seed": -1}, "--data.seed -1"),
        ({"std": 0.0}, "--data.std 0.0"),
        ({"std": [0.5, float("nan"), 0.5]}, "--data.std"),
        ({"mean": float("inf")}, "--data.mean inf"),
        ({"mean": []}, "--data.mean []"),
    ],
)
def test_wrong_options_are_known_at_once(options, message):
    with pytest.raises(ConfigurationError) as error:
        toy(**options)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_main": 41}, "--data.n_main 41: task 'main' has 40 training images"),
        ({"n": {"aux": 41}}, "--data.n_aux 41"),
        (
            {"n_main": 30, "n_val": 11},
            "--data.n_val 11: of 40 images of task 'main', 30 train and 10 are left",
        ),
        ({"n_val": 40}, "--data.n_val 40"),
        ({"mean": [0.1, 0.2]}, "--data.mean [0.1, 0.2]"),
    ],
)
def test_wrong_options_are_known_in_setup(options, message):
    with pytest.raises(ConfigurationError) as error:
        toy(**options).setup("fit")
    assert str(error.value).startswith(message)


def test_colour_images_for_a_gray_network():
    data = toy()
    data.channels_given = 3
    with pytest.raises(ConfigurationError, match=r"--data.channels 1: the images have 3"):
        data.setup("fit")


class Recorder(LightningModule):
    """Records its training batches; stands for any module that has or lacks a data configuration."""

    def __init__(self, data_config=None):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.data_config = data_config
        self.steps, self.shapes, self.seen = [], set(), 0

    def training_step(self, batch, batch_idx):
        self.steps.append({task: y.tolist() for task, (_, y) in batch.items()})
        x = batch["main"][0]
        self.steps[-1]["images"] = x[:, 0, 0, 0].tolist()
        self.shapes.add(tuple(x.shape[1:]))
        return self.layer(x.mean().view(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        self.seen += sum(len(y) for _, y in batch.values())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
    "num_sanity_val_steps": 0,
}


def test_the_network_says_how_it_wants_its_images(tmp_path):
    config = {
        "mean": (0.1, 0.2, 0.3),
        "std": (0.5, 0.5, 0.4),
        "input_size": (3, 6, 6),
        "interpolation": "bicubic",
    }
    data, module = toy(mean=None, std=None, channels=None, n_main=10), Recorder(config)
    Trainer(max_epochs=1, default_root_dir=tmp_path, enable_checkpointing=False, **QUIET).fit(module, data)
    assert module.shapes == {(3, 6, 6)}
    assert data.view.mean == (0.1, 0.2, 0.3)
    assert module.seen == 30
    plain = toy(mean=None, std=None, channels=None, n_main=10)
    Trainer(max_epochs=1, default_root_dir=tmp_path, enable_checkpointing=False, **QUIET).fit(
        Recorder(), plain
    )
    assert (plain.view.size, plain.view.mean) == (None, (0.5, 0.5, 0.5))


class Kill(lightning.Callback):
    def __init__(self, after):
        self.after = after

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.after:
            trainer.save_checkpoint("middle.ckpt")
            raise RuntimeError("killed")


@pytest.mark.parametrize("after", [2, 5, 7, 10])
def test_lightning_resumes_in_the_middle_of_an_epoch(after, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"n_main": 12, "batch_size": 8}

    def run(callbacks=(), **fit):
        module = Recorder()
        trainer = Trainer(max_epochs=3, callbacks=list(callbacks), enable_checkpointing=False, **QUIET)
        if callbacks:
            with pytest.raises(RuntimeError, match="killed"):
                trainer.fit(module, toy(**options), **fit)
        else:
            trainer.fit(module, toy(**options), **fit)
        return module.steps

    whole = run()
    assert len(whole) == 15
    assert whole[:5] != whole[5:10] != whole[10:]
    assert run([Kill(after)]) == whole[:after]
    assert run(ckpt_path="middle.ckpt") == whole[after:]


def test_lightning_resumes_at_the_end_of_an_epoch(tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint

    def run(epochs, **fit):
        module = Recorder()
        every = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        Trainer(max_epochs=epochs, callbacks=[every], **QUIET).fit(
            module, toy(n_main=12, batch_size=8), **fit
        )
        return module.steps

    whole = run(3)
    assert run(3, ckpt_path=tmp_path / "epoch=0.ckpt") == whole[5:]


def test_overfit_batches_are_the_same_in_every_epoch(tmp_path):
    module = Recorder()
    Trainer(max_epochs=2, overfit_batches=1, enable_checkpointing=False, **QUIET).fit(module, toy(n_main=12))
    assert len(module.steps) == 2
    assert module.steps[0] == module.steps[1]


@pytest.mark.parametrize(
    ("arguments", "classes", "n"),
    [
        (["--data.n_main", "20", "--data.classes", "{main: [3, 8], aux: 8}"], {"main": 2, "aux": 8}, 20),
        (["--data.classes", "{main: ['3', '8'], b: 4}", "--data.n.main", "30"], {"main": 2, "b": 4}, 30),
        (["--data.mean", "[.1, .2, .3]", "--data.std", ".5"], {"main": 2, "aux": 8}, None),
        (
            ["--data.augment", "lit_aux.data.RandomCropFlip", "--data.augment.padding", "2"],
            {"main": 2, "aux": 8},
            None,
        ),
    ],
)
def test_parses_from_the_command_line(arguments, classes, n):
    parser = ArgumentParser()
    parser.add_subclass_arguments(LightningDataModule, "data")
    parsed = parser.parse_args(["--data", "lit_aux.data.DigitsDataModule", *arguments])
    again = parser.parse_string(parser.dump(parsed))
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
    data = instantiate(again).data
    assert isinstance(data, DigitsDataModule)
    assert data.num_classes == classes
    assert data.n["main"] == n


def test_data_modules_can_be_printed() -> None:
    assert str(DigitsDataModule()) == "DigitsDataModule, outputs of its tasks: main: 2, aux: 8"
    assert str(ReLUTeacherDataModule()) == "ReLUTeacherDataModule, outputs of its tasks: main: 1, aux: 1"
