"""Deep networks at several factors: what is fitted, what is not fitted again, and what is said of it."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from regime_helpers import only_fit

from lit_aux.cli.commands import dispatch
from lit_aux.cli.regime import run
from lit_aux.errors import ConfigurationError, NonFiniteLossError
from lit_aux.figures.factors import drawn_layers
from lit_aux.regimes.sweep import FactorFit
from lit_aux.regimes.sweep_report import (
    best,
    by_factor,
    chosen_layer,
    conclusion,
    in_words,
    sweep_table,
)

MODULE = "lit_aux.modules.PretrainFinetuneModule"
TIMM = {"class_path": "lit_aux.models.TimmBackbone", "init_args": {"name": "resnet18"}}
RATIO = {1.0: 1.0, 0.5: 0.9, 0.25: 0.4, 0.125: 0.1}


class Fit:
    """Stands for ``lit-aux fit``: prints its configuration, or keeps it and writes a summary."""

    def __init__(self, validation: bool = True, **model: Any) -> None:
        self.validation, self.model = validation, model
        self.trainer: dict[str, Any] = {"callbacks": None, "devices": "auto", "phase_store": True}
        self.class_path = MODULE
        self.configs: list[dict[str, Any]] = []
        self.diverges: set[float] = set()
        self.ends_at: int | None = None

    def __call__(self, words: list[str]) -> None:
        assert words[:2] == ["fit", "--config"]
        if words[-1] == "--print_config":
            model = {
                "class_path": self.class_path,
                "init_args": {"backbone": TIMM, "rescale": 0.3, **self.model},
            }
            data = {"class_path": "lit_aux.data.DigitsDataModule", "init_args": {}}
            print(
                yaml.safe_dump({"seed_everything": 7, "trainer": self.trainer, "model": model, "data": data})
            )
            raise SystemExit(0)
        config = yaml.safe_load(Path(words[2]).read_text())
        factor = config["model"]["init_args"]["rescale"]
        if len(self.configs) == self.ends_at:
            raise SystemExit(1)
        self.configs.append(config)
        print("what a fit prints")
        if factor in self.diverges:
            raise NonFiniteLossError("finetune: the loss is nan")
        folder = Path(config["trainer"]["default_root_dir"]) / "version_0"
        folder.mkdir(parents=True)
        metrics = {"main/test_accuracy": 0.1 / factor, "main/train_loss": 0.1}
        if self.validation:
            metrics |= {"main/val_accuracy": 0.5 + 0.1 * factor, "main/val_loss": 1.0}
        phases = [
            {"name": "pretrain", "metrics": {}},
            {"name": "finetune", "metrics": metrics, "reason": "max_epochs: 3 reached"},
        ]
        layers = [self._layer("pretrain", "net.backbone.network.layer1", 2.0)]
        layers += [
            self._layer("finetune", f"net.backbone.network.{name}", factor) for name in ("layer1", "pool")
        ]
        layers.append(self._layer("finetune", "net.readout", factor) | {"ensd": None, "ensd_ratio": None})
        (folder / "summary.json").write_text(json.dumps({"phases": phases, "layers": layers}))

    @staticmethod
    def _layer(phase: str, name: str, factor: float) -> dict[str, Any]:
        ratio = 1.0 if name.endswith("layer1") else RATIO[factor]
        numbers = {"pr_before": 10.0, "pr_after": 10 * ratio, "ensd": 9 * ratio}
        verdict = "nested" if ratio < 0.8 else "lazy"
        return {
            "phase": phase, "layer": name, **numbers, "pr_ratio": ratio, "ensd_ratio": 0.9, "verdict": verdict
        }  # fmt: skip


@pytest.fixture(autouse=True)
def _config() -> None:
    Path("deep.yaml").write_text("seed_everything: 7\n")


WORDS = ["--config", "deep.yaml"]


def test_one_fit_a_factor(capsys: pytest.CaptureFixture[str]) -> None:
    fit = Fit()
    assert run([*WORDS, "--data.n_main", "20"], fit) == 0
    assert [c["model"]["init_args"]["rescale"] for c in fit.configs] == [1.0, 0.5, 0.25, 0.125]
    assert {c["seed_everything"] for c in fit.configs} == {7}
    trainers = [config["trainer"] for config in fit.configs]
    assert {t["test_after_phase"] for t in trainers} == {False}
    assert {t["phase_store"] for t in trainers} == {"runs/regime/phases"}
    assert {t["enable_checkpointing"] for t in trainers} == {False}
    assert {t["devices"] for t in trainers} == {1}
    assert len({t["default_root_dir"] for t in trainers}) == 4
    names = [callback["class_path"] for callback in trainers[0]["callbacks"]]
    assert names == ["lit_aux.callbacks.RepresentationDimensionality"]
    told = capsys.readouterr().out
    assert "fit 2 of 4: rescale 0.5, seed 7 ..." in told
    assert "what a fit prints" not in told
    assert "nested at pool: rescale 0.25, 0.125" in told
    assert "best on validation data: rescale 1; of the nested ones 0.25" in told
    assert "--model.rescale=0.25 --trainer.phase_store=runs/regime/phases" in told
    with Path("runs/regime/regime.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert (rows[4]["factor"], rows[4]["layer"], rows[4]["pr_after"], rows[4]["verdict"]) == (
        "0.5", "pool", "9.0", "lazy"
    )  # fmt: skip
    assert rows[2]["ensd"] == ""
    content = json.loads(Path("runs/regime/regime.json").read_text())
    assert content["conclusion"]["nested"] == [0.25, 0.125]
    assert "test" not in json.dumps(content)
    assert Path("runs/regime/regime.png").read_bytes().startswith(b"\x89PNG")
    assert not list(Path("runs/regime").glob(".*"))


def test_it_goes_on_where_it_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    fit = Fit()
    fit.ends_at = 2
    assert run([*WORDS, "--out", "here"], fit) == 130
    assert not list(Path("here").glob("regime.*"))
    assert "the same command goes on" in capsys.readouterr().out
    fit.ends_at = None
    assert run([*WORDS, "--out=here", "--factors", "[1, 0.5, 0.125]"], fit) == 0
    assert [c["model"]["init_args"]["rescale"] for c in fit.configs] == [1.0, 0.5, 0.125]
    assert "fit 1 of 3: rescale 1, seed 7: done before" in capsys.readouterr().out
    first = Path("here/regime.json").read_text()
    assert run([*WORDS, "--out=here", "--factors", "[1, 0.5, 0.125]"], fit) == 0
    assert len(fit.configs) == 3
    assert Path("here/regime.json").read_text() == first
    fit.model["reestimate_batchnorm"] = False  # another configuration is another fit
    assert run([*WORDS, "--out=here", "--factors", "1"], fit) == 0
    assert len(fit.configs) == 4


def test_without_validation_data_nothing_is_best(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(WORDS, Fit(validation=False)) == 0
    told = capsys.readouterr().out
    assert "unknown without validation data" in told
    assert "val accuracy" not in told
    assert "--model.rescale=" not in told
    assert json.loads(Path("runs/regime/regime.json").read_text())["conclusion"]["best"] is None


def test_seeds_and_infinite_losses(capsys: pytest.CaptureFixture[str]) -> None:
    fit = Fit()
    fit.diverges = {1.0}
    assert run([*WORDS, "--factors=[1, 0.25]", "--seeds=[0, 1]"], fit) == 0
    assert [c["seed_everything"] for c in fit.configs] == [0, 1, 0, 1]
    told = capsys.readouterr().out
    assert "means over 2 seeds" in told
    assert "diverged" in told
    assert run([*WORDS, "--factors=1", "--seeds=[0]", "--out=none"], fit) == 0  # no layer at all
    assert sorted(path.name for path in Path("none").iterdir()) == ["regime.csv", "regime.json", "runs"]


def fits(*cells: tuple[float, str, float | None]) -> list[FactorFit]:
    from lit_aux.callbacks import LayerDimensionality

    return [
        FactorFit(f, i, (LayerDimensionality("finetune", "pool", 9, 3, 3, 0.3, 1.0, v),), accuracy)  # type: ignore[arg-type]
        for i, (f, v, accuracy) in enumerate(cells)
    ]


def test_most_seeds_decide() -> None:
    found = by_factor(
        fits((1.0, "lazy", 0.5), (0.5, "nested", 0.6), (0.5, "nested", 0.8), (0.5, "lazy", 0.7))
    )
    assert chosen_layer(found) == "pool"
    said = conclusion(found, "pool")
    assert said == {"layer": "pool", "nested": [0.5], "borderline": [], "best": 0.5, "best_nested": 0.5}
    assert found[1].val_accuracy == pytest.approx(0.7)
    assert in_words(said)[1] == "best on validation data: rescale 0.5"
    half = by_factor(fits((0.5, "nested", None), (0.5, "lazy", None)))
    assert conclusion(half, "pool")["nested"] == []
    assert best(half) is None


@pytest.mark.parametrize(("near", "marked"), [(0, False), (1, True), (2, True)])
def test_a_verdict_that_is_borderline_for_half_of_the_seeds_is_marked(near: int, marked: bool) -> None:
    rows = [replace(one, factor=0.5) for one in fits((0.5, "nested", 0.6), (0.5, "nested", 0.8))]
    for i in range(near):
        note = "borderline: PR ratio 0.75 is near 0.8"
        rows[i] = replace(rows[i], layers=(replace(rows[i].layers[0], note=note),))
    (found,) = by_factor(rows)
    assert found.layers["pool"].shown_verdict == ("(nested)" if marked else "nested")
    said = in_words(conclusion([found], "pool"))[0]
    assert said == f"nested at pool: rescale 0.5{' (borderline)' * marked}"
    assert ("in brackets: borderline" in sweep_table([found], "pool").render("text")) == marked


def test_of_many_layers_the_wanted_one_is_drawn() -> None:
    names = [f"blocks.{i}" for i in range(14)]
    for wanted in names:
        drawn = drawn_layers(names, wanted)
        assert len(drawn) == 8
        assert wanted in drawn
        assert drawn == sorted(drawn, key=names.index)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "RUN: nothing is given"),
        (["a", "b"], "a b is more than one"),
        (["--config", "none.yaml"], "--config none.yaml: there is no such file"),
        ([*WORDS, "--factors", "[]"], "--factors .*the list is empty"),
        ([*WORDS, "--factors", "[1, 0]"], "--factors 0: must be a finite number above 0"),
        ([*WORDS, "--factors", "[1, -2]"], "--factors -2: must be"),
        ([*WORDS, "--factors", "[.inf]"], "--factors inf: must be"),
        ([*WORDS, "--factors", "half"], "--factors 'half': must be"),
        ([*WORDS, "--factors", "[1"], "--factors .*is no list"),
        ([*WORDS, "--seeds", "[0.5]"], "--seeds 0.5: must be a whole number"),
        ([*WORDS, "--factor", "1"], "'--factor' is unknown; did you mean '--factors'"),
        ([*WORDS, "--model.rescale", "0.5"], "the factors are those of --factors"),
        ([*WORDS, "--run", "ab"], "--run ab: has no meaning with --config"),
        ([*WORDS, "--out", "deep.yaml"], "--out deep.yaml: is a file"),
        (["runs/version_0", *WORDS], "two questions"),
        (["--data.n_main", "3"], "goes with --config FILE"),
        (["runs/version_0", "--layer", "pool"], "--layer pool: has no meaning with a run's folder"),
    ],
)
def test_bad_words(words: list[str], told: str) -> None:
    refused(words, Fit(), told)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"class_path": "lit_aux.modules.SingleTaskModule"}, "SingleTaskModule: it has no rescale factor"),
        ({"class_path": "lit_aux.modules.MultiTaskModule"}, "MultiTaskModule: it has no rescale factor"),
        ({"finetune": "probe"}, "a linear probe leaves every feature as it is"),
        ({"phases": [{"name": "one"}]}, "--model.phases"),
        ({"backbone": {"class_path": "lit_aux.models.DiagonalNet"}}, "its network is a student"),
        ({"fast_dev_run": True}, "fast_dev_run"),
    ],
)
def test_configurations_without_a_factor(change: dict[str, Any], told: str) -> None:
    fit = Fit(**{key: value for key, value in change.items() if key not in ("class_path", "fast_dev_run")})
    fit.class_path = change.get("class_path", MODULE)
    fit.trainer["fast_dev_run"] = change.get("fast_dev_run", False)
    refused(WORDS, fit, told)


def refused(words: list[str], fit: Fit, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as raised:
        run(words, fit)
    assert "\n" not in str(raised.value)
    assert fit.configs == []
    assert [path.name for path in Path.cwd().iterdir()] == ["deep.yaml"]


def test_a_fit_that_is_refused_leaves_nothing() -> None:
    class Refused(Fit):
        def __call__(self, words: list[str]) -> None:
            if words[-1] != "--print_config":
                raise ConfigurationError("--data.n_main 0: must be at least 1")
            super().__call__(words)

    refused(WORDS, Refused(), "--data.n_main 0")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["--help"], Fit())
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "Nothing here looks at test data" in told
    assert all(name in told for name in ("--factors", "--results", "--pretrained", "RUN"))


@pytest.fixture
def real() -> Iterator[None]:
    with only_fit():
        yield


@pytest.mark.usefixtures("real")
def test_a_real_fit(capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load((Path(__file__).parents[2] / "configs/quickstart.yaml").read_text())
    probe = {"num_samples": 8, "picture": False}
    config["trainer"]["callbacks"][0]["init_args"] = probe
    config["model"]["init_args"]["backbone"]["init_args"]["name"] = "test_resnet"
    Path("deep.yaml").write_text(yaml.safe_dump(config))
    words = [*WORDS, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--data.n_val=8"]
    words += ["--trainer.check_val_every_n_epoch=1", "--trainer.enable_model_summary=false"]
    words += ["--model.batchnorm_samples=8", "--data.batch_size=4", "--out=found"]
    with pytest.raises(ConfigurationError, match="--layer: 'layer9' is unknown"):
        run([*words, "--layer=layer9"], dispatch)
    assert not Path("found").exists()
    assert run([*words, "--layer=net.readout", "--factors=[1, 0.5]"], dispatch) == 0
    told = capsys.readouterr().out
    assert "readout at each rescale factor" in told
    content = json.loads(Path("found/regime.json").read_text())
    assert [one["factor"] for one in content["fits"]] == [1.0, 0.5]
    for one in content["fits"]:
        assert 0 <= one["val_accuracy"] <= 1
        assert one["layers"][-1]["layer"] == "readout"
    assert len(list(Path("found/phases").glob("*.ckpt"))) == 1  # pretraining was shared
    for file in Path("found").rglob("metrics.csv"):
        assert "test_" not in file.read_text().splitlines()[0]
    assert not list(Path("found/runs").rglob("*.ckpt"))
