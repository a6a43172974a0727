"""Outputs that are inputs, or that stand where another kind of file is, are refused; nothing is destroyed."""

import hashlib
import os
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from lit_aux.cli import main
from lit_aux.errors import ConfigurationError
from lit_aux.experiments import ResultsTable
from lit_aux.models import TimmBackbone
from lit_aux.modules import SingleTaskModule
from lit_aux.outputs import KINDS, check_output

CONFIG = Path(__file__).parents[1] / "configs" / "digits" / "stl.yaml"
SWEEP = f"""\
program: lit-aux
method: grid
command: ["${{env}}", "lit-aux", "fit", "--config={CONFIG}", "${{args}}"]
parameters:
  seed_everything: {{values: [0, 1]}}
"""
TRAJECTORY = "method,seed,trained,phase,epoch,step,task,measure,value\n"


def study(folder: Path) -> None:
    """Write trajectories of single-task runs of two tasks, and of multi-task runs, two each."""
    for method, trained in (("single", "a"), ("single", "b"), ("multi", "a|b")):
        for seed in (0, 1):
            path = folder / f"{method}-{trained[:1]}{len(trained)}-{seed}" / "trajectory.csv"
            path.parent.mkdir(parents=True)
            rows = [
                f"{method},{seed},{trained},train,{step},{step},{task},{name},{1 / (step + 1) + seed / 10}\n"
                for step in range(4)
                for task in trained.split("|")
                for name in ("train_loss", "test_accuracy", "val_accuracy")
            ]
            path.write_text(TRAJECTORY + "".join(rows))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with one of everything that somebody may have."""
    monkeypatch.chdir(tmp_path)
    with ResultsTable(tmp_path / "t" / "results.csv") as table:
        for setup in ("STL", "MTL"):
            for seed in (0, 1):
                run = {"run": f"{setup}{seed}", "setup": setup, "seed": seed, "n_main": 8, "loss_best": 0.1}
                table.append([run], [{"run": run["run"], "measure": "pr", "value": 1}])
    (tmp_path / "published.csv").write_text("setup,n_main,loss_best\nSTL,8,0.1\n")
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    (tmp_path / "notes.txt").write_text("mine\n")
    (tmp_path / "numbers.csv").write_text("a,b\n1,2\n")
    (tmp_path / "run.sh").write_text("#!/bin/bash\necho mine\n")
    (tmp_path / "data.json").write_text('{"mine": 1}\n')
    (tmp_path / "text.png").write_text("mine")
    torch.save({"state_dict": {"a": torch.ones(1)}, "lit_aux": {}}, tmp_path / "run.ckpt")
    os.symlink("t/results.csv", tmp_path / "link.csv")
    os.link(tmp_path / "sweep.yaml", tmp_path / "other-name.sh")
    return tmp_path


def content(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


REFUSED = [
    *(
        ["table", "t", f"--out={out}"]
        for out in (
            *("t/results.csv", "t/measures.csv", "link.csv", "./t/../t/results.csv", "published.csv"),
            *("notes.txt", "numbers.csv", "run.ckpt", "sweep.yaml", "run.sh", "data.json", "t", "text.png"),
        )
    ),
    ["table", "t/results.csv", "--reference=published.csv", "--out=published.csv"],
    ["table", "published.csv", "--out=published.csv"],
    *(
        ["sweep", "sweep.yaml", f"--slurm={out}"]
        for out in ("sweep.yaml", "other-name.sh", "run.sh", "notes.txt", "run.ckpt", "t/results.csv", "t")
    ),
    ["sweep", "sweep.yaml", "--out=sweep.yaml"],
    ["figures", "penalties", "--out=text.png"],
    ["figures", "overlap", "--results=t", "--out=text.png"],
    ["reproduce", "diagonal-overlap", "--out=numbers.csv"],
    ["reproduce", "diagonal-overlap", "--out=run.ckpt"],
    ["table", "--from-wandb=a/b", "--out=numbers.csv"],
    *(
        ["report", "t", f"--out={out}"]
        for out in ("t/results.csv", "notes.txt", "text.png", "data.json", "t")
    ),
]


class WandbRun:
    """One that has failed."""

    id, name, state, tags, group = "a", "a", "failed", (), None
    config: ClassVar[dict[str, Any]] = {}
    summary: ClassVar[dict[str, Any]] = {}


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_nothing_is_destroyed(
    words: list[str], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_aux.results.from_wandb._runs", lambda *_: [WandbRun()])
    before = content(folder)
    assert main(words) == 2
    option, _, value = words[-1].partition("=")
    (line,) = (text for text in capsys.readouterr().err.splitlines() if "error" in text)
    assert option in line
    assert value.rpartition("/")[2] in line
    assert content(folder) == before


def test_regime_and_trajectories_leave_files_of_others(folder: Path) -> None:
    from lit_aux.cli.regime import _out

    (folder / "regime.json").write_text('{"mine": 1}')
    with pytest.raises(ConfigurationError, match=r"--out .*regime\.json: is there already"):
        _out({"--out": str(folder)}, folder)
    study(folder / "runs")
    (folder / "found").mkdir()
    (folder / "found" / "runs.csv").write_text("name,age\n")
    before = content(folder)
    assert main(["trajectories", "runs", "--out", "found"]) == 2
    assert content(folder) == before


@pytest.mark.parametrize(
    ("words", "out"),
    [
        *((["table", "t", f"--out=means.{end}"], f"means.{end}") for end in ("txt", "md", "csv")),
        (["table", "t", "--pairs=true", "--out=pairs.csv"], "pairs.csv"),
        (["table", "t", "--reference=published.csv", "--out=beside.csv"], "beside.csv"),
        (["table", "t", "--reference=published.csv", "--out=beside.txt"], "beside.txt"),
        (["sweep", "sweep.yaml", "--slurm=job.sh"], "job.sh"),
        (["figures", "l-order", "--out=order.svg"], "order.svg"),
        (["figures", "l-order", "--out=order.pdf"], "order.pdf"),
        (["trajectories", "runs", "--out=found"], "found/runs.csv"),
        (["report", "t", "--out=page.html"], "page.html"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_command_may_write_over_its_own(words: list[str], out: str, folder: Path) -> None:
    if words[0] == "trajectories":
        study(folder / "runs")
    for _ in range(2):
        assert main(words) == 0
        assert Path(out).stat().st_size > 0


def test_export_leaves_checkpoints(folder: Path) -> None:
    module = SingleTaskModule(TimmBackbone("test_resnet"), {"main": 2})
    torch.save({"state_dict": module.state_dict(), "lit_aux": {}}, "own.ckpt")
    before = content(folder)
    for out in ("own.ckpt", "./own.ckpt", "run.ckpt", "notes.txt", "t/results.csv", "t"):
        with pytest.raises(ConfigurationError, match=r"^output "):
            module.export(out, ckpt_path="own.ckpt")
    assert content(folder) == before
    for out in ("plain.pth", "plain.safetensors"):
        for _ in range(2):
            module.export(out, ckpt_path="own.ckpt")
    assert {*content(folder)} - {*before} == {str(folder / "plain.pth"), str(folder / "plain.safetensors")}


def test_empty_files_may_be_replaced_and_devices_not(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    for kind in KINDS:
        assert check_output("--out", tmp_path / "empty", kind=kind) == tmp_path / "empty"
        with pytest.raises(ConfigurationError, match="device or pipe"):
            check_output("--out", tmp_path / "pipe", kind=kind)
    with pytest.raises(ConfigurationError, match="names nothing"):
        check_output("--out", "")


def test_a_name_that_is_not_there_yet_may_be_an_inputs(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is what the command reads"):
        check_output("--out", tmp_path / "a" / ".." / "b", inputs=[tmp_path / "b"])
