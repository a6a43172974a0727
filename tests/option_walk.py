"""A walk over every option of every command with values that are wrong, in process: what becomes of each.

``cases()`` lists them, ``try_case`` carries one out and says what is amiss. The suite tries a fixed sample;
``scripts/walk_options.py`` tries them all.
"""

import os
import re
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import yaml
from option_cases import COMMANDS, SCENES, Case, put, short_run
from option_sense import sensible
from walk_inputs import make_inputs

from lit_aux.cli import AuxiliaryCLI, main

SECONDS = 60
Config = dict[str, Any]


@dataclass
class Outcome:
    """What became of a case: ``refused`` or ``accepted``, and what is amiss."""

    kind: str
    line: str
    amiss: list[str] = field(default_factory=list)


class TooLong(BaseException):
    """A case took longer than :data:`SECONDS`."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise :class:`TooLong` after so many seconds."""

    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Walk:
    """Carries cases out, each in an empty working folder.

    Args:
        home: Where inputs are made and working folders stand.
        patch: Sets an attribute: data modules are told of the small files that they read here.
    """

    def __init__(self, home: Path, patch: Callable[..., None] = setattr) -> None:
        self.home, self.inputs, self.count, self._patch = home, home / "inputs", 0, patch
        self._made: dict[str, str] = {}
        self._subcommands = AuxiliaryCLI.subcommands()

    def try_case(self, case: Case) -> Outcome:
        """Return what became of a case."""
        self.count += 1
        folder, temporary = self.home / f"work{self.count}", self.home / f"temporary{self.count}"
        folder.mkdir()
        temporary.mkdir()
        words = self._words(case)
        if not self._made:
            self._make()
        where, argv = Path.cwd(), sys.argv
        os.chdir(folder)
        try:
            sys.argv = ["lit-aux", *words]
            with temporary_files(temporary):
                code, text = self._run(words)
        finally:
            os.chdir(where)
            sys.argv = argv
            _put_back()
        left = [str(p.relative_to(f)) for f in (folder, temporary) for p in f.rglob("*")]
        outcome = judge(case, code, text.replace(str(self.inputs), "INPUT"), left)
        if outcome.kind == "accepted" and code == 0:
            outcome.amiss += senseless(case, folder)
        if _listing(self.inputs) != self._made:
            outcome.amiss.append("an input was changed")
            shutil.rmtree(self.inputs)
            self._made = {}
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)
        return outcome

    def _make(self) -> None:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            make_inputs(self.inputs, self.home / "fits", short_run(), self._patch)
        self._made = _listing(self.inputs)

    def _run(self, words: list[str]) -> tuple[Any, str]:
        only = {words[0]: self._subcommands.get(words[0], set())}
        if words[0] in ("regime", "reproduce", "sweep"):
            only = {"fit": self._subcommands["fit"]}
        kept = AuxiliaryCLI.subcommands
        AuxiliaryCLI.subcommands = staticmethod(lambda: only)  # type: ignore[method-assign]
        said = StringIO()
        try:
            with redirect_stdout(StringIO()), redirect_stderr(said), limited(SECONDS):
                return main(words), said.getvalue()
        except TooLong:
            return "hang", said.getvalue()
        except SystemExit as end:
            return end.code, said.getvalue()
        except BaseException as error:
            return f"traceback: {type(error).__name__}: {error}", said.getvalue()
        finally:
            AuxiliaryCLI.subcommands = staticmethod(kept)  # type: ignore[method-assign]

    def _words(self, case: Case) -> list[str]:
        if case.scene in COMMANDS:
            return self._command(case)
        config, _ = SCENES[case.scene]
        in_list = re.search(r"/\d+/", case.option)
        if in_list or case.option.endswith("no_such_option"):
            config = put(deepcopy(config), case.option, _typed(case.value))
        file = self.home / f"{case.scene}.yaml"
        file.write_text(yaml.safe_dump(config).replace("INPUT", str(self.inputs)))
        words = ["fit", "--config", str(file)]
        if not in_list and not case.option.endswith("no_such_option"):
            words.append(f"--{dotted(case.option)}={case.value}")
        return words

    def _command(self, case: Case) -> list[str]:
        command = case.scene.split()[0]
        words = [word.replace("INPUT", str(self.inputs)) for word in COMMANDS[case.scene]]
        if not case.option:
            return [command, case.value, *[w for w in words if w.startswith("-")]]
        words = [w for w in words if w.partition("=")[0] != f"--{case.option}"]
        if case.option == "from-wandb":
            words = [w for w in words if w.startswith("-")]
        if command in ("sweep",) and case.option in ("task", "collect"):
            words = [w for w in words if not w.startswith("--slurm")]
        return [command, *words, f"--{case.option}={case.value.replace('INPUT', str(self.inputs))}"]


def dotted(option: str) -> str:
    """Return an option as it is typed."""
    return re.sub(r"/\d+/", "/", option.replace("/init_args", "")).replace("/", ".")


def _full(case: Case) -> str:
    """Return an option with its command, where that is not fit."""
    command = f"{case.scene.split()[0]}." if case.scene in COMMANDS else ""
    return command + dotted(case.option)


def _typed(value: str) -> Any:
    return "" if value == "" else yaml.safe_load(value)


@contextmanager
def temporary_files(folder: Path) -> Iterator[None]:
    """Have temporary files made in a folder."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _put_back() -> None:
    """Undo what options of the Trainer change in the process."""
    torch.use_deterministic_algorithms(False)
    torch.autograd.set_detect_anomaly(False)
    torch.set_default_dtype(torch.float32)
    for name in (
        "PL_GLOBAL_SEED",
        "PL_SEED_WORKERS",
        "CUBLAS_WORKSPACE_CONFIG",
        "WORLD_SIZE",
        "NODE_RANK",
        "LOCAL_RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
    ):
        os.environ.pop(name, None)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _listing(folder: Path) -> dict[str, str]:
    """Return a digest of every file in a folder; of links, where they lead."""
    return {
        str(p): sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.name.endswith(".lock")  # which stay where two runs may share a table
    }


def senseless(case: Case, folder: Path) -> list[str]:
    """Say what shows that an accepted run was none: no step, weights that are no numbers, no output."""
    option = dotted(case.option).rpartition(".")[2]
    found = []
    if option in ("out", "output", "slurm", "default_root_dir", "phase_store", "store"):
        value = folder / case.value
        if case.value and not value.exists() and not value.with_suffix(".pth").exists():
            found.append("no output")
    if case.scene not in SCENES or option in ("fast_dev_run", "print_config"):
        return found
    files = [file for file in folder.rglob("*.ckpt") if file.is_file()]
    steps = []
    for file in files:
        content = torch.load(file, weights_only=False)
        steps.append(content.get("global_step", 0))  # those of a store have none
        numbers = [p for p in content["state_dict"].values() if p.is_floating_point()]
        if not all(bool(p.isfinite().all()) for p in numbers):
            found.append("weights that are no numbers")
    if max(steps, default=0) < 1:
        found.append("nothing was trained")
    return found


def judge(case: Case, code: Any, text: str, left: list[str]) -> Outcome:
    """Say what is amiss with how a case ended."""
    told = [line for line in text.splitlines() if line.startswith("lit-aux: error: ")]
    line = told[-1].removeprefix("lit-aux: error: ") if told else ""
    if code == "hang" or str(code).startswith("traceback"):
        return Outcome("refused", " ".join(str(code).split())[:300], [str(code).partition(":")[0]])
    if "Traceback (most recent" in text:
        return Outcome("refused", " ".join(text[-300:].split()), ["traceback"])
    if code == 0 or (code == 1 and not told and case.scene == "sweep collect"):  # whose runs are missing
        outcome = Outcome("accepted", line)
        if not sensible(_full(case), case.value):
            outcome.amiss.append("accepted")
        return outcome
    if case.scene == "reproduce images" and "there is no CIFAR-100" in line:  # all else was right
        return Outcome("accepted", line, [] if sensible(_full(case), case.value) else ["accepted"])
    outcome = Outcome("refused", line)
    if "Parser key" in line or "Union" in line:
        outcome.amiss.append("as the parser says it")
    if len(told) != 1:
        outcome.amiss.append(f"{len(told)} lines")
        outcome.line = line or f"exit code {code}: {' '.join(text[-200:].split())}"
    if not _names(case, line):
        outcome.amiss.append("option not named")
    if not case.option.endswith("no_such_option") and not _echoes(case, line):
        outcome.amiss.append("value not echoed")
    late = (
        case.scene == "StopAtTrainingLoss" and "monitor" in case.option
    )  # an epoch has logged what there is
    if left and not late:
        outcome.amiss.append(f"left behind: {left[:3]}")
    return outcome


def _names(case: Case, line: str) -> bool:
    """Say whether a line names the option in full, as it is typed; an argument has no name."""
    if not case.option:
        return True
    option = dotted(case.option)
    owner, _, name = option.rpartition(".")
    if owner.endswith("lr_scheduler") and line.startswith(f"--{owner}: ") and f"{name} {case.value}" in line:
        return True  # of schedules, what is wrong is what options make of each other
    return re.search(rf"--{re.escape(option)}(?![\w-])", line) is not None


def _echoes(case: Case, line: str) -> bool:
    """Say whether a line has the value as it is typed; one of a file as Python or as YAML writes it.

    Of a list the number that is wrong is enough.
    """
    forms = {case.value or "''"}
    if case.value == "[1, 2]":
        forms |= {"1", "2", "1.0", "2.0"}
    if re.search(r"/\d+/", case.option):
        value = _typed(case.value)
        forms |= {repr(value), str(float(value))} if isinstance(value, int | float) else {repr(value)}
    return any(re.search(rf"(?<![\w.-]){re.escape(form)}(?!\w)", line) for form in forms)


def limit_memory(gigabytes: int = 10) -> None:
    """Let what asks for more memory than a machine has fail at once."""
    resource.setrlimit(resource.RLIMIT_AS, (gigabytes << 30, gigabytes << 30))


@contextmanager
def walk() -> Iterator[Walk]:
    """Yield a walk in a folder that is removed afterwards."""
    home = Path(tempfile.mkdtemp())
    try:
        yield Walk(home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
