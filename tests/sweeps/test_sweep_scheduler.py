"""Whatever happens to runs and to the scheduler, the table holds every run once and nobody is left behind."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import pytest
from process_helpers import processes_of_here
from sweep_helpers import ROOT, rows_of, toy, well, write_sweep
from toys import until

from lit_aux.cli.sweep import run
from lit_aux.errors import ConfigurationError
from lit_aux.experiments import ResultsTable
from lit_aux.runs.engines import Processes
from lit_aux.runs.job import Job, Report
from lit_aux.runs.processes import Children
from lit_aux.runs.progress import Progress
from lit_aux.runs.runner import Runner
from lit_aux.sweeps.file import read_sweep
from lit_aux.sweeps.jobs import jobs_of
from lit_aux.sweeps.points import points
from lit_aux.sweeps.run import sweep_runs

PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from sweep_helpers import toy
from lit_aux.cli.sweep import run
sys.exit(run(sys.argv[1:], toy))
"""
TABLE = "runs/sweeps/s/results.csv"


def grid(n_main: list[int], seeds: int = 2, **parameters: object) -> None:
    write_sweep(Path("s.yaml"), {"data.n_main": n_main, "data.seed": [*range(seeds)], **parameters})


def names() -> list[str]:
    sweep = read_sweep("s.yaml")
    return [run.name for run in sweep_runs(sweep, points(sweep), Path("out"))]


def events() -> list[list[str]]:
    path = Path("trained.log")
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def in_a_process(*arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(__file__).parent), str(ROOT)])
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "s.yaml", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def check_all(count: int, torn: int = 0) -> None:
    """Every run has its row once, was ended once, and never trained in two processes at once.

    Up to ``torn`` runs may have been killed between their last line in the log and the mark of their end:
    they are done again.
    """
    rows = rows_of(TABLE)
    assert Counter(row["run"] for row in rows) == Counter(names())
    assert len(rows) == count
    assert all(row["error"] == "" for row in rows)
    current: dict[str, str] = {}
    for kind, name, pid in events():
        if kind == "begin":
            current[name] = pid
        else:
            assert current[name] == pid, "an earlier process of the run went on beside a later one"
    ends = Counter(name for kind, name, _ in events() if kind == "end")
    assert set(ends) == set(names())
    assert count <= ends.total() <= count + torn
    assert not processes_of_here()


def test_each_run_becomes_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    grid([1, 2], 3, text="a word", **{"model.lr": [1e-05]})
    assert run(["s.yaml", "--jobs", "2"], toy) == 0
    check_all(6)
    out = capsys.readouterr().out
    assert f"6 of 6 runs are in {TABLE}: 6 went well, 0 failed" in out
    assert f"lit-aux table {TABLE}" in out
    with ResultsTable(TABLE) as table:
        measures = table.measures()
    found = {(row["run"], row["measure"]): row["value"] for row in measures}
    for name in names():
        assert found[name, "model.lr"] == "1e-05"
        assert found[name, "text"] == "a word"
        assert found[name, "trainer.enable_checkpointing"] == "false"
        assert found[name, "threads"] == "1"
        assert (name, "data.n_main") not in found
    assert not list(Path("runs/sweeps/s/runs").glob(".*"))
    before = events()
    assert run(["s.yaml"], toy) == 0
    assert events() == before, "runs with a row are not run again"


def test_a_fit_with_several_rows() -> None:
    grid([1], 2, rows=3)
    assert run(["s.yaml"], toy) == 0
    found = [row["run"] for row in rows_of(TABLE)]
    assert sorted(found) == sorted(f"{name}-{number}" for name in names() for number in range(3))
    assert run(["s.yaml"], toy) == 0
    assert len(rows_of(TABLE)) == 6


def test_killed_in_the_middle_and_restarted() -> None:
    grid([40], 24)
    process = in_a_process("--jobs", "2")

    def in_the_middle() -> bool:
        kinds = {name: kind for kind, name, _ in events()}
        return sum(kind == "end" for kind in kinds.values()) >= 8 and "begin" in kinds.values()

    until(in_the_middle)
    process.kill()
    process.wait()
    last = {name: (kind, int(pid)) for kind, name, pid in events()}
    children = [pid for kind, pid in last.values() if kind == "begin"]
    assert children, "nothing was under way: kill in the middle"
    marked = {path.parent.name for path in Path("runs/sweeps/s/runs").glob("*/ended.json")}
    assert run(["s.yaml", "--jobs", "2"], toy) == 0  # at once, while those may still be dying
    assert all(map(gone, children))
    check_all(24, torn=2)
    trained = Counter(name for kind, name, _ in events() if kind == "begin")
    assert all(trained[name] == 1 for name in marked), "what has ended is not done again"
    assert 7 <= len(marked) < 24


def test_a_run_that_ended_without_its_row_is_collected_and_a_torn_one_done_again() -> None:
    grid([1], 3)
    assert run(["s.yaml"], toy) == 0
    first, second, third = names()
    with ResultsTable(TABLE) as table:
        table.remove({first, second})
    folder = Path("runs/sweeps/s/runs")
    (folder / second / "ended.json").unlink()
    (folder / second / "version_0" / "torn").write_text("half")
    before = len(events())
    assert run(["s.yaml"], toy) == 0
    assert {row["run"] for row in rows_of(TABLE)} == {first, second, third}
    assert {name for _, name, _ in events()[before:]} == {second}
    assert not (folder / second / "version_0" / "torn").exists()


REASONS = {
    "killed": "killed by SIGKILL (out of memory?)",
    "raises": "ValueError: no luck at all",
    "refused": "--trouble: refused; try none",
    "exits": "it ended with code 3 and said nothing",
    "silent": "it ended and wrote no results.csv",
}


def test_failed_runs_have_rows_and_cost_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    grid([1], 1, trouble=[*REASONS, "none"], **{"model.rescale": 0.5})
    assert run(["s.yaml", "--jobs", "2"], toy) == 1
    rows = rows_of(TABLE)
    assert len(rows) == len(REASONS) + 1
    by_run = {row["run"]: row for row in rows}
    assert not by_run[names()[-1]]["error"]
    out = capsys.readouterr().out
    for name, (trouble, reason) in zip(names(), REASONS.items(), strict=False):
        row = by_run[name]
        if trouble == "raises":  # the message has two lines, of which the first names the error
            reason = "ValueError: no luck"
        assert row["error"].startswith(reason), trouble
        assert (row["converged"], row["loss_best"], row["seconds"]) == ("false", "", "")
        assert (row["setup"], row["seed"], row["n_main"], row["rescale"]) == ("PT+FT", "0", "1", "0.5")
        assert f"failed: trouble {trouble}: {reason}" in out
    assert f"6 runs are in {TABLE}: 1 went well, 5 failed" in out
    assert "--retry" in out
    before = len(events())
    assert run(["s.yaml"], toy) == 1
    assert len(events()) == before, "failed runs are tried again only when asked for"


def test_retry() -> None:
    grid([1], 1, trouble=["raises", "none"])
    assert run(["s.yaml"], toy) == 1
    with patch.dict(os.environ, {"NO_TROUBLE": "1"}):
        assert run(["s.yaml", "--retry"], well) == 0
    rows = rows_of(TABLE)
    assert [row["error"] for row in rows] == ["", ""]
    assert {row["run"] for row in rows} == {*names()}
    with ResultsTable(TABLE) as table:
        found = Counter((row["run"], row["measure"]) for row in table.measures())
    assert set(found.values()) == {1}
    assert len(events()) == 5  # two begun and one ended; then one more of each


def test_ctrl_c_ends_everything_and_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    grid([100], 4)
    process = in_a_process("--jobs", "2")
    until(lambda: len(events()) >= 2)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert f"interrupted: 0 of 4 runs are in {TABLE}; the same command goes on from there" in out
    until(lambda: all(gone(int(pid)) for _, _, pid in events()))
    grid([1], 4)
    assert run(["s.yaml"], toy) == 0


def test_nobody_outlives_a_scheduler_that_is_killed() -> None:
    grid([1], 1, trouble=["waits"])
    process = in_a_process()
    until(lambda: len(events()) == 2)
    pids = [int(pid) for _, _, pid in events()]
    assert not any(map(gone, pids))
    process.kill()
    process.wait()
    until(lambda: all(map(gone, pids)), seconds=10)


def test_a_server_that_imports_ends_with_its_scheduler(tmp_path: Path) -> None:
    (tmp_path / "slow_module.py").write_text("import time\nfor _ in range(1000):\n    time.sleep(0.05)\n")
    ours, theirs = socket.socketpair()
    with theirs:
        server = subprocess.Popen(
            [sys.executable, "-m", "lit_aux.runs.server", str(theirs.fileno())], pass_fds=[theirs.fileno()]
        )
    ours.sendall(json.dumps({"modules": ["slow_module"], "path": [str(tmp_path)]}).encode() + b"\n")
    with open(os.devnull) as file:
        socket.send_fds(ours, [b"f"], [file.fileno()])  # a child is asked for meanwhile
    with pytest.raises(subprocess.TimeoutExpired):
        server.wait(1)
    ours.close()
    assert server.wait(5) == 0


def test_the_server_of_processes_may_be_killed() -> None:
    grid([20], 10)
    process = in_a_process("--jobs", "2")
    until(lambda: sum(kind == "end" for kind, *_ in events()) >= 2)
    (server,) = (p for p in Path("/proc").glob("[0-9]*") if is_server_of(process.pid, p))
    os.kill(int(server.name), signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    check_all(10)


def is_server_of(parent: int, place: Path) -> bool:
    """Return whether a process forks the runs of another."""
    try:
        words = (place / "stat").read_text().rpartition(")")[2].split()
        return int(words[1]) == parent and b"lit_aux.runs.server" in (place / "cmdline").read_bytes()
    except OSError:
        return False


def test_each_run_computes_on_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from lit_aux.runs.child import share

    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for given, place, expected in ((None, 0, "0"), (None, 3, "1"), ("4,6", 1, "6"), ("5", 1, "5")):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if given:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        share(1, place)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    share(1, 0)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_second_scheduler_is_refused() -> None:
    grid([1], 1)
    with ResultsTable(TABLE), pytest.raises(ConfigurationError, match=r"process \d+ on .* is writing it"):
        run(["s.yaml"], toy)


def test_a_full_disk_ends_the_sweep_and_fails_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    grid([1], 2, trouble=["none", "full"])
    assert run(["s.yaml"], toy) == 1
    out = capsys.readouterr().out
    assert "lit-aux: error: runs/sweeps/s/runs/" in out
    assert "no space is left on the disk" in out
    assert "interrupted: 1 of 4 runs" in out
    assert [row["error"] for row in rows_of(TABLE)] == [""]
    assert run(["s.yaml"], well) == 0  # once there is space, the same command goes on
    check_all(4)


def test_cores_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    from lit_aux.runs import processes

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(processes, "cores", lambda: 7)
    assert [processes.threads_of(jobs) for jobs in (1, 2, 7, 9)] == [7, 3, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert [processes.threads_of(jobs) for jobs in (1, 2, 7)] == [2, 2, 1]


def test_processes_import_while_options_are_looked_at_and_end_where_they_are_refused() -> None:
    grid([1], 1)
    before, meanwhile = processes_of_here(), set()

    def check(options: list[str]) -> None:
        meanwhile.update(processes_of_here() - before)
        raise ConfigurationError("--trouble: refused")

    with pytest.raises(ConfigurationError, match="refused"):
        run(["s.yaml"], toy, check)
    assert len(meanwhile) == 1
    assert processes_of_here() == before
    assert not Path("runs").exists()


def say_who(report: Report) -> None:
    """Tell the number of this process."""
    report.rows(str(os.getpid()), [], [])


def test_an_idle_process_ends_when_a_job_comes_that_it_cannot_take() -> None:
    told: list[int] = []
    children = Children(1)
    try:
        for reuse in (True, True, False):
            job = Job("who", {}, say_who, reuse=reuse)
            children.carry_out(job, 0, lambda event: told.append(int(event.content[0])))
        first, second, third = told
        assert first == second != third
        assert not Path(f"/proc/{first}").exists()
    finally:
        children.close()


def test_no_more_than_jobs_at_a_time() -> None:
    grid([10], 6)
    sweep = read_sweep("s.yaml")
    runs = sweep_runs(sweep, points(sweep), Path("runs/sweeps/s"))
    with ResultsTable(TABLE) as table, Progress(6) as progress:
        Runner(Processes(3), progress, table.append).run(jobs_of(runs, toy))
    under_way, most = 0, 0
    for kind, *_ in events():
        under_way += 1 if kind == "begin" else -1
        most = max(most, under_way)
    assert most == 3
    marks = [json.loads(path.read_text()) for path in Path("runs/sweeps/s/runs").glob("*/ended.json")]
    assert all(0.1 <= mark["seconds"] < 5 for mark in marks)


def test_a_server_whose_scheduler_dies_with_messages_unread_ends_quietly(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        server = subprocess.Popen(
            [sys.executable, "-m", "lit_aux.runs.server", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        )
    ours.sendall(json.dumps({"modules": [], "path": [str(tmp_path)]}).encode() + b"\n")
    child, others = socket.socketpair()
    with others:
        socket.send_fds(ours, [b"f"], [others.fileno()])
    child.close()  # it ends, and the server tells so
    assert select.select([ours], [], [], 60)[0]
    ours.close()
    assert server.communicate(timeout=60)[1].count("Traceback") <= 1  # the child's own, if any
    assert server.returncode == 0
