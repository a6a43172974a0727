"""The row that a fit of a deep network writes, and when two fits are the same run."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.demos.boring_classes import BoringModel
from toys import TASKS, ToyData, toy_backbone, toy_module, toy_trainer

from lit_aux import PhaseSettings, report
from lit_aux.callbacks import RepresentationDimensionality, WeightRescaling
from lit_aux.cli import AuxiliaryCLI, main
from lit_aux.data import (
    CIFAR100DataModule,
    DigitsDataModule,
    FashionMNISTDataModule,
    ImageFolderDataModule,
    WordNetDataModule,
)
from lit_aux.errors import ConfigurationError
from lit_aux.experiments.fit_rows import experiment_of, found_rows, write_rows
from lit_aux.models import TimmBackbone, TransformersBackbone
from lit_aux.modules import AuxiliaryModule, MultiTaskModule, PretrainFinetuneModule, SingleTaskModule
from lit_aux.phases import Phase
from lit_aux.phases.phased import setup_of
from lit_aux.runs.table import COLUMNS, MEASURE_COLUMNS

LAYERS = ["net.backbone.0", "net.readout"]


class SizedData(ToyData):
    """Toy data that say how many there are."""

    def train_size(self, task: str) -> int:
        return self.n + len(task)


def fitted(
    root: Path,
    module: AuxiliaryModule | None = None,
    data: ToyData | None = None,
    seed: int = 3,
    **trainer: Any,
) -> tuple[AuxiliaryModule, Any]:
    """Return a module and its Trainer after a short fit."""
    seed_everything(seed)
    module = toy_module() if module is None else module
    found = toy_trainer(root, **{"phase_store": False, "logger": False, **trainer})
    found.fit(module, datamodule=data or SizedData())
    return module, found


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_row_of_a_fit_is_what_its_summary_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = RepresentationDimensionality(LAYERS, num_samples=20, picture=False)
    _, trainer = fitted(tmp_path, toy_module(rescale=0.5), callbacks=[measure], logger="csv")
    folder = report(trainer)
    summary = json.loads((folder / "summary.json").read_text())
    (row,) = read(folder / "results.csv")
    assert list(row) == list(COLUMNS)
    shown = ("experiment", "setup", "seed", "n_main", "rescale", "steps", "converged", "solver", "error")
    assert [row[name] for name in shown] == [
        "sizeddata-sequential", "PT+FT", "3", "28", "0.5", "6", "false", "", ""
    ]  # fmt: skip
    last = summary["phases"][-1]["metrics"]
    for column, metric in {
        "loss_final": "test_loss",
        "train_loss": "train_loss",
        "accuracy": "test_accuracy",
    }.items():
        assert float(row[column]) == last[f"main/{metric}"]
    assert float(row["seconds"]) == pytest.approx(sum(p["seconds"] for p in summary["phases"]), abs=0.06)
    assert row["loss_best"] == ""
    measures = read(folder / "measures.csv")
    assert list(measures[0]) == list(MEASURE_COLUMNS)
    assert {m["run"] for m in measures} == {row["run"]}
    values = {(m["phase"], m["layer"], m["measure"]): float(m["value"]) for m in measures}
    for layer in summary["layers"]:
        for name in ("pr_before", "pr_after", "ensd"):
            assert values[layer["phase"], layer["layer"], name] == layer[name]
    assert values["finetune", "", "main/val_accuracy"] == last["main/val_accuracy"]
    pretrained = summary["phases"][0]["metrics"]
    assert values["pretrain", "", "aux/test_accuracy"] == pretrained["aux/test_accuracy"]
    assert ("finetune", "", "main/test_accuracy") not in values
    steps = {p["name"]: str(p["steps"]) for p in summary["phases"]}
    assert all(m["step"] == steps[m["phase"]] for m in measures)
    text = capsys.readouterr().out
    assert str(folder / "results.csv") in text
    assert str(folder / "measures.csv") in text


def test_a_row_is_written_once(tmp_path: Path) -> None:
    module, trainer = fitted(tmp_path / "a")
    first = write_rows(module, trainer, tmp_path)
    before = Path(first["results"]).read_bytes()
    assert write_rows(module, trainer, tmp_path) == first
    assert Path(first["results"]).read_bytes() == before


def test_a_row_of_the_same_run_with_other_numbers_is_named(tmp_path: Path) -> None:
    module, trainer = fitted(tmp_path / "a")
    path = Path(write_rows(module, trainer, tmp_path)["results"])
    trainer.phase_results[-1].metrics["main/test_loss"] *= 1.005
    write_rows(module, trainer, tmp_path)
    before = path.read_bytes()
    trainer.phase_results[-1].metrics["main/test_loss"] *= 1.02
    with pytest.raises(ConfigurationError, match=rf"loss_final differs: .*{path}.* \(now\)"):
        write_rows(module, trainer, tmp_path)
    assert path.read_bytes() == before


def test_other_processes_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, trainer = fitted(tmp_path / "a")
    monkeypatch.setattr(type(trainer), "is_global_zero", False)
    assert write_rows(module, trainer, tmp_path / "b") == {}
    assert not (tmp_path / "b").exists()


def run_of(*args: Any, **kwargs: Any) -> str:
    rows, _ = found_rows(*fitted(*args, **kwargs))
    run: str = rows[0]["run"]
    return run


def settings(**options: Any) -> dict[str, Any]:
    """Return the options of a module whose finetuning has these settings."""
    return {"finetune_settings": PhaseSettings(**{"max_epochs": 2, **options})}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> str:
    return run_of(tmp_path_factory.mktemp("usual"))


def test_folder_logger_and_reuse_make_no_other_run(usual: str, tmp_path: Path) -> None:
    assert run_of(tmp_path / "a", logger="csv", phase_store=True) == usual
    assert run_of(tmp_path / "a", logger="csv", phase_store=True, enable_checkpointing=False) == usual


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"data": SizedData(n=32)},
        {"data": SizedData(batch=4)},
        {"max_epochs": 1},
        {"limit_train_batches": 1},
        {"gradient_clip_val": 1.0},
        {"module": {"rescale": 0.5}},
        {"module": {"rescale": 1.0, "rescale_preset": "weights"}},
        {"module": {"finetune": "probe"}},
        {"module": {"reestimate_batchnorm": False}},
        {"module": settings(optimizer=lambda p: torch.optim.SGD(p, lr=0.1))},
        {"module": settings(optimizer=lambda p: torch.optim.SGD(p, lr=0.2))},
        {
            "module": settings(
                optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
                lr_scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1),
            )
        },
        {"module": settings(stop_at_training_loss=1e-9)},
    ],
    ids=[
        "seed",
        "data size",
        "batch",
        "epochs",
        "batches",
        "clipping",
        "rescale",
        "preset",
        "probe",
        "batchnorm",
        "lr 0.1",
        "lr 0.2",
        "schedule",
        "threshold",
    ],
)
def test_whatever_decides_the_numbers_makes_another_run(
    change: dict[str, Any], usual: str, tmp_path: Path, seen: set[str]
) -> None:
    if "module" in change:
        change = {**change, "module": toy_module(**change["module"])}
    run = run_of(tmp_path, **change)
    assert run not in seen | {usual}
    seen.add(run)


@pytest.fixture(scope="module")
def seen() -> set[str]:
    return set()


def test_a_layer_of_another_option_makes_another_run(usual: str, tmp_path: Path) -> None:
    backbone = toy_backbone()
    backbone[3].p = 0.3  # type: ignore[index]
    backbone.num_features = 10  # type: ignore[assignment]
    limits = {
        "pretrain_settings": PhaseSettings(max_epochs=3),
        "finetune_settings": PhaseSettings(max_epochs=2),
    }
    assert run_of(tmp_path, PretrainFinetuneModule(backbone, TASKS, **limits)) != usual


def test_the_factor_of_a_phase_of_ones_own(tmp_path: Path) -> None:
    phases = [
        Phase(name="one", tasks=["aux"], max_epochs=1),
        Phase(name="two", tasks=["main"], max_epochs=1, callbacks=[WeightRescaling(0.25)]),
    ]
    rows, _ = found_rows(*fitted(tmp_path, SingleTaskModule(toy_backbone(), TASKS, phases=phases)))
    assert (rows[0]["setup"], rows[0]["rescale"]) == ("PT+FT", 0.25)


def test_a_run_that_reached_its_threshold_converged(tmp_path: Path) -> None:
    rows, _ = found_rows(*fitted(tmp_path, toy_module(**settings(stop_at_training_loss=100.0))))
    assert (rows[0]["converged"], rows[0]["rescale"]) == (True, 1.0)


def test_a_task_by_another_name(tmp_path: Path) -> None:
    data = SizedData(tasks=("left", "right"))
    module = SingleTaskModule(
        toy_backbone(), {"left": 2, "right": 2}, task="right", settings=PhaseSettings(max_epochs=1)
    )
    rows, measures = found_rows(*fitted(tmp_path, module, data))
    last = module.trainer.phase_results[-1].metrics  # type: ignore[attr-defined]
    assert rows[0]["accuracy"] == last["right/test_accuracy"]
    assert rows[0]["n_main"] == data.train_size("right") != data.train_size("left")
    assert "right/val_loss" in {measure["measure"] for measure in measures}


def test_a_strangers_module_has_no_row(tmp_path: Path) -> None:
    class Strange(BoringModel):
        """Lightning's own."""

    module: LightningModule = Strange()
    trainer = toy_trainer(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=1)
    trainer.fit(module)
    folder = report(trainer)
    assert (folder / "summary.json").is_file()
    assert not list(tmp_path.rglob("*.csv.lock")) + list(tmp_path.rglob("results.csv"))


@pytest.mark.parametrize(
    ("module", "setup"),
    [(SingleTaskModule, "STL"), (MultiTaskModule, "MTL"), (PretrainFinetuneModule, "PT+FT")],
)
def test_a_backbone_with_weights_of_its_own(module: Any, setup: str) -> None:
    tasks = {"main": 2, "aux": 2} if setup == "MTL" else {"main": 2}
    assert setup_of(module(toy_backbone(), tasks)) == setup


@pytest.mark.parametrize(
    ("data", "network", "expected"),
    [
        (DigitsDataModule, "resnet18", "digits-resnet18"),
        (CIFAR100DataModule, "resnet18.a1_in1k", "cifar100-resnet18"),
        (CIFAR100DataModule, "vit_small_patch16_224", "cifar100-vit"),
        (FashionMNISTDataModule, "vit_tiny_patch16_224.augreg_in21k", "fashion-vit"),
        (ImageFolderDataModule, "tf_efficientnet_lite0", "imagefolder-tf_efficientnet_lite0"),
        (ToyData, "convnext_tiny", "toydata-convnext_tiny"),
    ],
)
def test_experiments_are_named_by_data_and_network(data: Any, network: str, expected: str) -> None:
    backbone = TimmBackbone.__new__(TimmBackbone)
    torch.nn.Module.__init__(backbone)
    backbone.name, backbone.num_features = network, 4
    module = SingleTaskModule(backbone, {"main": 2})
    assert experiment_of(module, data.__new__(data)) == expected


def test_networks_of_transformers_go_by_the_type_of_their_model() -> None:
    small = {"model_type": "bert", "vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 1}
    backbone = TransformersBackbone({**small, "num_attention_heads": 1, "intermediate_size": 4})
    module = SingleTaskModule(backbone, {"main": 2})
    assert experiment_of(module, WordNetDataModule.__new__(WordNetDataModule)) == "wordnet-bert"


def test_the_command_line_writes_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"fit": AuxiliaryCLI.subcommands()["fit"]}  # building the other parsers takes a while
    monkeypatch.setattr(AuxiliaryCLI, "subcommands", staticmethod(lambda: found))
    monkeypatch.setattr("sys.argv", ["lit-aux"])  # lest Lightning warn of two command lines
    words = [
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--trainer.phase_store=false",
    ]
    words += [
        "--trainer.enable_model_summary=false",
        "--trainer.limit_train_batches=2",
        "--trainer.max_epochs=1",
    ]
    words += ["--model=lit_aux.modules.MultiTaskModule", "--model.backbone=lit_aux.models.TimmBackbone"]
    words += ["--model.backbone.name=test_resnet", "--data=lit_aux.data.DigitsDataModule", "--data.n_main=20"]
    words += [
        "--data.n_aux=64",
        "--data.n_test=40",
        "--seed_everything=5",
        f"--trainer.default_root_dir={tmp_path}",
    ]
    assert main(["fit", *words]) == 0
    (row,) = read(tmp_path / "version_0" / "results.csv")
    shown = [row[name] for name in ("experiment", "setup", "seed", "n_main", "rescale", "steps")]
    assert shown == ["digits-test_resnet", "MTL", "5", "20", "", "1"]
    assert {m["measure"] for m in read(tmp_path / "version_0" / "measures.csv")} >= {"aux/test_accuracy"}
