"""Rows of a results table: solved, against rows that were trained; and tables that cannot be read so."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_aux.cli.regime import run
from lit_aux.data import DiagonalTeacherDataModule
from lit_aux.errors import ConfigurationError
from lit_aux.experiments import Options, Run, cells
from lit_aux.regimes import read_results, results_rows, summarize
from lit_aux.runs.table import COLUMNS

Table = Callable[..., Path]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    def write(experiment: str = "diagonal-overlap", setup: str = "PT+FT", **options: object) -> Path:
        place = {"overlap": [40], "rescale": 1.0} if experiment == "diagonal-overlap" else {"k_main": 5}
        found = cells(experiment, setup, 0, 16, Options(**options), **place)  # type: ignore[arg-type]
        lines = [",".join(COLUMNS)]
        for one in found:
            row = {name: str(value) for name, value in one.identity.items()}
            row["correlation"] = row.get("correlation", "").strip("()").replace(", ", "|")
            lines.append(",".join(row.get(name, "") for name in COLUMNS))
        path = tmp_path / "results.csv"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def test_runs_that_failed_are_passed_over(table: Table) -> None:
    path = table()
    (student,), note = read_results(path)
    lines = path.read_text().splitlines()
    fields = lines[1].split(",")
    fields[0], fields[-1] = "0" * 12, "killed by SIGKILL"
    path.write_text("\n".join([*lines, ",".join(fields)]) + "\n")
    (again,), same = read_results(path)
    assert (again.beta == student.beta).all()
    assert same == note


def test_a_table_without_the_column_of_errors_is_read(table: Table) -> None:
    path = table()
    path.write_text("\n".join(line.rpartition(",")[0] for line in path.read_text().splitlines()) + "\n")
    assert len(read_results(path)[0]) == 1


def test_a_row_is_solved(table: Table) -> None:
    path = table()
    (student,), note = read_results(path)
    assert note == "solved: the limit of gradient flow in place of the rows' own weights"
    data = DiagonalTeacherDataModule(0, 16, overlap=40, k_main=40)
    x, y = data.train_set(0, "main")
    torch.testing.assert_close(x.double() @ student.beta, y[:, 0].double(), rtol=0, atol=1e-6)
    # pretraining finds the auxiliary teacher: w+^2 or w-^2 is about |beta_aux|, the other stays small
    teacher = data.teacher(0, "aux").double()
    strength = student.first.square()
    torch.testing.assert_close(strength.max(0).values, teacher.abs(), rtol=0.02, atol=1e-4)
    assert int(student.made.sum()) == 40
    # R'(beta) = asinh(beta / 2 sqrt(AB)) + log(B / A) / 2 lies in the row space of the inputs at the limit
    v = 1e-3
    w = student.first
    a = ((w[0] + v) ** 2 + (w[1] - v) ** 2) / 4
    b = ((w[0] - v) ** 2 + (w[1] + v) ** 2) / 4
    alpha = student.place().beta_aux[0] + v**2
    torch.testing.assert_close(alpha, 2 * (a * b).sqrt())
    slope = torch.asinh(student.beta / alpha) + (b / a).log() / 2
    basis = torch.linalg.qr(x.double().T).Q
    assert float((slope - basis @ (basis.T @ slope)).norm() / slope.norm()) < 1e-6


def test_rescaling_moves_readouts_too(table: Table) -> None:
    students, _ = read_results(table("diagonal-rescaling"))
    assert len(students) == 8
    by_factor = {student.factor: student for student in students if student.cell["overlap"] == 5}
    assert [round(by_factor[s].gamma, 12) for s in (1.0, 0.1, 0.01, 0.001)] == [1e-3, 1e-4, 1e-5, 1e-6]
    # from lazy to rich as weights shrink; a factor for one student predicts the place of another
    assert [summarize([by_factor[s]]).dependence < -0.5 for s in (1.0, 0.1)] == [True, False]
    moved = by_factor[1.0].place(0.1).beta_aux[0]
    torch.testing.assert_close(moved, by_factor[0.1].place().beta_aux[0])


def test_draws_are_told_by_the_hash(table: Table) -> None:
    (student,), note = read_results(table(sampling="independent"))
    assert "assumed" not in note
    (published,), _ = read_results(table(), sampling="published")
    assert not torch.equal(student.beta, published.beta)
    _, note = read_results(table(tolerance=0.5))
    assert "1 of 1 rows had other options, published draws are assumed" in note


def test_on_the_command_line(table: Table, capsys: pytest.CaptureFixture[str]) -> None:
    path = table()
    name = path.read_text().splitlines()[1][:4]
    assert run(["--results", str(path), f"--run={name}", "--out", "found"], fit=lambda words: None) == 0
    assert "rescale" in capsys.readouterr().out
    assert {"regime.json", "regime.png"} == {file.name for file in Path("found").iterdir()}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--results", "none.csv"], "there is no such file"),
        (["--results", "other.csv"], "no results table of lit-aux reproduce"),
        (["--results", "binary.csv"], "no results table of lit-aux reproduce"),
        (["--results", "results.csv", "--run", "zz"], "no run of results.csv begins with it"),
        (["--results", "results.csv", "--run", ""], "--run: "),
        (["--results", "results.csv", "runs"], "'runs': has no meaning with --results"),
        (["--results", "results.csv", "--factors", "[1]"], "--factors .*no meaning with --results"),
        (["--results", "results.csv", "--sampling", "publisht"], "did you mean 'published'"),
        (["--results"], "--results: nothing is given"),
    ],
)
def test_bad_words(words: list[str], told: str, table: Table) -> None:
    table("diagonal-rescaling")
    Path("other.csv").write_text("a,b\n1,2\n")
    Path("binary.csv").write_bytes(bytes(range(256)))
    with pytest.raises(ConfigurationError, match=told) as raised:
        run(words, fit=lambda words: None)
    assert "\n" not in str(raised.value)
    assert not list(Path.cwd().glob("regime*"))


@pytest.mark.parametrize(
    ("experiment", "setup", "told"),
    [
        ("fashion-resnet18", "PT+FT", "trains deep networks; ask with --config FILE --factors LIST"),
        ("diagonal-overlap", "STL", "no row is of PT"),
    ],
)
def test_rows_that_cannot_be_solved(experiment: str, setup: str, told: str, tmp_path: Path) -> None:
    details = {setup: {}}
    found = cells(experiment, setup, 0, 20, details=details)[0]
    row = {**dict.fromkeys(COLUMNS, ""), **{name: str(v) for name, v in found.identity.items()}}
    row["correlation"] = "1"
    path = tmp_path / "results.csv"
    path.write_text(",".join(COLUMNS) + "\n" + ",".join(row[name] for name in COLUMNS) + "\n")
    with pytest.raises(ConfigurationError, match=told):
        read_results(path)


def test_rows_of_a_fit_have_weights_of_their_own(table: Table) -> None:
    path = table()
    path.write_text(path.read_text().replace("diagonal-overlap", "diagonal"))
    with pytest.raises(ConfigurationError, match="give the run's folder"):
        read_results(path)


def test_a_relu_row_trains_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the pretrained network that the table's run left; its units say what regime they are in."""
    shorter = {"in_features": 6, "hidden": 20, "n_aux": 30, "n_test": 20}
    real = results_rows.cells

    def small(*args: Any, **kwargs: Any) -> list[Run]:
        return [replace(run, protocol=replace(run.protocol, **shorter)) for run in real(*args, **kwargs)]

    monkeypatch.setattr(results_rows, "cells", small)
    options = Options(output_scale="units", max_steps=None)
    place: dict[str, Any] = {"correlation": 1.0, "k_main": 2, "rescale": 0.1}
    (one,) = small("relu-rescaling", "PT+FT", 0, 32, options, **place)
    one = replace(one, protocol=replace(one.protocol, k_aux=2))
    monkeypatch.setattr(
        results_rows, "cells", lambda *a, **k: [one] if k["options"] == options else small(*a, **k)
    )
    row = {**dict.fromkeys(COLUMNS, ""), **{name: str(v) for name, v in one.identity.items()}}
    row["correlation"] = "1.0|1.0"
    path = tmp_path / "results.csv"
    path.write_text(",".join(COLUMNS) + "\n" + ",".join(row[name] for name in COLUMNS) + "\n")
    (student,), note = read_results(path)
    assert note == "trained again: rows hold no weights"
    assert student.penalty == "relu"
    assert student.factor == 0.1
    (file,) = (tmp_path / "phases").glob("relu-0-*.pt")
    pretrained = torch.load(file, weights_only=True)[: 20 * 6].view(20, 6).double()
    torch.testing.assert_close(student.first[0], pretrained.norm(dim=1), rtol=1e-5, atol=1e-9)
    # what it learned fits the main task: the network that these units make is the one that was trained
    assert float(student.beta.abs().sum()) > 0.5
    assert student.place().beta_aux.shape == (1, 20)
