"""Every kind of task in arrays of one's own, through each way of training; metrics against scikit-learn's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arrays_helpers import Kind, kinds
from lightning.pytorch import Callback, seed_everything
from sklearn import metrics as sk
from torch import Tensor
from toys import toy_trainer

from lit_aux import PhaseSettings, report
from lit_aux.callbacks import GradientConflict, RepresentationDimensionality
from lit_aux.cli import main
from lit_aux.data import ArraysDataModule
from lit_aux.experiments import ResultsTable
from lit_aux.models import MLP
from lit_aux.modules import AuxiliaryModule, MultiTaskModule, PretrainFinetuneModule, SingleTaskModule

SETTINGS = PhaseSettings(max_epochs=2, optimizer=lambda p: torch.optim.Adam(p, lr=0.02))


def module_of(setup: str, kind: Kind) -> AuxiliaryModule:
    seed_everything(1)
    backbone = kind.backbone()
    if setup == "STL":
        return SingleTaskModule(backbone, kind.tasks, settings=SETTINGS)
    if setup == "MTL":
        return MultiTaskModule(backbone, kind.tasks, settings=SETTINGS)
    options: dict[str, Any] = {"pretrain_settings": SETTINGS, "finetune_settings": SETTINGS}
    options |= {"finetune": "probe"} if setup == "LP" else {"rescale": 0.5}
    return PretrainFinetuneModule(backbone, kind.tasks, **options)


def data_of(kind: Kind, **options: Any) -> ArraysDataModule:
    return ArraysDataModule(kind.arrays, kind.tasks, **{"batch_size": 16, "n_val": 10, "seed": 0, **options})


@torch.no_grad()
def by_scikit_learn(module: AuxiliaryModule, data: ArraysDataModule, kind: str) -> dict[str, float]:
    """Return the metrics of the main task on its test rows."""
    samples = data.samples("test", "main")
    outputs: Tensor = module.eval().net(samples.inputs, "main")
    y = samples.labels
    if kind == "regression":
        pairs = [(y[:, c], outputs[:, c]) for c in range(2)] if y.ndim > 1 else [(y, outputs[:, 0])]
        known = [(t[~t.isnan()].numpy(), o[~t.isnan()].numpy()) for t, o in pairs]
        together = [np.concatenate(part) for part in zip(*known, strict=True)]
        return {
            "r2": float(np.mean([sk.r2_score(*pair) for pair in known])),
            "mae": float(sk.mean_absolute_error(*together)),
        }
    if kind == "multilabel":
        known = [(y[:, c][~y[:, c].isnan()], outputs[:, c][~y[:, c].isnan()] > 0) for c in range(y.shape[1])]
        return {"f1": float(np.mean([sk.f1_score(t, o) for t, o in known]))}
    found = outputs.argmax(1)[y != -100]
    y = y[y != -100]
    scores = {"accuracy": sk.accuracy_score(y, found)}
    return scores | ({"iou": sk.jaccard_score(y, found, average="macro")} if kind == "dense" else {})


@pytest.mark.parametrize("name", kinds())
def test_each_kind_in_each_setup(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind = kinds()[name]
    task = kind.tasks["main"].kind
    for setup in ("STL", "MTL", "PT+FT", "LP"):
        measure = RepresentationDimensionality(num_samples=20, picture=False)
        trainer = toy_trainer(tmp_path / setup, callbacks=[measure], logger=False, enable_checkpointing=False)
        module, data = module_of(setup, kind), data_of(kind)
        trainer.fit(module, datamodule=data)
        layers = {row.layer for row in measure.results}
        assert layers > {"net.readout"}, setup
        if isinstance(module.net.backbone, MLP):
            assert layers == {"net.backbone.hidden1", "net.backbone.hidden2", "net.readout"}
        found = trainer.phase_results[-1].metrics
        expected = by_scikit_learn(module, data, task)
        assert {*expected} == {*kind.metrics}
        for metric, value in expected.items():
            assert found[f"main/test_{metric}"] == pytest.approx(value, abs=1e-5), (setup, metric)
            assert f"main/val_{metric}" in found
        assert ("aux/test_accuracy" in found) == (setup == "MTL")
    report(trainer)
    text = capsys.readouterr().out
    assert all(metric in text for metric in kind.metrics)
    rows = (tmp_path / "LP" / "measures.csv").read_text()
    assert "accuracy" in kind.metrics or f"main/test_{kind.metrics[0]}" in rows


def test_without_test_rows(tmp_path: Path) -> None:
    kind = kinds()["classification"]
    trainer = toy_trainer(tmp_path, logger=False, enable_checkpointing=False)
    trainer.fit(module_of("PT+FT", kind), datamodule=data_of(kind, test_fraction=0, n_val=0))
    assert [*trainer.phase_results[-1].metrics] == ["main/train_loss", "main/train_accuracy"]
    report(trainer)


class Killed(BaseException):
    """In place of a signal."""


class Dying(Callback):
    """Ends the fit in the middle of an epoch of finetuning."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.phase.name == "finetune" and trainer.global_step == 4:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "middle.ckpt")
            raise Killed


@pytest.mark.parametrize("name", ["dict", "dense"])
def test_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    kind = kinds()[name]

    def run(folder: str, *callbacks: Callback, **options: Any) -> tuple[dict[str, Tensor], Any]:
        trainer = toy_trainer(tmp_path / folder, callbacks=[*callbacks], logger=False)
        module = module_of("PT+FT", kind)
        trainer.fit(module, datamodule=data_of(kind, standardize=name == "dict"), **options)
        return module.state_dict(), trainer.phase_results[-1]

    whole, result = run("whole")
    with pytest.raises(Killed):
        run("killed", Dying())
    again, after = run("killed", ckpt_path=str(tmp_path / "killed" / "middle.ckpt"))
    assert all(torch.equal(whole[key], value) for key, value in again.items())
    told = {name: value for name, value in result.metrics.items() if "/train_" not in name}
    assert told == {name: after.metrics[name] for name in told}, "the epoch's mean over training steps aside"


def test_pretraining_is_found_again(tmp_path: Path) -> None:
    kind = kinds()["dict"]

    def run(**options: Any) -> bool:
        trainer = toy_trainer(tmp_path, phase_store=str(tmp_path / "store"), logger=False)
        module = module_of("PT+FT", kind)
        trainer.fit(module, datamodule=data_of(kind, **options))
        return bool(trainer.phase_results[0].reused)

    assert not run()
    assert run(n_main=20), "the number of main rows does not concern pretraining"
    assert not run(n_aux=20)
    assert not run(standardize=True)
    assert run(standardize=True, n_main=20)


def test_diagnostics_join_dicts(tmp_path: Path) -> None:
    kind = kinds()["dict"]
    measure = GradientConflict(num_samples=30, every_n_steps=1)
    trainer = toy_trainer(tmp_path, callbacks=[measure], logger=False, enable_checkpointing=False)
    trainer.fit(module_of("MTL", kind), datamodule=data_of(kind, eval_batch_size=8))
    assert measure.results


def test_a_class_of_arrays_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page's own file, with a configuration of another table."""
    root = Path(__file__).parents[2]
    page = (root / "docs" / "how-to" / "own-arrays.md").read_text()
    file = next(block for block in page.split("```python\n") if block.startswith("# my_table.py"))
    Path("my_table.py").write_text(file.partition("```")[0])
    monkeypatch.setattr("sys.argv", ["lit-aux"])
    words = ["fit", "--config", str(root / "configs/tabular/ptft.yaml"), "--data=my_table.MyTable"]
    words += ["--data.n_main=20", "--data.batch_size=16", "--trainer.max_epochs=1", "--trainer.logger=false"]
    words += ["--trainer.enable_progress_bar=false", "--trainer.phase_store=false"]
    assert main(words) == 0, capsys.readouterr().err
    text = capsys.readouterr().out
    assert all(word in text for word in ("hidden1", "hidden2", "readout", "r2", "mae", "accuracy"))
    rows = Path("results.csv") if Path("results.csv").is_file() else Path("runs/results.csv")
    with ResultsTable(rows) as table:
        (row,) = table.rows()
        measures = {measure["measure"] for measure in table.measures()}
    assert (row["experiment"], row["setup"], row["n_main"]) == ("mytable-mlp", "PT+FT", "20")
    assert {"main/test_r2", "main/test_mae", "aux/test_accuracy"} <= measures
    assert main(["table", str(rows), "--value", "main/test_r2"]) == 0
    assert "main/test_r2" in capsys.readouterr().out
