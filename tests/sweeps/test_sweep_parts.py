"""Sweep files, what is drawn from them, and the command lines of their points."""

import itertools
import math
import statistics
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from sweep_helpers import agent_words

from lit_aux.cli import AuxiliaryCLI, main
from lit_aux.cli.sweep import run as sweep
from lit_aux.errors import ConfigurationError
from lit_aux.runs.folder import cause, last_line
from lit_aux.sweeps.distributions import DISTRIBUTIONS, check, draw
from lit_aux.sweeps.file import read_sweep
from lit_aux.sweeps.jobs import asks_for_several
from lit_aux.sweeps.points import points
from lit_aux.sweeps.run import SweepRun, configured, expand, fit_words, sweep_runs, without

COMMAND = ["${env}", "lit-aux", "fit", "--config", "c.yaml", "--trainer.logger", "wandb", "${args}"]
FILE: dict[str, Any] = {
    "method": "grid",
    "command": COMMAND,
    "parameters": {"model.rescale": {"values": [1.0, 0.5]}, "seed_everything": {"values": [0, 1, 2]}},
}


def write(content: Any = None, **more: Any) -> Path:
    Path("c.yaml").write_text("trainer: {devices: 1}\nmodel: {class_path: a.B, init_args: {rescale: 2.0}}\n")
    path = Path("sweep.yaml")
    path.write_text(yaml.safe_dump({**FILE, **more} if content is None else content, sort_keys=False))
    return path


def runs(path: Path, *extra: str, logger: str | None = None) -> list[SweepRun]:
    sweep = read_sweep(path)
    return sweep_runs(sweep, points(sweep), Path("out"), extra, logger)


# Points


def test_a_grid_is_the_product_with_the_last_parameter_first() -> None:
    found = [tuple(point.values()) for point in points(read_sweep(write()))]
    assert found == [*itertools.product([1.0, 0.5], [0, 1, 2])]
    assert len(points(read_sweep(write()), count=4)) == 4
    assert len(points(read_sweep(write(run_cap=2)), count=4)) == 2


def test_groups_of_parameters_are_written_flat() -> None:
    nested = {"model": {"parameters": {"rescale": {"value": 0.5}, "a": {"parameters": {"b": {"value": 1}}}}}}
    assert points(read_sweep(write(parameters=nested))) == [{"model.rescale": 0.5, "model.a.b": 1}]


SPECS: dict[str, tuple[dict[str, Any], Any]] = {
    # the share of draws below a middle value that the distribution has by its definition
    "uniform": ({"min": 2.0, "max": 4.0}, (3.0, 0.5)),
    "int_uniform": ({"min": 1, "max": 4}, (2.5, 0.5)),
    "log_uniform": ({"min": math.log(0.01), "max": math.log(1.0)}, (0.1, 0.5)),
    "log_uniform_values": ({"min": 0.01, "max": 1.0}, (0.1, 0.5)),
    "inv_log_uniform_values": ({"min": 0.01, "max": 1.0}, (0.1, 0.5)),
    "normal": ({"mu": 3.0, "sigma": 2.0}, (5.0, 0.8413)),
    "log_normal": ({"mu": 0.0, "sigma": 1.0}, (math.e, 0.8413)),
    "beta": ({"a": 1, "b": 3}, (0.5, 1 - 0.5**3)),
    "q_uniform": ({"min": 0.0, "max": 1.0, "q": 0.25}, (0.3, 0.375)),
    "q_log_uniform": ({"min": 0.0, "max": math.log(100), "q": 1}, (10.5, math.log(10.5) / math.log(100))),
    "q_log_uniform_values": ({"min": 1, "max": 100, "q": 10}, (15.1, math.log(15) / math.log(100))),
    "q_normal": ({"mu": 0.0, "sigma": 1.0, "q": 0.5}, (0.6, 0.7734)),
    "q_log_normal": ({"mu": 0.0, "sigma": 1.0, "q": 0.5}, (1.1, 0.5885)),
    "q_beta": ({"a": 1, "b": 1, "q": 0.5}, (0.3, 0.25)),
    "categorical": ({"values": [1, 2]}, (1.5, 0.5)),
    "categorical_w_probabilities": ({"values": [1, 2], "probabilities": [0.2, 0.8]}, (1.5, 0.2)),
    "constant": ({"value": 7}, (7.5, 1.0)),
}


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_draws_have_their_distribution(kind: str) -> None:
    spec, (middle, share) = SPECS[kind]
    spec = {"distribution": kind, **spec}
    check("p", spec)
    random = Random(0)
    found = [draw(spec, random) for _ in range(4000)]
    assert statistics.fmean(value < middle for value in found) == pytest.approx(share, abs=0.03)
    if "q" in spec:
        assert all(math.isclose(value / spec["q"], round(value / spec["q"])) for value in found)
    elif "min" in spec and kind != "log_uniform":
        assert all(spec["min"] <= value <= spec["max"] for value in found)
    if kind == "int_uniform":
        assert {*found} == {1, 2, 3, 4}


def test_random_points_stay_when_more_are_drawn() -> None:
    spec = {"x": {"min": 0.0, "max": 1.0}, "n": {"min": 1, "max": 9}, "c": {"values": ["a", "b"]}}
    sweep = read_sweep(write(method="random", parameters=spec))
    few, many = points(sweep, count=3), points(sweep, count=8)
    assert many[:3] == few
    assert len({point["x"] for point in many}) == 8
    assert points(sweep, count=3, seed=1) != few
    assert all(isinstance(point["n"], int) for point in many)
    assert points(read_sweep(write(method="bayes", parameters=spec)), "random", 3) == few


# Command lines


def test_what_follows_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "here")
    prefixes: list[tuple[list[str], dict[str, str]]] = [
        (["lit-aux"], {}),
        (["${env}", "OMP_NUM_THREADS=1", "lit-aux"], {"OMP_NUM_THREADS": "1"}),
        (["uv", "run", "--no-sync", "lit-aux"], {}),
        (["${env}", "${interpreter}", "-m", "lit_aux.cli"], {}),
        ([".venv/bin/lit-aux"], {}),
    ]
    for words, environment in prefixes:
        command = [*words, "fit", "--data.root", "${envvar:PLACE}/x", "--trainer.max_epochs", 3, "${args}"]
        sweep = read_sweep(write(command=command))
        found = fit_words(sweep, {"a.b": None, "c": [1, None], "d": 1e-05, "e": True})
        rest = ["--data.root", "here/x", "--trainer.max_epochs", "3"]
        assert found == (environment, [*rest, "--a.b=None", "--c=[1, None]", "--d=1e-05", "--e=True"])


def test_places_of_a_run() -> None:
    (first, *_) = runs(write())
    assert first.arguments == (
        *("--config", "c.yaml", "--model.rescale=1.0", "--seed_everything=0", "--trainer.logger=csv"),
        "--trainer.phase_store=out/phases",
        "--trainer.enable_progress_bar=false",
        f"--trainer.default_root_dir=out/runs/{first.name}",
    )
    own = ["--trainer.phase_store", "false", "--trainer.default_root_dir=x"]
    (first, *_) = runs(write(), *own, logger="wandb")
    assert [word for word in first.arguments if "logger" in word] == ["--trainer.logger=wandb"]
    assert [word for word in first.arguments if "root" in word] == [
        f"--trainer.default_root_dir=out/runs/{first.name}"
    ]
    assert "--trainer.phase_store=out/phases" not in first.arguments
    assert first.title == "rescale 1, seed_everything 0"


def test_a_runs_name_is_of_what_decides_its_numbers() -> None:
    plain = [run.name for run in runs(write())]
    assert len({*plain}) == 6
    assert [run.name for run in runs(write(), logger="wandb")] == plain
    assert [run.name for run in runs(write(), "--trainer.enable_progress_bar=true")] == plain
    assert not {*plain} & {run.name for run in runs(write(), "--data.n_main", "3")}
    path = write()
    Path("c.yaml").write_text("# another comment\n" + Path("c.yaml").read_text())
    assert [run.name for run in runs(path)] == plain
    Path("c.yaml").write_text("trainer: {devices: 1}\nmodel: {class_path: a.C}\n")
    assert not {*plain} & {run.name for run in runs(path)}


def test_points_that_are_the_same_are_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    path = write(parameters={"seed_everything": {"values": [0, 1, 1]}})
    assert [run.number for run in runs(path)] == [0, 1]
    assert sweep([str(path), "--slurm", "s.sh"], main) == 0  # its classes are made up: nothing is parsed
    assert "1 of 3 points are the same as others" in capsys.readouterr().out


def test_options_are_looked_up_where_a_run_has_them() -> None:
    configs = [{"trainer": {"devices": 2}}, {"model": {"class_path": "a.B", "init_args": {"x": {"y": 3}}}}]
    assert configured([], configs, "trainer.devices") == 2
    assert configured(["--trainer.devices", "4"], configs, "trainer.devices") == 4
    assert configured(["--model.init_args.x.y=5"], configs, "model.x.y") == 5
    assert configured([], configs, "model.x.y") == 3
    assert configured([], configs, "model") == "a.B"
    assert configured([], configs, "data.n") is None
    assert without(["--a", "1", "--a.b=2", "--ab", "3"], "a") == ["--ab", "3"]


@pytest.mark.parametrize(
    ("words", "several"),
    [
        ([], False),
        (["--trainer.devices=2"], True),
        (["--trainer.devices=1", "--trainer.strategy=ddp"], False),
        (["--trainer.devices", "[0, 1]"], True),
        (["--trainer.devices=auto", "--trainer.strategy=ddp"], True),
        (["--trainer.devices=-1"], True),
        (["--trainer.num_nodes=2"], True),
    ],
)
def test_which_runs_ask_for_several_processes(words: list[str], several: bool) -> None:
    (first, *_) = runs(write(), *words)
    assert asks_for_several(first) == several


# Values, through the agent's own code and the parser


def test_values_survive_the_agent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    point: dict[str, Any] = {
        "model.rescale": 1e-05,
        "model.reestimate_batchnorm": False,
        "model.finetune_settings.max_epochs": None,
        "model.finetune_settings.stop_on": ["main"],
        "model.pretrain_settings.optimizer.init_args.lr": 2.5e-07,
        "model.pretrain_settings.optimizer.init_args.nesterov": True,
        "model.pretrain_settings.optimizer.init_args.fused": None,
        "model.backbone.options": {"a": None, "b": [True, 1e-05]},
        "trainer.max_time": None,
        "trainer.callbacks": None,
        "trainer.limit_train_batches": 1.0,
        "data.classes": {"main": 2, "aux": 4},
        "seed_everything": 3,
    }
    found: list[Any] = []
    monkeypatch.setattr(AuxiliaryCLI, "instantiate_classes", lambda self: found.append(self._options()))
    monkeypatch.setattr(AuxiliaryCLI, "_run_subcommand", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["lit-aux"])
    root = Path(__file__).parents[2]
    config = str(root / "configs" / "digits" / "ptft.yaml")
    path = write(command=["${env}", "lit-aux", "fit", "--config", config, "${args}"])
    theirs = agent_words(path, point, monkeypatch)
    assert ["/usr/bin/env", *theirs] == expand(read_sweep(path), point)
    spaced = [
        word for name, value in point.items() for word in (f"--{name}", str(value))
    ]  # ${args_no_equals}
    for words in (theirs[1:], ["fit", "--config", config, *spaced]):
        assert main(words) == 0, capsys.readouterr().err
        options = found.pop()
        for name, value in point.items():
            inner = options
            for key in name.split("."):
                init_args = inner.get("init_args") if not isinstance(inner, dict) else None
                inner = init_args[key] if init_args is not None and key in init_args else inner[key]
            assert inner == value, name
            assert type(inner) is type(value), name


# How runs ended


def test_the_line_that_says_why(tmp_path: Path) -> None:
    cases = {
        "Epoch 3\n\x1b[31mlit-aux: error: --x: wrong\x1b[0m\nwandb: bye\n": "--x: wrong",
        'Traceback:\n  File "a"\ntorch.cuda.OutOfMemoryError: too much\nwandb: bye\n': (
            "torch.cuda.OutOfMemoryError: too much"
        ),
        "Epoch 1\rEpoch 2\r\n": "Epoch 2",
        "": "",
    }
    for text, expected in cases.items():
        (tmp_path / "o.txt").write_text(text)
        assert last_line(tmp_path / "o.txt") == expected
    assert last_line(tmp_path / "none.txt") == ""
    assert cause(-9, "") == "killed by SIGKILL (out of memory?)"
    assert cause(-11, "Epoch 2") == "killed by SIGSEGV; its last line: Epoch 2"
    assert cause(1, "ValueError: x") == "ValueError: x"


# Mistakes


def bad(**spec: Any) -> dict[str, Any]:
    return {**FILE, "parameters": {"a.b": spec}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "FILE sweep.yaml: is no sweep file"),
        ({"model": {}, "data": {}}, "is no sweep file: it has no parameters; a configuration of one run"),
        ({**FILE, "method": "grit"}, "sweep.yaml: method: 'grit' must be grid, random or bayes"),
        ({**FILE, "method": "bayes"}, "wandb sweep and wandb agent, or draw at random here (--method random"),
        ({**FILE, "method": "random"}, "--count: nothing is given"),
        ({**FILE, "run_cap": 0}, "sweep.yaml: run_cap: 0 must be"),
        ({**FILE, "parameters": {}}, "sweep.yaml: parameters: none is given"),
        ({**FILE, "parameters": {"a": 3}}, "parameters.a: 3 must be written as {value: 3}"),
        ({**FILE, "command": None}, "sweep.yaml: command: None must be a list"),
        ({**FILE, "command": ["python", "x.py", "${args}"]}, "is no lit-aux fit"),
        ({**FILE, "command": ["lit-aux", "test", "${args}"]}, "is no lit-aux fit"),
        ({**FILE, "command": ["srun", "lit-aux", "fit"]}, "is no lit-aux fit"),
        (
            {**FILE, "command": ["lit-aux", "fit", "${args_json_file}"]},
            "${args_json_file} is filled in by W&B",
        ),
        (
            {**FILE, "command": ["lit-aux", "fit", "--config", "no.yaml"]},
            "--config no.yaml: there is no such",
        ),
        ({**FILE, "command": ["lit-aux", "fit", "c.yaml"]}, "'c.yaml' belongs to no option"),
        (bad(values=[]), "sweep.yaml: parameters.a.b.values: [] must be a list that is not empty"),
        (bad(values=[1, 2], probabilities=[0.5, 0.6]), "parameters.a.b.probabilities: [0.5, 0.6] must be"),
        (bad(), "parameters.a.b: gives no values"),
        (bad(min=3, max=1), "parameters.a.b.min: 3 is above max 1"),
        (bad(min=1, max=3), "parameters.a.b: a grid needs values, not int_uniform"),
        (bad(min=0, max=1.0, distribution="log_uniform_values"), "parameters.a.b.min: 0 must be above 0"),
        (bad(min="a", max=3, distribution="uniform"), "parameters.a.b.min: 'a' is not a number"),
        (bad(min=1, distribution="uniform"), "parameters.a.b.max: nothing is given; uniform needs it"),
        (bad(distribution="cauchy"), "parameters.a.b.distribution: 'cauchy' is unknown"),
    ],
    ids=str,
)
def test_wrong_files(content: Any, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(content)
    before = {p.name for p in Path().iterdir()}
    assert main(["sweep", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert {p.name for p in Path().iterdir()} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "FILE: nothing is given"),
        (["none.yaml"], "FILE none.yaml: there is no such file"),
        (["sweep.yaml", "--job", "2"], "sweep: '--job' is unknown; did you mean '--jobs'"),
        (["sweep.yaml", "--jobs", "0"], "--jobs 0: must be at least 1"),
        (["sweep.yaml", "more"], "'more' belongs to no option"),
        (["sweep.yaml", "--data.root", "x"], "--data.root: options of lit-aux fit go behind '--'"),
        (["sweep.yaml", "--task", "0", "--collect"], "--task: does not go with --collect"),
        (["sweep.yaml", "--task", "6"], "--task 6: the sweep has 6 runs, 0 to 5"),
        (["sweep.yaml", "--sbatch", "--time 1"], "goes with --slurm SCRIPT"),
        (["sweep.yaml", "--slurm"], '--slurm: nothing is given; write --slurm="..."'),
    ],
    ids=str,
)
def test_wrong_options(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    write()
    assert main(["sweep", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_file_that_is_no_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.yaml").write_text("a: [1")
    assert main(["sweep", "s.yaml"]) == 2
    assert "FILE s.yaml: is not valid YAML" in capsys.readouterr().err
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_sweep(".")


def test_help_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{name}" in text for name in ("jobs", "out", "count", "retry", "slurm", "task", "collect"))
    assert "wandb agent" in text
