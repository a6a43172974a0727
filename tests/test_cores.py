"""Cores that a process may use, and those that others leave free."""

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lit_aux import cores
from lit_aux.cli import commands


def groups(folder: Path, lines: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Write control groups; return their root and what a process reads of its own."""
    for name, text in files.items():
        path = folder / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    own = folder / "own"
    own.write_text(lines)
    return folder / "groups", own


@pytest.mark.parametrize(
    ("lines", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3.0),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "50000 100000\n"}, 0.5),
        (
            "4:memory:/x\n3:cpuacct,cpu:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "200000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            2.0,
        ),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, float("inf")),
        ("0::/gone\n", {}, float("inf")),
        ("nonsense\n", {"cpu.max": "100000 100000\n"}, float("inf")),
    ],
)
def test_a_container_grants_a_share(lines: str, files: dict[str, str], quota: float, tmp_path: Path) -> None:
    assert cores._quota(*groups(tmp_path, lines, files)) == quota


def test_there_is_at_least_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_allowed", lambda: {0, 1, 2, 3})
    for quota, count in ((float("inf"), 4), (2.7, 2), (0.5, 1)):
        monkeypatch.setattr(cores, "_quota", lambda quota=quota: quota)
        assert cores.cores() == count


def test_busy_seconds_are_of_these_cores_and_not_of_what_waits_or_yields(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 100 50 30 999 7 1 2 4 0 0\ncpu1 1 0 0 0 0 0 0 0 0 0\nintr 5\n"
    )
    tick = os.sysconf("SC_CLK_TCK")
    assert cores._busy({0}, stat) == pytest.approx((100 + 30 + 1 + 2 + 4) / tick)
    assert cores._busy({0, 1}, stat) == pytest.approx(138 / tick)
    assert cores._busy({0}, tmp_path / "none") is None


@pytest.mark.parametrize(("others", "free"), [(0.0, 4), (0.2, 4), (1.0, 3), (1.9, 2), (4.0, 1), (9.0, 1)])
def test_what_others_compute_is_taken_off(
    others: float, free: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cores, "_allowed", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(cores, "_quota", lambda: float("inf"))
    begun = time.monotonic(), time.process_time()

    def busy(_: set[int]) -> float:  # ours beside theirs
        return time.process_time() - begun[1] + others * (time.monotonic() - begun[0])

    monkeypatch.setattr(cores, "_busy", busy)
    load = cores.Load()
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert load.free() == free
    variables: dict[str, str] = {}
    cores.choose_threads(cores.Load(), variables)
    cores.tell_threads()
    cores.tell_threads()
    line = f"threads: {free}, as others leave {free} of 4 cores free; OMP_NUM_THREADS sets it\n"
    assert capsys.readouterr().err == (line if free < 4 else "")
    assert variables == ({"OMP_NUM_THREADS": str(free)} if free < 4 else {})
    for name in (
        "OMP_NUM_THREADS",
        "GOMP_SPINCOUNT",
        "KMP_BLOCKTIME",
        "MKL_NUM_THREADS",
        "OMP_WAIT_POLICY",
        "LOCAL_RANK",
    ):
        cores.choose_threads(cores.Load(), variables := {name: ""})
        assert variables == {name: ""}


def test_short_work_has_one_thread_where_others_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    others = 0.0
    monkeypatch.setattr(cores, "_allowed", lambda: {0, 1})
    monkeypatch.setattr(cores, "_busy", lambda _: time.process_time() + others * time.monotonic())
    work = cores.ShortWork()
    assert work.threads() == 1  # not known yet
    for taken, threads in ((0.0, None), (1.0, 1), (0.1, None), (0.6, 1)):
        others = taken
        monkeypatch.setattr(work, "_load", cores.Load())
        monkeypatch.setattr(cores, "_SECONDS", 0.02)
        time.sleep(0.03)
        assert work.threads() == threads
        assert work.threads() == threads  # and for a while
    monkeypatch.setattr(cores, "_busy", lambda _: None)
    time.sleep(0.03)
    assert work.threads() == 1


def test_nothing_is_changed_where_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_allowed", lambda: {0, 1})
    monkeypatch.setattr(cores, "_busy", lambda _: None)
    cores.choose_threads(cores.Load(), variables := {})
    assert not variables


def test_a_command_chooses_before_torch_is_there_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[object] = []
    monkeypatch.setattr(commands, "choose_threads", lambda _, variables: chosen.append(variables))
    monkeypatch.setattr(commands, "import_module", lambda _: SimpleNamespace(run=lambda _: 0))
    commands.dispatch(["sweep"])
    assert not chosen
    monkeypatch.delitem(sys.modules, "torch")
    for words in (["table"], ["figures"], ["sweep"], ["sweep", "--help"], ["reproduce"], ["regime", "-h"]):
        commands.dispatch(words)
    assert chosen == [os.environ, os.environ]


@pytest.mark.parametrize(("asked", "meanwhile"), [(1, 1), (None, 2), (5, 2)])
def test_threads_are_put_back(asked: int | None, meanwhile: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with cores.at_most(asked):
            assert torch.get_num_threads() == meanwhile
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
