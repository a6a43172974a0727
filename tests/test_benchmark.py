"""That the benchmark of the students runs, and what its own helpers say."""

import sys
from importlib.util import find_spec
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
@pytest.mark.parametrize(
    ("subject", "plain", "packages"),
    [
        ("few-shot", "plain Lightning", {}),
        ("multi-task", "Lightning and DataLoader", {"LibMTL": "LibMTL"}),
        ("gradient-balancing", "TorchJD by hand", {}),
        ("finetuning", "plain Lightning", {"finetuning-scheduler": "finetuning_scheduler"}),
        ("short-runs", "a loop of lit-aux fit", {}),
    ],
)
def test_what_people_would_use_instead_is_benchmarked(
    subject: str, plain: str, packages: dict[str, str]
) -> None:
    from peers.table import benchmark_peers

    rows = {what: value for what, value, _ in benchmark_peers(1, quick=True, subjects=[subject])}
    assert any(f"times as fast as {plain}" in what for what in rows)
    absent = {name: package for name, package in packages.items() if find_spec(package) is None}
    for name in packages:
        said = f"{packages[name]} is not installed" if name in absent else f"times as fast as {name}"
        assert any(said in what for what in rows), said
    assert all("is not installed" in what or 0 < value < 1e5 for what, value in rows.items())
    if absent:
        pytest.skip(
            f"{', '.join(absent)}: not installed, see scripts/peers/requirements.txt; the rest passed"
        )


def test_dimensionality_agrees_with_that_of_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import benchmark

    words = ["peers", "--subject", "dimensionality", "--quick", "--repetitions", "1"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *words])
    benchmark.main()
    lines = capsys.readouterr().out.splitlines()
    agreed = [line for line in lines if "largest over smallest" in line]
    assert len(agreed) == (2 if find_spec("rsatoolbox") is None else 3)
    assert all(line.endswith("ok") for line in agreed)
    assert not any(" nan" in line for line in lines)
    if find_spec("rsatoolbox") is None:
        assert any(
            line.endswith("rsatoolbox is not installed: see scripts/peers/requirements.txt") for line in lines
        )


def test_ways_are_compared_in_turns_and_what_is_absent_is_said() -> None:
    from peers.comparison import OURS, Outcome, compare

    order: list[str] = []

    def way(name: str, *seconds: float) -> Any:
        times = iter(seconds)

        def run(folder: Path) -> Outcome:
            assert folder.is_dir()
            order.append(name)
            return Outcome(next(times), {"ours": 1.0, "slow": 1.25}[name])

        return run

    ways = {OURS: way("ours", 1, 2, 9), "slow": way("slow", 4, 4, 4), "absent": way("absent")}
    targets = {"slow": ">= 1.5"}
    rows = compare("work", "ms a step", ways, targets, 3, {"absent": "no_such_package"}, ("values", "<= 1.3"))
    assert order == ["ours", "slow", "slow", "ours", "ours", "slow"]
    assert rows[:4] == [
        ("work, ours: ms a step", 2000, ""),
        ("work, slow: ms a step", 4000, ""),
        ("work: times as fast as slow", 2, ">= 1.5"),  # the median of 4, 2 and 4/9
        ("work: values 1, 1.25: largest over smallest", 1.25, "<= 1.3"),
    ]
    (said, number, target) = rows[4]
    assert said == "work: no_such_package is not installed: see scripts/peers/requirements.txt"
    assert number != number
    assert target == ""


def test_packages_compared_with_are_pinned_and_no_dependency() -> None:
    lines = (SCRIPTS / "peers" / "requirements.txt").read_text().splitlines()
    pinned = [line.split("==") for line in lines if not line.startswith("#")]
    assert pinned
    assert all(len(parts) == 2 for parts in pinned)
    lock = (SCRIPTS.parent / "uv.lock").read_text().lower()
    assert not any(f'name = "{name.lower()}"' in lock for name, _ in pinned)


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
