"""Files of predictions: what they hold, and what is refused."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from toys import FEATURES, ToyData, toy_backbone, toy_module, toy_trainer

from lit_aux.cli import main
from lit_aux.data import ArraysDataModule, DiagonalTeacherDataModule, ImageFolderDataModule
from lit_aux.errors import ConfigurationError
from lit_aux.models import DiagonalNet
from lit_aux.modules import MultiTaskModule, SingleTaskModule

CONFIG = Path(__file__).parents[2] / "configs" / "digits" / "mtl.yaml"
SMALL = [
    *("--model.backbone.name=test_resnet", "--data.n_main=20", "--data.n_aux=64", "--data.n_test=40"),
    *("--data.n_val=16", "--trainer.max_epochs=1", "--trainer.callbacks=null", "--trainer.accelerator=cpu"),
    "--trainer.enable_progress_bar=false",
]


def rows_of(path: str | Path) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_from_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    monkeypatch.setattr("sys.argv", ["lit-aux"])
    assert main(["fit", "--config", str(CONFIG), *SMALL]) == 0, capsys.readouterr().err
    run = Path("runs/version_0")
    words = ["predict", "--config", str(run / "config.yaml")]
    (checkpoint,) = (run / "checkpoints").iterdir()
    words.append(f"--ckpt_path={checkpoint}")
    assert main([*words, "--output=out/predictions.csv"]) == 0, capsys.readouterr().err
    rows = rows_of("out/predictions.csv")
    metrics = json.loads((run / "summary.json").read_text())["phases"][-1]["metrics"]
    for task, others in (("main", "aux"), ("aux", "main")):
        own = [row for row in rows if row["task"] == task]
        assert [row["input"] for row in own] == [str(i) for i in range(40)]
        share = np.mean([row["label"] == row["prediction"] for row in own])
        assert share == pytest.approx(metrics[f"{task}/test_accuracy"])
        columns = [name for name in own[0] if name.startswith(f"{task}/")]
        assert {row["label"] for row in own} <= {name.partition("/")[2] for name in columns}
        for row in own:
            chances = {name: float(row[name]) for name in columns}
            assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
            assert max(chances, key=chances.__getitem__) == f"{task}/{row['prediction']}"
            assert not any(value for name, value in row.items() if name.startswith(f"{others}/"))
    before = Path("out/predictions.csv").read_bytes()
    assert main([*words, "--output=out/predictions.csv"]) == 0, "its own earlier output may be replaced"
    assert Path("out/predictions.csv").read_bytes() == before
    assert [path.name for path in Path("out").iterdir()] == ["predictions.csv"]
    capsys.readouterr()
    for place, said in (
        ("p.txt", "must end in .csv"),
        (f"{checkpoint}", "must end in .csv"),
        (str(run / "results.csv"), "is there already, and is no table of predictions"),
    ):
        assert main([*words, f"--output={place}"]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("lit-aux: error: --output")
        assert said in error
        assert place in error


def test_arrays_and_tables_agree(tmp_path: Path) -> None:
    model, trainer, data = toy_module(), toy_trainer(tmp_path), ToyData(n=10, batch=4)
    logits: Any = trainer.predict(model, data.test_dataloader(), return_predictions=True, output="p.npz")
    trainer.predict(model, data.test_dataloader(), output="p.csv")
    found, rows = np.load("p.npz"), rows_of("p.csv")
    for task in ("main", "aux"):
        outputs = torch.cat([batch[task] for batch in logits])
        np.testing.assert_array_equal(found[f"{task}/outputs"], outputs)
        np.testing.assert_array_equal(found[f"{task}/predictions"], outputs.argmax(1))
        np.testing.assert_allclose(found[f"{task}/probabilities"], outputs.softmax(1), rtol=1e-5)
        items = data.test_dataloader().dataset.items[task]  # type: ignore[attr-defined]
        np.testing.assert_array_equal(found[f"{task}/labels"], items[1])
        np.testing.assert_array_equal(found[f"{task}/inputs"], np.arange(10))
        own = [row for row in rows if row["task"] == task]
        assert [int(row["prediction"]) for row in own] == found[f"{task}/predictions"].tolist()
        assert [float(row[f"{task}/1"]) for row in own] == pytest.approx(found[f"{task}/probabilities"][:, 1])
    assert list(rows[0]) == ["task", "input", "label", "prediction", "main/0", "main/1", "aux/0", "aux/1"]


class Tagged(Dataset[dict[str, tuple[Tensor, Tensor]]]):
    """Points with labels of any kind."""

    def __init__(self, **labels: Tensor) -> None:
        self.labels = labels
        self.x = torch.randn(5, FEATURES, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return 5

    def __getitem__(self, i: int) -> dict[str, tuple[Tensor, Tensor]]:
        return {task: (self.x[i], y[i]) for task, y in self.labels.items()}


def test_every_answer_has_its_row(tmp_path: Path) -> None:
    labels = {
        "kind": torch.tensor([0, 1, 2, -100, 0]),
        "marks": torch.tensor([[0, 1], [1, -100], [0, 0], [1, 1], [-100, -100]]),
        "size": torch.tensor([0.5, torch.nan, 2.0, -100.0, 1.0]),
    }
    losses = {"kind": nn.CrossEntropyLoss(), "marks": nn.BCEWithLogitsLoss(), "size": nn.MSELoss()}
    model = MultiTaskModule(toy_backbone(), {"kind": 3, "marks": 2, "size": 1}, losses=losses)
    toy_trainer(tmp_path).predict(model, DataLoader(Tagged(**labels), batch_size=2), output="p.csv")
    rows = rows_of("p.csv")
    assert list(rows[0])[:5] == ["task", "input", "output", "label", "prediction"]
    assert list(rows[0])[5:] == ["kind/0", "kind/1", "kind/2", "marks/1"], "values have no probability"
    told = {
        task: [(r["input"], r["output"], r["label"]) for r in rows if r["task"] == task] for task in labels
    }
    assert told["kind"] == [("0", "", "0"), ("1", "", "1"), ("2", "", "2"), ("3", "", ""), ("4", "", "0")]
    assert told["marks"][:4] == [("0", "0", "0"), ("0", "1", "1"), ("1", "0", "1"), ("1", "1", "")]
    assert told["size"][:4] == [("0", "", "0.5"), ("1", "", ""), ("2", "", "2"), ("3", "", "-100")]
    for row in rows:
        if row["task"] == "marks":
            assert row["prediction"] == str(int(float(row["marks/1"]) > 0.5))


class Dense(SingleTaskModule):
    """Outputs for each of six pixels."""

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        logits = super().predict_step(batch, batch_idx)["main"]
        return {"main": torch.stack([logits * k for k in range(-2, 4)], 2).unflatten(2, (2, 3))}


def test_dense_outputs_are_arrays(tmp_path: Path) -> None:
    labels = torch.randint(0, 2, (5, 2, 3), generator=torch.Generator().manual_seed(1))
    loader = DataLoader(Tagged(main=labels), batch_size=2)
    model, trainer = Dense(toy_backbone(), {"main": 2}), toy_trainer(tmp_path)
    trainer.predict(model, loader, output="p.npz")
    found = np.load("p.npz")
    shapes = {name.partition("/")[2]: found[name].shape for name in found}
    assert shapes == {
        "inputs": (5,),
        "outputs": (5, 2, 2, 3),
        "predictions": (5, 2, 3),
        "probabilities": (5, 2, 2, 3),
        "labels": (5, 2, 3),
    }
    np.testing.assert_array_equal(found["main/labels"], labels)
    np.testing.assert_array_equal(found["main/predictions"], found["main/outputs"].argmax(1))
    with pytest.raises(ConfigurationError, match=r"'p.csv' has a row for each input.*\(2, 2, 3\).*\.npz"):
        trainer.predict(model, loader, output="p.csv")
    assert not Path("p.csv").exists()


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_have_the_names_of_their_files(in_memory: bool, tmp_path: Path) -> None:
    for part, count in (("train", 3), ("test", 2)):
        for name in ("cat", "=dog"):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((8, 8, 3), number, dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / part / name / f"{part}{number}.png")
    data = ImageFolderDataModule(
        "photos", in_memory=in_memory, num_workers=0, size=8, eval_batch_size=3, n_val=0
    )
    model = SingleTaskModule(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), data.num_classes, num_features=4)
    trainer = toy_trainer(tmp_path)
    trainer.predict(model, datamodule=data, output="p.csv")
    rows = rows_of("p.csv")
    expected = [(f"test/{name}/test{number}.png", name) for name in ("=dog", "cat") for number in range(2)]
    assert [(row["input"], row["label"].removeprefix("'")) for row in rows] == expected
    assert list(rows[0])[4:] == ["main/=dog", "main/cat"]
    trainer.predict(model, datamodule=data, output="p.npz")
    found = np.load("p.npz")
    assert found["main/inputs"].tolist() == [name for name, _ in expected]
    assert found["main/classes"].tolist() == ["=dog", "cat"]
    assert found["main/labels"].tolist() == [0, 0, 1, 1]


def test_inputs_without_labels(tmp_path: Path) -> None:
    x = torch.randn(5, FEATURES)
    toy_trainer(tmp_path).predict(toy_module(), DataLoader(x, batch_size=2), output="p.csv")
    rows = rows_of("p.csv")
    assert [(row["task"], row["input"], row["label"]) for row in rows] == [
        (task, str(i), "") for task in ("main", "aux") for i in range(5)
    ]


class Stream(IterableDataset[Tensor]):
    """Points that have no number."""

    def __iter__(self) -> Any:
        return iter(torch.randn(5, FEATURES))


def test_inputs_of_a_stream_are_counted(tmp_path: Path) -> None:
    toy_trainer(tmp_path).predict(toy_module(), DataLoader(Stream(), batch_size=2), output="p.csv")
    assert [row["input"] for row in rows_of("p.csv")] == [str(i) for i in range(5)] * 2


def test_inputs_of_several_loaders(tmp_path: Path) -> None:
    loaders = [DataLoader(torch.randn(n, FEATURES), batch_size=2) for n in (3, 2)]
    toy_trainer(tmp_path).predict(toy_module(), loaders, output="p.csv")
    found = [row["input"] for row in rows_of("p.csv") if row["task"] == "main"]
    assert found == ["0/0", "0/1", "0/2", "1/0", "1/1"]


def test_outputs_of_several_sizes(tmp_path: Path) -> None:
    class Growing(Dense):
        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return {"main": super().predict_step(batch, batch_idx)["main"][..., : batch_idx + 1]}

    loader = DataLoader(torch.randn(4, FEATURES), batch_size=2)
    model = Growing(toy_backbone(), {"main": 2})
    model.way.predict = lambda batch: {"main": model(batch, "main")}  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError, match=r"outputs of task 'main' are of shapes .* no array"):
        toy_trainer(tmp_path).predict(model, loader, output="p.npz")
    assert not Path("p.npz").exists()


class Plain(LightningModule):
    """A stranger's module."""

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return torch.zeros(len(batch))


class Unnamed(SingleTaskModule):
    """Gives outputs without their task."""

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self(batch, "main")


def students() -> Any:
    return SingleTaskModule(DiagonalNet(init_scale=0.1), DiagonalTeacherDataModule(n_main=4).num_classes)


@pytest.mark.parametrize(
    ("build", "output", "said"),
    [
        (toy_module, "p", "'p' must end in .csv, or in .npz"),
        (toy_module, "", "must end in .csv"),
        (toy_module, "notes.csv", "is there already, and is no table of predictions"),
        (toy_module, "notes.npz", "is there already, and is no archive of predictions"),
        (toy_module, "notes.csv/p.csv", "lies in notes.csv, which is a file"),
        (toy_module, "folder.csv", "is a folder"),
        (Plain, "p.csv", "Plain has no method answers"),
        (lambda: Unnamed(toy_backbone(), {"main": 2}), "p.csv", r"must give \{task: outputs\}"),
        (students, "p.csv", "what students predict"),
    ],
)
def test_what_is_refused(build: Callable[[], Any], output: str, said: str, tmp_path: Path) -> None:
    Path("notes.csv").write_text("a,b\n1,2\n")
    Path("notes.npz").write_text("mine")
    Path("folder.csv").mkdir()
    trainer = toy_trainer(tmp_path, logger=False)
    before = list(trainer.callbacks)  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match=said) as refused:
        trainer.predict(build(), DataLoader(torch.randn(4, FEATURES), batch_size=2), output=output)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("output")
    assert {path.name for path in tmp_path.iterdir()} == {"notes.csv", "notes.npz", "folder.csv"}
    assert Path("notes.csv").read_text() == "a,b\n1,2\n"
    assert trainer.callbacks == before  # type: ignore[attr-defined]


def test_a_checkpoint_is_no_place_for_predictions(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, max_epochs=1)
    data = ToyData()
    trainer.fit(toy_module(), datamodule=data)
    Path(str(trainer.phase_results[-1].checkpoint)).rename("c.npz")
    content = Path("c.npz").read_bytes()
    with pytest.raises(ConfigurationError, match=r"c\.npz: is what the command reads"):
        trainer.predict(toy_module(), data.test_dataloader(), ckpt_path="c.npz", output="./c.npz")
    assert Path("c.npz").read_bytes() == content
    with pytest.raises(ConfigurationError, match="limit_predict_batches: 0 predicts nothing"):
        toy_trainer(tmp_path, limit_predict_batches=0).predict(
            toy_module(), data.test_dataloader(), output="p.csv"
        )


def test_values_are_in_the_units_of_the_arrays_and_inputs_their_rows(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=draw)
    y = 1000 + 50 * x[:, 0]
    data = ArraysDataModule({"main": (x, y)}, standardize_targets=True, seed=1)
    module = SingleTaskModule(nn.Linear(3, 4), data.task_types, num_features=4)
    toy_trainer(tmp_path, logger=False).predict(module, datamodule=data, output=str(tmp_path / "p.csv"))
    rows = rows_of(tmp_path / "p.csv")
    assert [int(row["input"]) for row in rows] == data.samples("test", "main").rows.tolist()
    for row in rows:
        here = int(row["input"])
        assert float(row["label"]) == pytest.approx(float(y[here]), rel=1e-5)
        with torch.no_grad():
            outputs = module(x[here : here + 1], "main")[:, 0]
        assert float(row["prediction"]) == pytest.approx(float(data.in_units("main", outputs)), rel=1e-5)
