"""What loggers get of a run: checkpoints, pictures, tables, and a folder for each run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger
from PIL import Image
from toys import FEATURES, ToyData, toy_module, toy_trainer

from lit_aux import report
from lit_aux.callbacks import RepresentationDimensionality, WiSEFT
from lit_aux.phases import PhaseCheckpoint


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home"))
    for name in ("WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)


class FakeRun:
    """Keeps what a W&B run is given."""

    def __init__(self, name: str = "abc") -> None:
        self.id, self.name = name, name
        self.logged: list[dict[str, Any]] = []
        self.kept: list[tuple[str, int]] = []
        self.config = self.summary = SimpleNamespace(update=lambda *_, **__: None)

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def log_artifact(self, artifact: Any, aliases: list[str]) -> None:
        (entry,) = artifact.manifest.entries.values()
        self.kept.append((artifact.metadata["original_filename"], entry.size))

    def of(self, name: str) -> list[Any]:
        return [values[name] for values in self.logged if name in values]


def wandb_logger(run: FakeRun, **options: Any) -> WandbLogger:
    return WandbLogger(experiment=run, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("log_model", [True, "all", False])
def test_wandb_keeps_the_checkpoint_of_each_phase(log_model: Any, tmp_path: Path) -> None:
    run = FakeRun()
    every_epoch = PhaseCheckpoint(budget=1)
    trainer = toy_trainer(
        tmp_path, logger=wandb_logger(run, log_model=log_model, save_dir="w"), callbacks=[every_epoch]
    )
    trainer.fit(toy_module(), datamodule=ToyData())
    sizes = {f"{r.name}.ckpt": Path(str(r.checkpoint)).stat().st_size for r in trainer.phase_results}
    found = [name for name, _ in run.kept]
    if not log_model:
        assert found == []
    elif log_model is True:
        assert run.kept == [*sizes.items()], "of the ends alone"
    else:  # of three and two epochs, and of the ends
        assert found == ["pretrain.ckpt"] * 4 + ["finetune.ckpt"] * 3
        assert {(name, size) for name, size in run.kept} >= {*sizes.items()}


def test_a_phase_from_the_store_is_kept_too(tmp_path: Path) -> None:
    for expected in (False, True):
        run = FakeRun(f"run{expected}")
        seed_everything(0, verbose=False)
        trainer = toy_trainer(tmp_path, logger=wandb_logger(run, log_model=True, save_dir="w"))
        trainer.fit(toy_module(), datamodule=ToyData())
        assert trainer.phase_results[0].reused is expected
        assert [name for name, _ in run.kept] == ["pretrain.ckpt", "finetune.ckpt"]


def test_each_run_has_its_own_folder(tmp_path: Path) -> None:
    folders = []
    for name in ("one", "two"):
        trainer = toy_trainer(tmp_path, logger=wandb_logger(FakeRun(name), save_dir="w"), max_epochs=1)
        trainer.fit(toy_module(), datamodule=ToyData())
        folders.append(report(trainer))
    assert folders == [Path("w/lightning_logs/one"), Path("w/lightning_logs/two")]
    for folder in folders:
        assert {path.name for path in folder.iterdir()} >= {"summary.json", "results.csv", "checkpoints"}
        names = sorted(path.name for path in (folder / "checkpoints").iterdir())
        assert names == ["finetune.ckpt", "pretrain.ckpt"]


def test_wandb_gets_pictures_and_tables(tmp_path: Path) -> None:
    import wandb

    run = FakeRun()
    callbacks = [RepresentationDimensionality(num_samples=16)]
    trainer = toy_trainer(tmp_path, logger=wandb_logger(run, save_dir="w"), callbacks=callbacks)
    module = toy_module()
    examples = {"main": (torch.randn(8, FEATURES), torch.arange(8) % 2)}
    data = {"train": examples, "val": examples, "test": examples}
    module.phases[-1].callbacks.append(WiSEFT([0, 1], data=data))
    trainer.fit(module, datamodule=ToyData())
    for phase in ("pretrain", "finetune"):
        (table,) = run.of(f"{phase}/layers")
        assert isinstance(table, wandb.Table)
        assert table.columns == [
            *("layer", "pr_before", "pr_after", "ensd", "pr_ratio", "ensd_ratio", "verdict", "note")
        ]
        rows = [row for row in callbacks[0].results if row.phase == phase]
        assert [line[0] for line in table.data] == [row.layer for row in rows]
        assert [line[2] for line in table.data] == pytest.approx([row.pr_after for row in rows])
        assert [line[6] for line in table.data] == [row.shown_verdict for row in rows]
        ((picture,),) = run.of(f"{phase}/dimensionality")
        assert isinstance(picture, wandb.Image)
    assert len(run.of("finetune/wise_ft")) == 1


def test_an_offline_run_holds_them(tmp_path: Path) -> None:
    import wandb

    callbacks = [RepresentationDimensionality(num_samples=16)]
    trainer = toy_trainer(tmp_path / "runs", logger="wandb", callbacks=callbacks, max_epochs=1)
    trainer.fit(toy_module(), datamodule=ToyData())
    wandb.finish()
    media = [path.relative_to(tmp_path).as_posix() for path in (tmp_path / "runs").rglob("media/**/*.*")]
    for part in ("images/finetune/dimensionality", "table/finetune/layers"):
        assert any(f"media/{part}" in path for path in media), media


def test_tensorboard_gets_pictures(tmp_path: Path) -> None:
    import io

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    callbacks = [RepresentationDimensionality(num_samples=16)]
    logger = TensorBoardLogger("t", name="", version="one")
    trainer = toy_trainer(tmp_path, logger=logger, callbacks=callbacks, max_epochs=2)
    trainer.fit(toy_module(), datamodule=ToyData())
    events = EventAccumulator("t/one")
    events.Reload()
    assert {*events.Tags()["images"]} == {"pretrain/dimensionality", "finetune/dimensionality"}
    (shown,) = events.Images("finetune/dimensionality")
    assert shown.step == 12, "where the other values of the fit's end are"
    with Image.open("t/one/finetune_dimensionality.png") as drawn:
        expected = np.asarray(drawn.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(shown.encoded_image_string))), expected)


class Failing(Logger):
    """Takes numbers; its pictures fail."""

    name, version = "failing", "0"  # type: ignore[assignment]

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        pass

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        pass

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        raise RuntimeError("no pictures today")


def test_a_logger_that_fails_ends_no_fit(tmp_path: Path) -> None:
    callbacks = [RepresentationDimensionality(num_samples=16)]
    trainer = toy_trainer(tmp_path, logger=Failing(), callbacks=callbacks, max_epochs=1)
    with pytest.warns(UserWarning, match="no pictures today"):
        trainer.fit(toy_module(), datamodule=ToyData())
    assert len(trainer.phase_results) == 2
