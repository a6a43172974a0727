"""Every sweep file: W&B's own agent expands it, and what it expands to runs and logs the file's metric."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Trainer
from sweep_helpers import ROOT, agent_words
from test_configs import SMALL_TEACHERS, data_options, few_probes, short

from lit_aux.cli import AuxiliaryCLI, main
from lit_aux.cli.sweep import parser
from lit_aux.sweeps.file import read_sweep
from lit_aux.sweeps.points import points
from lit_aux.sweeps.run import expand, fit_words

FILES = sorted((ROOT / "configs").glob("**/sweeps/*.yaml"))
GRIDS = {"digits", "fashion", "cifar100_resnet18", "cifar100_vit", "diagonal", "relu"}


def two_points(file: Path) -> list[dict[str, Any]]:
    """Return the first and the last grid point, or two points drawn from a seed."""
    sweep = read_sweep(file)
    found = points(sweep) if sweep.method == "grid" else points(sweep, "random", 2)
    return [dict(found[0]), dict(found[-1])]


CASES = [(file, number) for file in FILES for number in (0, 1)]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Trainer]:
    """Return the trainers of the command lines that follow."""
    trainers: list[Trainer] = []
    run = AuxiliaryCLI._run_subcommand

    def recorded(self: AuxiliaryCLI, subcommand: str) -> None:
        run(self, subcommand)
        trainers.append(self.trainer)

    only_fit = {"fit": AuxiliaryCLI.subcommands()["fit"]}
    monkeypatch.setattr(AuxiliaryCLI, "_run_subcommand", recorded)
    monkeypatch.setattr(AuxiliaryCLI, "subcommands", staticmethod(lambda: only_fit))
    monkeypatch.setattr("sys.argv", ["lit-aux"])
    monkeypatch.setenv("WANDB_SILENT", "true")
    return trainers


def shortened(config: dict[str, Any], validates: bool, root: Path, patch: Callable[..., None]) -> list[str]:
    """Return options that make a run short, whatever the point says of sizes."""
    if config["data"]["class_path"].endswith("TeacherDataModule"):
        kind = "relu" if "ReLU" in config["data"]["class_path"] else "diagonal"
        small = [*SMALL_TEACHERS[kind], "k_aux=3", "n_aux=12", "n_test=20"]
        options = [f"--data.{option}" for option in small]
        options += [f"--model.backbone.{SMALL_TEACHERS[kind][0]}", "--data.n_main=6"]
        options += ["--model.backbone.hidden=10"] if kind == "relu" else []
        phases = ("pretrain_settings", "finetune_settings")
        return [*options, *(f"--model.{phase}.max_evaluations=20" for phase in phases)]
    backbone = config["model"]["init_args"]["backbone"].get("init_args", {})
    if "name" not in backbone:
        pass
    elif backbone["name"] == "resnet18":
        backbone["name"] = "test_resnet"
    else:
        backbone["options"] |= {"depth": 1, "embed_dim": 16, "num_heads": 2}
    config["trainer"].pop("callbacks", None)  # they are another test's affair
    options = [*data_options(config, root, patch), *short(config, root), "--trainer.limit_train_batches=1"]
    if validates and "--data.n_aux=100" in options:  # the toy CIFAR-100 has two images of each class
        options += ["--data.n_main=2", "--data.n_aux=98", "--data.n_val=2"]
    return options


@pytest.mark.parametrize(("file", "number"), CASES, ids=lambda case: getattr(case, "stem", case))
def test_an_agents_command_line_runs_and_logs_the_metric(
    file: Path, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[Trainer]
) -> None:
    point = two_points(file)[number]
    monkeypatch.chdir(ROOT)  # where the files' command lines find configurations
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))  # where an agent writes what it was told
    program, command, *words = agent_words(file, point, monkeypatch)
    assert (program, command) == ("lit-aux", "fit")
    named = point.get("config")  # a parameter like others, or in the command
    at = words.index(f"--config={named}" if named else "--config")
    path = Path(named or words[at + 1])
    setups = {"stl": "STL", "mtl": "MTL", "lp": "PT+FT (LP)", "lora": "PT+FT (LoRA)"}
    setup = setups.get(path.stem, "PT+FT")
    if "model.train_tasks" in point:
        setup = "MTL" if len(point["model.train_tasks"]) > 1 else "STL"
    config = yaml.safe_load(path.read_text())
    options = shortened(config, "data.n_val" in point, tmp_path, monkeypatch.setattr)
    words[at : at + (1 if named else 2)] = [f"--config={few_probes(config, tmp_path)}"]
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name)
    options += [f"--trainer.default_root_dir={tmp_path}/runs", "--trainer.accelerator=cpu"]
    assert main(["fit", *words, *options, "--trainer.enable_progress_bar=false"]) == 0
    module: Any = trained[0].lightning_module
    assert "model.rescale" not in point or module.rescale == point["model.rescale"]
    rate = point.get("model.finetune_settings.optimizer.init_args.lr")
    assert rate is None or trained[0].optimizers[0].defaults["lr"] == rate
    run = trained[0].logger.experiment  # type: ignore[union-attr]
    summary, group, tags = dict(run.summary), run.group, run.tags
    run.finish()  # else the next one would be this one
    metric = yaml.safe_load(file.read_text())["metric"]["name"]
    assert isinstance(summary.get(metric), int | float), sorted(summary)
    assert group == setup
    assert setup in tags


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_expanded_here_as_by_the_agent(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for point in two_points(file):
        theirs = agent_words(file, point, monkeypatch)
        assert expand(read_sweep(file), point) == ["/usr/bin/env", *theirs]
        assert fit_words(read_sweep(file), point) == ({}, theirs[2:])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_file_says_what_it_is_and_chooses_by_validation(file: Path) -> None:
    text, sweep = file.read_text(), read_sweep(file)
    lines = text.splitlines()
    head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    assert 2 <= len(head) <= 5
    said = " ".join(line.removeprefix("# ") for line in head)
    name = file.relative_to(ROOT)
    assert f"wandb sweep {name}" in said
    assert f"lit-aux sweep {name}" in said
    count = len(points(sweep, None if sweep.method == "grid" else "random"))
    assert f"{count} runs" in said
    metric = yaml.safe_load(text)["metric"]["name"]
    assert ("/val_" in metric) == (sweep.method != "grid")
    assert "${args}" in sweep.command


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_takes_long_says_so_first_and_names_a_short_variant(file: Path) -> None:
    first = file.read_text().partition("\n")[0]
    if "CIFAR-100" in file.read_text():
        pytest.skip("the published settings, made for GPUs")
    found = re.match(r"# (?:about )?\d+ minutes on two cores; short: (--count \d+)( -- .*)?$", first)
    count = len(points(read_sweep(file), "random" if read_sweep(file).method == "bayes" else None))
    if found is None:
        assert count <= 18, "many runs take long"
    else:
        given = parser().parse_args([str(file), *found[1].split()])
        assert 0 < given.count < count


def test_there_is_a_file_for_each_network() -> None:
    assert {file.stem for file in FILES} >= GRIDS
    for name in GRIDS:
        sweep = read_sweep(ROOT / "configs" / "sweeps" / f"{name}.yaml")
        assert [*sweep.parameters][:2] == ["model.rescale", "data.n_main"]
        assert "seed" in [*sweep.parameters][2]
    assert {read_sweep(file).method for file in FILES} == {"grid", "random", "bayes"}
