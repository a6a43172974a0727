"""That the benchmark of the students runs, and what its own helpers say."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_the_students_are_benchmarked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import benchmark

    names = ["students", "flow", "solver"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *names, "--quick", "--repetitions", "1"])
    benchmark.main()
    lines = capsys.readouterr().out.splitlines()
    begins = (
        "students: diagonal STL",
        "students: ReLU, gradient_flow: bytes",
        "flow: diagonal MTL",
        "solver: ",
    )
    for begin in begins:
        assert any(line.startswith(begin) for line in lines), begin
    assert not any(" nan" in line or " inf" in line for line in lines)


def test_steps_are_benchmarked() -> None:
    from benchmarks.optimizer import benchmark_optimizer

    rows = benchmark_optimizer(1, quick=True)
    assert len(rows) == 6
    assert all(value > 0 for _, value, _ in rows)


def test_checkpoints_are_benchmarked() -> None:
    from benchmarks.checkpoints import benchmark_checkpoints

    rows = {what: value for what, value, _ in benchmark_checkpoints(1, quick=True)}
    assert all(0 < value < 60 for value in rows.values())
    assert any("times Lightning's" in what for what in rows)


@pytest.mark.slow
def test_few_shot_finetuning_is_benchmarked() -> None:
    from peers.table import benchmark_peers

    rows = {what: value for what, value, _ in benchmark_peers(1, quick=True)}
    assert all(0 < value < 1e5 for value in rows.values())
    assert any("times as fast as plain Lightning" in what for what in rows)


@pytest.mark.slow
def test_the_sweep_is_benchmarked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import benchmark

    monkeypatch.setattr(sys, "argv", ["benchmark.py", "sweep", "--quick"])
    benchmark.main()
    assert "sweep: 2 runs, 2 at a time: all else, over the runs' time" in capsys.readouterr().out


@pytest.mark.slow
def test_many_runs_are_benchmarked() -> None:
    from benchmarks.runs import benchmark_runs

    (cost, *_), *_ = rows = [(what, value) for what, value, _ in benchmark_runs(quick=True)]
    assert cost.startswith("2 runs of 0.5 s, 2 at a time: all else")
    assert all(0 < value < 120 for _, value in rows)


@pytest.mark.slow
def test_batched_runs_are_benchmarked() -> None:
    from benchmarks.batched import benchmark_batched

    (_, alone, _), (_, together, _), (what, ratio, _) = benchmark_batched(1, quick=True)
    assert "4 runs of 20 images" in what
    assert ratio == pytest.approx(together / alone)


@pytest.mark.slow
def test_the_diagnostics_are_benchmarked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import benchmark

    monkeypatch.setattr(sys, "argv", ["benchmark.py", "diagnostics", "--quick", "--repetitions", "1"])
    benchmark.main()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "memory beyond" in line]
    assert line.endswith("ok")


@pytest.mark.parametrize("kind", ["diagonal", "relu"])
def test_the_plain_network_starts_where_the_first_replica_does(kind: str) -> None:
    from benchmarks import plain_students as plain

    students: Any = getattr(plain, kind)(*((1, 2) if kind == "diagonal" else (2,)), quick=True)
    with torch.no_grad():
        for number, weight in enumerate(students.net.parameters()):
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)))
    x, _ = students.data.train_set(0, "main")
    torch.testing.assert_close(plain.plain(students.net)(x), students.net(x, "main")[0, :, 0])


def test_bytes_count_every_storage_once() -> None:
    from benchmarks.student_memory import held_bytes

    x = torch.zeros(10, dtype=torch.float64)
    assert held_bytes({"a": x, "b": [x[:5], x.view(2, 5)]}, torch.zeros(3, dtype=torch.float32)) == 92
