"""A grid that is interrupted anywhere ends with every row once, and wrong commands leave nothing behind."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lit_aux.cli import main
from lit_aux.errors import ConfigurationError
from lit_aux.experiments import Options, ResultsTable, Run, cells, reproduce
from lit_aux.experiments.reproduction import print_summary
from lit_aux.experiments.run import Emit, OnStep
from lit_aux.results.means import TIMES, spelled_mean, stat_of
from lit_aux.runs.progress import Progress

CHOICE: dict[str, Any] = {
    "setups": ["PT+FT", "STL"],
    "seeds": [0, 1, 2],
    "n_main": [32, 16],
    "correlation": [0, 1],
}


class Students:
    """Stands for the training of slices; raises ``error`` instead of row number ``at``."""

    def __init__(self) -> None:
        self.slices: list[list[Run]] = []
        self.ended: list[Run] = []
        self.options: Options | None = None
        self.at, self.error = -1, BaseException()

    def train_slice(self, runs: Sequence[Run], options: Options, progress: OnStep, emit: Emit) -> None:
        self.slices.append(list(runs))
        self.options = options
        for run in reversed(runs):  # whichever is ready first
            progress(len(runs), 10)
            if len(self.ended) == self.at:
                self.at = -1
                raise self.error
            self.ended.append(run)
            row = {"solver": "gradient_flow", "loss_best": run.axes["n_main"] * 1.0, "converged": True}
            emit(run, row, [{"phase": "main", "measure": "l1", "value": run.axes["seed"]}])


@pytest.fixture
def students(monkeypatch: pytest.MonkeyPatch) -> Students:
    made = Students()
    module = SimpleNamespace(train_slice=made.train_slice)
    monkeypatch.setitem(sys.modules, "lit_aux.experiments.students", module)
    monkeypatch.setattr("lit_aux.experiments.reproduction.cores", lambda: 1)
    return made


def rows(path: Path = Path("runs/relu-overlap/results.csv")) -> list[dict[str, str]]:
    with ResultsTable(path) as table:
        assert Counter(row["run"] for row in table.measures()) == Counter(table.done())
        return table.rows()


def test_every_run_gets_its_row(students: Students, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce("relu-overlap", options=Options(replicas_per_slice=4), **CHOICE)
    assert [(len(s), s[0].setup, s[0].axes["n_main"]) for s in students.slices] == [
        (size, setup, n) for setup in ("PT+FT", "STL") for n in (16, 32) for size in (4, 2)
    ]
    expected = {run.run_hash: run for run in cells("relu-overlap", **CHOICE)}
    found = rows()
    assert len(found) == len(expected) == 24
    for row in found:
        run = expected[row["run"]]
        assert (row["experiment"], row["setup"]) == ("relu-overlap", run.setup)
        assert (int(row["seed"]), int(row["n_main"])) == (run.axes["seed"], run.axes["n_main"])
        assert row["correlation"] == "|".join(str(c) for c in run.axes["correlation"])
        assert (row["k_main"], row["magnitude"], row["overlap"], row["accuracy"]) == ("6", "1.0", "", "")
        assert row["rescale"] == ("1.0" if run.setup == "PT+FT" else "")
        assert (row["loss_best"], row["converged"]) == (f"{run.axes['n_main']}.0", "true")
    assert students.options is not None
    assert students.options.store == Path("runs/relu-overlap/phases")
    text = capsys.readouterr().out
    assert "24 of 24 runs done, 24 converged, 0 left" in text
    assert text.count(f"32 {TIMES}1.00") == 4  # two setups and two correlations, of six runs each
    assert text.count("6/6") == 4


@pytest.mark.parametrize("at", [0, 1, 9, 23])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_an_interrupted_grid_goes_on(
    at: int, error: BaseException, students: Students, capsys: pytest.CaptureFixture[str]
) -> None:
    students.at, students.error = at, error
    assert not reproduce("relu-overlap", **CHOICE)
    assert f"interrupted: {at} of 24 runs" in capsys.readouterr().out
    assert reproduce("relu-overlap", **CHOICE)
    expected = {run.run_hash for run in cells("relu-overlap", **CHOICE)}
    assert Counter(row["run"] for row in rows()) == Counter(expected)
    assert Counter(students.ended) == Counter({run: 1 for run in cells("relu-overlap", **CHOICE)})
    assert f"{at} of 24 runs done, {at} converged" in capsys.readouterr().out  # the second began with these


def test_a_failure_keeps_the_rows(students: Students) -> None:
    students.at, students.error = 7, ConfigurationError("--model: no")
    with pytest.raises(ConfigurationError, match="no"):
        reproduce("relu-overlap", **CHOICE)
    assert len(rows()) == 7


def test_asking_for_more_adds_to_the_table(students: Students, tmp_path: Path) -> None:
    out = tmp_path / "all.csv"
    assert reproduce("relu-overlap", **CHOICE, out=out)
    assert reproduce("relu-overlap", **{**CHOICE, "setups": "MTL"}, out=out)
    assert reproduce("diagonal-overlap", setups="STL", seeds=0, n_main=16, out=out)
    before = len(students.ended)
    assert reproduce("relu-overlap", **{**CHOICE, "setups": ["MTL", "STL"]}, out=out)
    assert len(students.ended) == before
    assert Counter(row["experiment"] for row in rows(out)) == {"relu-overlap": 36, "diagonal-overlap": 4}


def test_a_slice_must_end_all_its_runs(students: Students, monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(train_slice=lambda runs, options, progress, emit: emit(runs[0], {}, []))
    monkeypatch.setitem(sys.modules, "lit_aux.experiments.students", module)
    with pytest.raises(RuntimeError, match="5 of 6 runs"):
        reproduce("relu-overlap", **CHOICE)


def test_command(students: Students) -> None:
    words = ["reproduce", "diagonal-overlap", "--setups", "[STL, PT+FT]", "--seeds", "[0, 1]"]
    words += ["--n-main", "[16]", "--overlap", "40", "--out", "table.csv", "--tolerance", "1e-3"]
    assert main(words) == 0
    assert len(students.ended) == 4
    assert main([word.replace("n-main", "n_main") for word in words]) == 0
    assert len(students.ended) == 4
    with ResultsTable("table.csv") as table:
        assert {(row["setup"], row["seed"]) for row in table.rows()} == {
            (setup, seed) for setup in ("STL", "PT+FT") for seed in "01"
        }
    assert students.options is not None
    assert students.options.tolerance == 1e-3


def test_command_after_ctrl_c(students: Students) -> None:
    students.at, students.error = 2, KeyboardInterrupt()
    words = ["reproduce", "diagonal-overlap", "--setups=[STL (LP)]", "--seeds=0", "--n-main=16"]
    assert main(words) == 130
    assert main(words) == 0


def test_help_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for name in (
        "diagonal-rescaling",
        "relu-large",
        "fashion-vit",
        "--n-main",
        "--k-main",
        "--max-steps",
        "--jobs",
        "(LP)",
    ):
        assert name in text


BAD: list[tuple[str, list[str]]] = [
    ("", ["EXPERIMENT", "relu-overlap"]),
    ("relu-overlapp", ["EXPERIMENT", "'relu-overlap'"]),
    ("relu-overlap 1", ["'1' belongs to no option"]),
    ("relu-overlap --setup STL", ["'--setup'", "'--setups'"]),
    ("relu-overlap --setups STLL", ["--setups", "'STLL'"]),
    ("relu-overlap --colour 1", ["--colour"]),
    ("relu-overlap --correlation 2", ["--correlation 2"]),
    ("diagonal-overlap --overlap 41", ["--overlap 41"]),
    ("relu-overlap --k-main 10", ["--k-main 10"]),
    ("relu-overlap --n-main [16,", ["--n-main '[16,'"]),
    ("relu-overlap --tolerance small", ["--tolerance", "'small'"]),
    ("relu-overlap --integrator runge", ["--integrator", "'runge'"]),
    ("relu-overlap --device abacus", ["--device abacus"]),
    ("relu-overlap --dtype float16", ["--dtype", "float64"]),
    ("relu-overlap --max-steps 0", ["--max-steps 0"]),
    ("relu-overlap --replicas-per-slice 0", ["--replicas-per-slice 0"]),
    ("relu-overlap --jobs 0", ["--jobs 0"]),
    ("relu-overlap --jobs many", ["--jobs", "'many'"]),
    ("relu-overlap -- --data.root=x", ["--data.root"]),
    ("fashion-vit --tolerance 1", ["--tolerance", "fashion-vit"]),
    ("fashion-vit --overlap 1", ["--overlap 1", "fashion-vit"]),
    ("fashion-vit --jobs 2", ["--jobs 2", "fashion-vit"]),
    ("fashion-vit --configs nowhere", ["--configs nowhere", "fashion/vit_stl.yaml"]),
]


@pytest.mark.parametrize(("words", "expected"), BAD, ids=[words for words, _ in BAD])
def test_bad_commands(
    words: str, expected: list[str], students: Students, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", *words.split()]) == 2
    streams = capsys.readouterr()
    (line,) = streams.err.splitlines()
    assert line.startswith("lit-aux: error: ")
    assert all(part in line for part in expected), line
    assert not students.slices
    assert not list(Path.cwd().iterdir())


def test_another_table_is_not_overwritten(students: Students, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.csv").write_text("a,b\n1,2\n")
    assert main(["reproduce", "relu-overlap", "--out", "mine.csv"]) == 2
    assert "mine.csv" in capsys.readouterr().err
    assert Path("mine.csv").read_text() == "a,b\n1,2\n"
    assert not students.slices
    assert [path.name for path in Path.cwd().iterdir()] == ["mine.csv"]


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with Progress(3, 1, 0) as progress:
        progress.begin("STL, n 16")
        progress.step(2, 1000)
        progress.end(True)
    text = capsys.readouterr().out
    assert "2 of 3 runs done, 1 converged, 1 left" in text
    assert "STL, n 16" in text


def test_lines_without_a_terminal_come_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(1000, seconds=60) as progress:
        progress.begin("STL, n 16")
        for i in range(1000):
            progress.step(1000 - i, i)
            progress.end(i % 2 == 0)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "0 of 1000 runs done, 0 converged, 1000 left",
        "1000 of 1000 runs done, 500 converged, 0 left",
    ]


def test_progress_of_several_workers(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(9, seconds=0) as progress:
        progress.begin("MTL, n 16", 1)
        progress.begin("STL, n 8", 0)
        progress.step(5, 1000, 1)
        progress.over(0)
        progress.note("STL, n 8: no luck")
        progress.begin("STL, n 4", 0)
        progress.begin("STL, n 2", 2)
    lines = [line.partition(" left")[2].strip(" ()") or line for line in capsys.readouterr().out.splitlines()]
    assert lines[1:-1] == [
        "MTL, n 16",
        "STL, n 8 | MTL, n 16",
        "STL, n 8 | MTL, n 16: 5 training, 1,000 steps",
        "MTL, n 16: 5 training, 1,000 steps",
        "STL, n 8: no luck",
        "STL, n 4 | MTL, n 16: 5 training, 1,000 steps",
        "3 slices",
    ]


@pytest.mark.parametrize(
    ("values", "text"), [([], "-"), ([None, 2], "2"), ([1, 3], "2 ± 1"), ([1e-9, 3e-9], "2e-09 ± 1e-09")]
)
def test_mean_and_error(values: list[Any], text: str) -> None:
    assert spelled_mean(stat_of([*values, float("nan")]), log=False) == text


@pytest.mark.parametrize(
    ("numbers", "value", "mean"),
    [
        # sqrt(.01 * .04) = .02, and log10 of the two has the standard error log10(2); arithmetic: .025
        ([{"loss_best": "0.01"}, {"loss_best": "0.04"}], "loss_best", ["0.02", f"{TIMES}2.00"]),
        ([{"accuracy": "0.25"}, {"accuracy": "0.75"}], "accuracy", ["0.5", "±", "0.25"]),
    ],
)
def test_reproduce_and_table_print_the_same_means(
    numbers: list[dict[str, str]],
    value: str,
    mean: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = {"experiment": "diagonal-overlap", "setup": "STL", "n_main": 16, "converged": True}
    rows = [{"run": f"r{seed}", "seed": seed, **place, **found} for seed, found in enumerate(numbers)]
    with ResultsTable(tmp_path / "results.csv") as table:
        table.append(rows)
        print_summary(table.rows(), value, table.path)
    (printed,) = [
        words for line in capsys.readouterr().out.splitlines() if (words := line.split())[:1] == ["STL"]
    ]
    assert printed[1 : 1 + len(mean)] == mean
    assert main(["table", str(tmp_path)]) == 0
    (tabled,) = [
        words for line in capsys.readouterr().out.splitlines() if (words := line.split())[:1] == ["STL"]
    ]
    assert tabled[1 : 1 + len(mean)] == mean
