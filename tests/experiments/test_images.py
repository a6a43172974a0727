"""Image experiments: the configuration that each run fits, and the row that comes of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_configs import make_fashion

from lit_aux.cli import AuxiliaryCLI, main
from lit_aux.errors import ConfigurationError, NonFiniteLossError
from lit_aux.experiments import Options, ResultsTable, reproduce

LAYER = {"run": "own", "phase": "finetune", "step": 7, "layer": "layer4"}
MEASURES = [
    {**LAYER, "measure": "pr_before", "value": 5.0},
    {**LAYER, "measure": "pr_after", "value": 4.0},
]


class Fit:
    """Stands for ``lit-aux fit``: keeps the configuration and writes a row, whose place is not the grid's."""

    def __init__(self) -> None:
        self.configs: list[dict[str, Any]] = []
        self.arguments: list[list[str]] = []
        self.diverges = self.strange = False

    def __call__(self, words: list[str]) -> None:
        assert words[:2] == ["fit", "--config"]
        self.configs.append(yaml.safe_load(Path(words[2]).read_text()))
        self.arguments.append(words[3:])
        if self.diverges:
            raise NonFiniteLossError("finetune: the loss is nan")
        folder = Path(self.configs[-1]["trainer"]["default_root_dir"]) / "version_0"
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text("{}")
        if self.strange:
            return
        row = {"run": "own", "experiment": "x", "setup": "MTL", "seed": 77, "n_main": 78, "rescale": 79}
        row |= {"accuracy": 0.75, "loss_final": 0.5, "train_loss": 0.009, "steps": 7, "seconds": 3.0}
        with ResultsTable(folder / "results.csv") as table:
            table.append([row | {"converged": True}], MEASURES)


def test_a_run_is_a_fit_of_its_configuration(tmp_path: Path) -> None:
    fit = Fit()
    out, options = tmp_path / "t" / "results.csv", Options(device="cpu", max_steps=9)
    choice: dict[str, Any] = {"setups": ["PT+FT"], "seeds": [0, 3], "n_main": 20, "rescale": [0.25, 1]}
    assert reproduce("fashion-resnet18", **choice, out=out, options=options, fit=fit, fit_arguments=["--a=1"])
    assert [(c["seed_everything"], c["model"]["init_args"]["rescale"]) for c in fit.configs] == [
        (0, 0.25), (3, 0.25), (0, 1.0), (3, 1.0)
    ]  # fmt: skip
    config = fit.configs[0]
    assert config["data"]["init_args"]["n_main"] == 20
    assert config["model"]["init_args"]["finetune_settings"]["stop_at_training_loss"] == 0.01
    trainer = {key: config["trainer"][key] for key in ("accelerator", "devices", "max_steps", "phase_store")}
    assert trainer == {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": 9,
        "phase_store": str(out.parent / "phases"),
    }
    assert fit.arguments == [["--a=1"]] * 4
    with ResultsTable(out) as table:
        row, measures = table.rows()[0], table.measures()
    shown = ("setup", "seed", "n_main", "rescale", "accuracy", "loss_final", "steps", "converged", "seconds")
    assert [row[name] for name in shown] == ["PT+FT", "0", "20", "0.25", "0.75", "0.5", "7", "true", "3.0"]
    assert row["loss_best"] == row["overlap"] == ""
    first = [(m["phase"], m["step"], m["layer"], m["measure"], m["value"]) for m in measures[:2]]
    assert first == [
        ("finetune", "7", "layer4", "pr_before", "5.0"),
        ("finetune", "7", "layer4", "pr_after", "4.0"),
    ]
    assert len(measures) == 8
    assert reproduce("fashion-resnet18", **choice, out=out, options=options, fit=fit, fit_arguments=["--a=1"])
    assert len(fit.configs) == 4


@pytest.mark.parametrize("network", ["resnet18", "vit"])
def test_cifar_is_as_published(network: str) -> None:
    fit = Fit()
    assert reproduce(f"cifar100-{network}", seeds=0, n_main=10, rescale=[0.5], fit=fit)
    kinds = [config["model"]["class_path"].rpartition(".")[2] for config in fit.configs]
    assert kinds == [
        "SingleTaskModule",
        "MultiTaskModule",
        "PretrainFinetuneModule",
        "PretrainFinetuneModule",
    ]
    models = [config["model"]["init_args"] for config in fit.configs]
    assert [model.get("schedule") for model in models] == [None, "published", None, None]
    assert [model.get("rescale") for model in models] == [None, None, 0.5, None]
    assert [model.get("finetune") for model in models] == [None, None, None, "probe"]
    assert not any(model["reestimate_batchnorm"] for model in models)
    expected = {"center": False, "batchnorm": "train"} if network == "resnet18" else {"center": False}
    for config in fit.configs:
        assert config["trainer"]["callbacks"][0]["init_args"] == expected


def test_a_fit_that_writes_no_row() -> None:
    fit = Fit()
    fit.strange = True
    with pytest.raises(ConfigurationError, match="must be one of lit_aux"):
        reproduce("fashion-vit", setups="STL", seeds=0, n_main=20, fit=fit)


def test_a_run_that_cannot_be_saved_has_a_row() -> None:
    fit = Fit()
    fit.diverges = True
    assert reproduce("fashion-vit", setups="STL", seeds=0, n_main=20, fit=fit)
    with ResultsTable("runs/fashion-vit/results.csv") as table:
        (row,) = table.rows()
    assert (row["converged"], row["accuracy"]) == ("false", "")


@pytest.fixture
def only_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"fit": AuxiliaryCLI.subcommands()["fit"]}  # building the other parsers takes a while
    monkeypatch.setattr(AuxiliaryCLI, "subcommands", staticmethod(lambda: found))
    monkeypatch.setattr("sys.argv", ["lit-aux"])  # lest Lightning warn of two command lines


@pytest.mark.usefixtures("only_fit")
def test_cifar_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--setups", "STL", "--seeds", "0", "--n-main", "10", "--device", "cpu", "--"]
    words += ["--model.backbone.name=test_resnet", "--trainer.callbacks=null"]
    assert main(["reproduce", "cifar100-resnet18", *words]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("lit-aux: error: --data.root data: there is no CIFAR-100")
    assert not list(Path.cwd().rglob("*"))


@pytest.mark.usefixtures("only_fit")
def test_a_real_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patch: Callable[..., None] = monkeypatch.setattr
    make_fashion(tmp_path / "data", patch)
    words = ["--setups", "STL", "--seeds", "0", "--n-main", "4", "--device", "cpu", "--max-steps", "2", "--"]
    words += [
        f"--data.root={tmp_path}/data",
        "--data.n_val=4",
        "--data.n_aux=16",
        "--model.backbone.name=test_resnet",
    ]
    words += [
        "--trainer.callbacks=null",
        "--trainer.enable_model_summary=false",
        "--model.reestimate_batchnorm=false",
    ]
    assert main(["reproduce", "fashion-resnet18", *words]) == 0
    with ResultsTable("runs/fashion-resnet18/results.csv") as table:
        (row,) = table.rows()
    assert 0 <= float(row["accuracy"]) <= 1
    assert (row["steps"], row["n_main"], row["converged"]) == ("2", "4", "false")
