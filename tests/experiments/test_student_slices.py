"""A slice of small students: rows come as replicas end, and mixing sizes changes no number."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lit_aux.experiments import Options, Run
from lit_aux.experiments.protocol import published
from lit_aux.experiments.reproduction import slice_job, train_students
from lit_aux.experiments.students import _Slice
from lit_aux.runs.engines import Processes
from lit_aux.runs.progress import Progress
from lit_aux.runs.runner import Runner

SMALL = {"in_features": 24, "k_aux": 4, "n_aux": 40, "n_test": 60, "threshold": 1e-6, "dtype": "float64"}
Row = dict[str, Any]


def runs_of(setup: str, sizes: Sequence[int], seeds: Sequence[int] = (0,), **changes: Any) -> list[Run]:
    """Runs of diagonal networks, small enough to end in a moment."""
    runs = []
    for n in sizes:
        for seed in seeds:
            axes = {"seed": seed, "n_main": n, "k_main": 4, "overlap": 4}
            protocol = published("diagonal-overlap", setup, axes, 24, 4)
            runs.append(Run("diagonal-overlap", setup, axes, replace(protocol, **{**SMALL, **changes})))
    return runs


class Told:
    """Hears of a slice: ``step`` and ``emit`` are called with what is told."""

    def __init__(
        self,
        runs: Sequence[Run],
        step: Callable[[int, int], None],
        emit: Callable[[Run, Row, list[Row]], None],
    ) -> None:
        self.runs, self.step, self.emit = {run.run_hash: run for run in runs}, step, emit

    def rows(self, run: str, rows: Sequence[Row], measures: Sequence[Row]) -> None:
        (row,) = rows
        assert row["run"] == run
        assert all(measure["run"] == run for measure in measures)
        self.emit(self.runs[run], row, list(measures))


def train(runs: Sequence[Run], store: Path) -> tuple[dict[Run, Row], list[tuple[str, int]]]:
    """Return the rows, and in which order what was told: how many were under way, which size ended."""
    rows: dict[Run, Row] = {}
    events: list[tuple[str, int]] = []

    def emit(run: Run, row: Row, measures: list[Row]) -> None:
        assert {"l1", "evaluations"} <= {measure["measure"] for measure in measures}
        assert run not in rows
        rows[run] = row
        events.append(("ended", run.axes["n_main"]))

    def progress(active: int, steps: int) -> None:
        events.append(("under way", active))

    train_students(Told(runs, progress, emit), runs, Options(device="cpu", store=store))
    assert set(rows) == set(runs)
    return rows, events


def test_a_worker_trains_as_this_process_does(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    groups = [runs_of("PT+FT", [8, 12]), runs_of("PT+FT (LP)", [8, 12])]
    expected = [train(group, tmp_path / "here")[0] for group in groups]
    found: dict[str, Row] = {}
    with Progress(4) as progress:
        options = Options(device="cpu", store=tmp_path / "there")
        runner = Runner(Processes(1), progress, lambda rows, _: found.update({r["run"]: r for r in rows}))
        runner.run([slice_job(group, options) for group in groups])
    assert runner.failures == []
    for run, row in (expected[0] | expected[1]).items():
        assert found[run.run_hash]["loss_best"] == pytest.approx(row["loss_best"], rel=1e-2)
    assert capfd.readouterr().err == ""  # nothing of Lightning's


@pytest.mark.parametrize("setup", ["STL", "MTL", "PT+FT", "PT+FT (LP)"])
def test_mixed_sizes_give_the_numbers_of_each_alone(setup: str, tmp_path: Path) -> None:
    together, _ = train(runs_of(setup, [8, 12, 16], [0, 1]), tmp_path)
    for n in (8, 16):
        alone, _ = train(runs_of(setup, [n], [0, 1]), tmp_path)
        for run, row in alone.items():
            assert row["converged"]
            assert together[run]["loss_best"] == pytest.approx(row["loss_best"], rel=1e-2)


def test_rows_come_as_replicas_end(tmp_path: Path) -> None:
    rows, events = train(runs_of("STL", [4, 20], threshold=1e-12), tmp_path)
    first = events.index(("ended", 4))
    assert events[first - 1] == ("under way", 1)
    assert ("under way", 1) in events[first + 1 :]
    assert events[-1] == ("ended", 20)
    seconds = {run.axes["n_main"]: row["seconds"] for run, row in rows.items()}
    assert 0 < seconds[4] < seconds[20]


def test_rows_survive_an_interrupted_slice(tmp_path: Path) -> None:
    rows = []

    def progress(active: int, steps: int) -> None:
        if rows:
            raise KeyboardInterrupt

    def emit(run: Run, row: Row, measures: list[Row]) -> None:
        rows.append(row)

    runs = runs_of("STL", [4, 20], threshold=1e-12)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train_students(Told(runs, progress, emit), runs, Options(store=tmp_path))
    assert len(rows) == 1


def test_seeds_are_pretrained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrained: list[int] = []
    pretrain = _Slice._pretrain

    def count(self: _Slice, seeds: list[int], files: dict[int, Path]) -> None:
        pretrained.extend(seeds)
        pretrain(self, seeds, files)

    monkeypatch.setattr(_Slice, "_pretrain", count)
    train(runs_of("PT+FT", [8, 12], [0, 1]), tmp_path)
    train(runs_of("PT+FT (LP)", [12], [1, 2]), tmp_path)
    assert pretrained == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == 3
