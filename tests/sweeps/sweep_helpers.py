"""What the tests of sweeps share: W&B's own expansion of a command, and small sweep files."""

import os
import subprocess
import time
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from lit_aux.experiments import ResultsTable

ROOT = Path(__file__).parents[2]
SMALL = {
    "data.in_features": 12,
    "model.backbone.in_features": 12,
    "data.k_main": 2,
    "data.k_aux": 2,
    "data.overlap": 1,
    "data.n_aux": 12,
    "data.n_test": 20,
    "trainer.accelerator": "cpu",
    "trainer.enable_model_summary": False,
    "trainer.enable_checkpointing": False,
    "model.pretrain_settings.max_evaluations": 20,
    "model.finetune_settings.max_evaluations": 20,
}
"""Options of a run of diagonal students that takes next to nothing."""


def agent_words(file: Path, point: Mapping[str, Any], monkeypatch: Any = None) -> list[str]:
    """Return the command line that a W&B agent runs for a point, by the agent's own code."""
    from wandb.sdk.launch.sweeps import utils
    from wandb.wandb_agent import Agent

    config = utils.load_sweep_config(str(file))
    assert config is not None
    agent = Agent.__new__(Agent)
    started: list[list[str]] = []
    agent._in_jupyter, agent._function, agent._forward_signals = False, None, False
    agent._sweep_command = deepcopy(config["command"])
    agent._run_processes = {}

    class Process:
        def __init__(self, command: list[str], **kwargs: Any) -> None:
            started.append(command)

    monkeypatch.setattr("wandb.wandb_agent.AgentProcess", Process)
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_SWEEP_ID"):
        monkeypatch.setenv(name, "test")
    command = {"type": "run", "run_id": "run0", "program": config.get("program")}
    agent._command_run({**command, "args": {name: {"value": value} for name, value in point.items()}})
    assert started[0][0] == "/usr/bin/env"
    return started[0][1:]


def write_sweep(path: Path, parameters: Mapping[str, Any], **more: Any) -> Path:
    """Write a sweep file of diagonal students; lists are values, all else is a value or a distribution."""
    spelled = {}
    for name, value in {**parameters, **SMALL, **parameters}.items():
        spec = {"values": value} if isinstance(value, list) else {"value": value}
        spelled[name] = value if isinstance(value, dict) else spec
    config = str(ROOT / "configs" / "diagonal" / "ptft.yaml")
    command = ["${env}", "lit-aux", "fit", "--config", config, "--trainer.logger", "wandb", "${args}"]
    path.write_text(
        yaml.safe_dump({"method": "grid", "command": command, "parameters": spelled, **more}, sort_keys=False)
    )
    return path


def rows_of(path: Path | str) -> list[dict[str, str]]:
    """Return the rows of a table."""
    with ResultsTable(path) as table:
        return table.rows()


def toy(arguments: list[str]) -> int:
    """Stand in for ``lit-aux``: a run of ``--data.n_main`` hundredths of a second with a row, or trouble.

    ``trained.log`` in the working folder gets a line when it begins and another when it ends.
    """
    import signal
    import sys

    options = dict(word[2:].split("=", 1) for word in arguments if "=" in word)
    name = Path(options["trainer.default_root_dir"]).name
    log(f"begin {name} {os.getpid()}")
    trouble = options.get("trouble", "")
    if trouble == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if trouble == "raises":
        raise ValueError("no luck\nat all")
    if trouble == "refused":
        print("lit-aux: error: --trouble: refused; try none", file=sys.stderr)
        print("wandb: something after it", file=sys.stderr)
        return 2
    if trouble == "full":
        raise OSError(28, "No space left on device")
    if trouble == "waits":  # with a process that it has started, as Lightning does for further ranks
        log(f"begin {name} {subprocess.Popen(['sleep', '100']).pid}")
        time.sleep(100)
    if trouble == "exits":
        os._exit(3)
    time.sleep(int(options["data.n_main"]) / 100)
    folder = Path(options["trainer.default_root_dir"]) / "version_0"
    folder.mkdir(parents=True)
    with ResultsTable(folder / "results.csv") as table:
        if trouble != "silent":
            row = {"setup": "PT+FT", "seed": options["data.seed"], "n_main": options["data.n_main"]}
            found = [{**row, "run": f"fit{i}", "converged": True} for i in range(int(options.get("rows", 1)))]
            table.append(found, [{"run": r["run"], "measure": "threads", "value": 1} for r in found])
    log(f"end {name} {os.getpid()}")
    return 0


def well(arguments: list[str]) -> int:
    """Do what ``toy`` does, without trouble."""
    return toy([word for word in arguments if not word.startswith("--trouble")])


def log(line: str) -> None:
    """Add a line to ``trained.log``, in one write."""
    file = os.open("trained.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{line}\n".encode())
    os.close(file)
