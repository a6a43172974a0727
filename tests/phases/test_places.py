"""A fit writes over its own files alone, and over none that it reads."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import seed_everything
from toys import ToyData, toy_module, toy_trainer

from lit_aux import report
from lit_aux.callbacks import TrajectoryLog, WiSEFT
from lit_aux.errors import ConfigurationError
from lit_aux.phases import PhaseCheckpoint, PhaseSettings

SHORT = PhaseSettings(max_epochs=1)


def fit(root: Path, *callbacks: Any, pretrained: Path | None = None, **options: Any) -> Any:
    seed_everything(3)
    given = {"pretrained": str(pretrained)} if pretrained else {"pretrain_settings": SHORT}
    model = toy_module(finetune_settings=SHORT, reestimate_batchnorm=False, **given)
    options = {"logger": False, "phase_store": False, "limit_val_batches": 0, **options}
    trainer = toy_trainer(root, callbacks=[PhaseCheckpoint(budget=1.0), *callbacks], **options)
    trainer.fit(model, datamodule=ToyData())
    return trainer


@pytest.mark.parametrize(
    "name",
    [
        *("summary.json", "summary.png", "results.csv", "measures.csv", "trajectory.csv", "wise_ft.csv"),
        *("checkpoints/pretrain.ckpt", "checkpoints/finetune.ckpt", "phases"),
    ],
)
def test_files_of_others_are_refused_before_training(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("a,b\n1,2\n")
    callback = {"trajectory.csv": TrajectoryLog, "wise_ft.csv": WiSEFT}.get(name)
    callbacks = [] if callback is None else [callback()]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigurationError, match=path.stem) as error:
        fit(tmp_path, *callbacks, phase_store=name == "phases")
    assert "\n" not in str(error.value)
    assert path.read_text() == "a,b\n1,2\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_what_it_wrote_before_is_replaced(tmp_path: Path) -> None:
    for _ in range(2):
        trainer = fit(tmp_path)
        report(trainer)
    assert (tmp_path / "results.csv").read_text().count("\n") >= 2


@pytest.mark.parametrize("how", ["as it is", "link", "dirpath"])
def test_the_network_that_it_starts_from_is_kept(how: str, tmp_path: Path) -> None:
    fit(tmp_path)
    file = tmp_path / "checkpoints" / "finetune.ckpt"
    before = file.read_bytes()
    options: dict[str, Any] = {"pretrained": file}
    root, extra = tmp_path, []
    if how == "link":
        (tmp_path / "link.ckpt").symlink_to(file)
        options["pretrained"] = tmp_path / "link.ckpt"
    if how == "dirpath":
        root, extra = tmp_path / "other", [PhaseCheckpoint(dirpath=str(file.parent))]
        options["logger"] = "csv"
    with pytest.raises(ConfigurationError, match=r"finetune\.ckpt: is what the command reads"):
        fit(root, *extra, **options)
    assert file.read_bytes() == before
    fit(tmp_path / "elsewhere", pretrained=file)
