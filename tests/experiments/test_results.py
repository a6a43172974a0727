"""The results table keeps whole rows, whoever is killed, and one writer at a time."""

import csv
import errno
import os
import signal
import subprocess
import sys
import time
from itertools import permutations
from pathlib import Path

import pytest

from lit_aux.errors import ConfigurationError
from lit_aux.experiments import ResultsTable
from lit_aux.runs.reading import read_rows
from lit_aux.runs.table import COLUMNS, MEASURE_COLUMNS, measures_path, run_hash
from lit_aux.storage import StorageError

DESIGN = """experiment, setup, seed, n_main, overlap, k_main, correlation, magnitude, rescale, solver,
loss_best, loss_final, train_loss, steps, converged, seconds"""
WRITER = """
import sys
from lit_aux.runs.table import ResultsTable
assert "torch" not in sys.modules and "lightning" not in sys.modules
with ResultsTable(sys.argv[1]) as table:
    print("ready", flush=True)
    for i in range(int(sys.argv[2])):
        run = f"{i:012x}"
        if run not in table.done():
            table.append([{"run": run, "setup": "STL" * 60, "seed": i}], [{"run": run, "value": i}] * 3)
"""


def write(path: Path, n: int) -> "subprocess.Popen[str]":
    """Start a process that writes n rows."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(n)], stdout=subprocess.PIPE, text=True
    )


def test_columns_are_those_of_the_design(tmp_path: Path) -> None:
    with ResultsTable(tmp_path / "results.csv") as table:
        table.append([{"run": "a"}])
    expected = ["run", *DESIGN.replace("\n", " ").split(", "), "accuracy", "error"]
    assert (tmp_path / "results.csv").read_text().splitlines()[0].split(",") == expected
    header = (tmp_path / "measures.csv").read_text().splitlines()[0]
    assert header == "run,phase,step,layer,measure,value"


def test_values_are_spelled_so_that_they_read_back(tmp_path: Path) -> None:
    row = {
        "run": "a",
        "setup": "STL (LP)",
        "correlation": (0.0, 1, 0.9),
        "rescale": None,
        "loss_best": 1 / 3,
        "loss_final": float("nan"),
        "train_loss": float("inf"),
        "steps": 7,
        "converged": False,
    }
    with ResultsTable(tmp_path / "results.csv") as table:
        table.append([row])
        (read,) = table.rows()
    assert (read["setup"], read["correlation"], read["steps"]) == ("STL (LP)", "0.0|1.0|0.9", "7")
    assert float(read["loss_best"]) == 1 / 3
    assert (read["rescale"], read["loss_final"], read["train_loss"]) == ("", "", "inf")
    assert (read["converged"], read["accuracy"]) == ("false", "")


@pytest.mark.parametrize(("name", "beside"), [("results.csv", "measures.csv"), ("a.csv", "a.measures.csv")])
def test_measures_lie_beside_the_table(name: str, beside: str, tmp_path: Path) -> None:
    with ResultsTable(tmp_path / name) as table:
        table.append([{"run": "a"}], [{"run": "a", "layer": "first", "measure": "l1", "value": 2.5}])
        assert table.measures() == [
            dict(zip(MEASURE_COLUMNS, ["a", "", "", "first", "l1", "2.5"], strict=True))
        ]
    assert measures_path(tmp_path / name) == tmp_path / beside
    assert (tmp_path / beside).is_file()


def test_a_killed_writer_leaves_whole_rows_and_each_is_there_once_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    for rows in (30, 60):
        writer = write(path, 100_000)
        while not path.exists() or path.read_bytes().count(b"\n") < rows:
            assert writer.poll() is None
            time.sleep(0.002)
        writer.kill()
        assert writer.wait() == -signal.SIGKILL
    text = path.read_text()
    whole = text[: text.rfind("\n")].splitlines()
    assert len(whole) >= 60
    assert all(len(fields) == len(COLUMNS) for fields in csv.reader(whole))
    n = len(whole) + 5
    assert write(path, n).wait() == 0
    with ResultsTable(path) as table:
        assert [row["run"] for row in table.rows()] == [f"{i:012x}" for i in range(n)]
        assert len({row["setup"] for row in table.rows()}) == 1
        measured = [row["run"] for row in table.measures()]
    assert sorted(measured) == sorted([f"{i:012x}" for i in range(n)] * 3)


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_cut_off(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    with ResultsTable(path) as table:
        table.append([{"run": "a", "setup": "STL"}, {"run": "b", "setup": "MTL"}])
    path.write_bytes(path.read_bytes()[:-cut])
    with ResultsTable(path) as table:
        assert table.done() == {"a"}
        table.append([{"run": "b", "setup": "MTL"}])
    with ResultsTable(path) as table:
        assert [(row["run"], row["setup"]) for row in table.rows()] == [("a", "STL"), ("b", "MTL")]


@pytest.mark.parametrize("size", [0, 1, 10])
def test_a_torn_header_is_written_again(size: int, tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(",".join(COLUMNS)[:size])
    with ResultsTable(path) as table:
        table.append([{"run": "a"}])
    assert path.read_text().splitlines() == [",".join(COLUMNS), "a" + "," * (len(COLUMNS) - 1)]


def test_measures_of_a_run_without_row_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    with ResultsTable(path) as table:
        table.append([{"run": "a"}], [{"run": "a", "value": 1}])
        table._measures.append([{"run": "b", "value": 2}])  # killed before the row
    with ResultsTable(path) as table:
        table.append([{"run": "b"}], [{"run": "b", "value": 3}])
        assert [(row["run"], row["value"]) for row in table.measures()] == [("a", "1"), ("b", "3")]


@pytest.mark.parametrize("end", ["", "b,,MTL,tor"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_table_without_errors_is_read_and_gets_the_column(end: str, newline: str, tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    old = [*DESIGN.replace("\n", " ").split(", "), "accuracy"]
    lines = [",".join(["run", *old]), "a,,STL,3" + "," * (len(old) - 3)]
    path.write_bytes(newline.join([*lines, end]).encode())
    before = path.read_bytes()
    ResultsTable(tmp_path / "other.csv").close()
    assert path.read_bytes() == before
    with ResultsTable(path) as table:
        assert [(row["run"], row["seed"], row["error"]) for row in table.rows()] == [("a", "3", "")]
        table.append([{"run": "b", "error": "no memory", "converged": False}])
    read = list(csv.reader(path.read_text().splitlines()))
    assert read[0] == ["run", *old, "error"]
    assert [(len(row), row[0], row[-1]) for row in read[1:]] == [
        (len(old) + 2, "a", ""),
        (len(old) + 2, "b", "no memory"),
    ]


def test_an_upgrade_that_finds_no_room_leaves_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.csv"
    path.write_text(",".join(COLUMNS[:-1]) + "\na" + "," * (len(COLUMNS) - 2) + "\n")
    before = path.read_text()

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="no space is left"):
            ResultsTable(path)
    assert path.read_text() == before
    assert not list(tmp_path.glob(".*.part"))
    with ResultsTable(path) as table:
        assert table.done() == {"a"}


def test_failed_runs_are_known_and_can_be_taken_out_with_their_measures(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    with ResultsTable(path) as table:
        table.append([{"run": "a", "accuracy": 0.5}], [{"run": "a", "measure": "lr", "value": 1}])
        table.append(
            [{"run": run, "error": "killed, or not", "converged": False} for run in "bc"],
            [{"run": run, "measure": "lr", "value": 2} for run in "bc"],
        )
        assert table.failed() == {"b", "c"}
    with ResultsTable(path) as table:
        assert table.failed() == {"b", "c"}
        table.remove(["b", "never there"])
        assert (table.done(), table.failed()) == ({"a", "c"}, {"c"})
        assert [row["run"] for row in table.measures()] == ["a", "c"]
        table.append([{"run": "b", "accuracy": 1}], [{"run": "b", "measure": "lr", "value": 3}])
    with ResultsTable(path) as table:
        assert [(row["run"], row["error"]) for row in table.rows()] == [
            ("a", ""),
            ("c", "killed, or not"),
            ("b", ""),
        ]
        assert [row["run"] + row["value"] for row in table.measures()] == ["a1", "c2", "b3"]


def test_a_writer_killed_while_it_takes_rows_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.csv"
    with ResultsTable(path) as table:
        table.append([{"run": "a", "error": "no"}], [{"run": "a", "value": 1}])
        monkeypatch.setattr(table._measures, "keep", lambda wanted: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            table.remove({"a"})
    with ResultsTable(path) as table:
        assert table.done() == set()
        table.append([{"run": "a"}], [{"run": "a", "value": 2}])
        assert [row["value"] for row in table.measures()] == ["2"]


@pytest.mark.parametrize("name", ["results.csv", "measures.csv"])
@pytest.mark.parametrize("content", ["a,b\n1,2\n", "no table", ",".join(COLUMNS[:-2]) + "\n", "\x00\xff\n"])
def test_another_schema_is_refused_and_left_as_it_is(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigurationError) as error:
        ResultsTable(tmp_path / "results.csv")
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == content


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    writer = write(path, 100_000)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    with pytest.raises(ConfigurationError, match=rf"process {writer.pid} on .* since .* is writing it"):
        ResultsTable(path)
    writer.kill()
    writer.wait()
    with ResultsTable(path) as table:  # whoever is killed holds no lock
        table.append([{"run": "mine"}])
    with ResultsTable(path) as table:
        assert "mine" in table.done()


def test_a_table_without_rows_leaves_nothing(tmp_path: Path) -> None:
    with ResultsTable(tmp_path / "some" / "where" / "results.csv") as table:
        assert (tmp_path / "some" / "where" / "results.csv").is_file()
        assert table.done() == set()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_adds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write

    def half(file: int, content: bytes) -> int:
        if b"\nb," not in b"\n" + content:
            return real(file, content)
        real(file, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with ResultsTable(tmp_path / "results.csv") as table:
        table.append([{"run": "a"}])
        monkeypatch.setattr(os, "write", half)
        with pytest.raises(StorageError, match="no space is left"):
            table.append([{"run": "b"}])
        assert table.done() == {"a"}
        assert [row["run"] for row in table.rows()] == ["a"]


@pytest.mark.parametrize(
    "rows", [[{"run": "a"}], [{"seed": 1}], [{"run": "b"}] * 2, [{"run": "c", "colour": 1}]]
)
def test_what_is_no_row_is_refused(rows: list[dict[str, object]], tmp_path: Path) -> None:
    with ResultsTable(tmp_path / "results.csv") as table:
        table.append([{"run": "a"}])
        with pytest.raises(ValueError, match=r"hash|column"):
            table.append(rows)
        assert [row["run"] for row in table.rows()] == ["a"]


@pytest.mark.parametrize("out", ["", "file.txt/results.csv"])
def test_a_place_that_cannot_be_written(out: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").touch()
    with pytest.raises(ConfigurationError, match="--out"):
        ResultsTable(tmp_path / out)


CONFIG = {"setup": "PT+FT", "lr": 0.1, "steps": 100000, "scale": 1e-3, "axes": {"c": [1.0, 0.0], "s": None}}


def test_the_hash_knows_numbers_by_value_and_keys_by_name() -> None:
    expected = run_hash(CONFIG)
    assert len(expected) == 12
    assert int(expected, 16) >= 0
    for order in permutations(CONFIG):
        assert run_hash({key: CONFIG[key] for key in order}) == expected
    assert run_hash({**CONFIG, "steps": 1e5, "scale": 0.001, "axes": {"s": None, "c": (1, -0.0)}}) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.10000001},
        {"setup": "STL"},
        {"more": None},
        {"axes": {"c": [0.0, 1.0], "s": None}},
        {"steps": True},
    ],
)
def test_the_hash_tells_runs_apart(change: dict[str, object]) -> None:
    assert run_hash({**CONFIG, **change}) != run_hash(CONFIG)


def test_the_hash_refuses_what_it_cannot_spell() -> None:
    with pytest.raises(TypeError):
        run_hash({"model": object()})


@pytest.mark.parametrize(("fields", "what"), [("a,b", "fewer"), (",".join("x" * 30), "more")])
def test_a_line_with_a_wrong_number_of_fields_is_named(fields: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    with ResultsTable(path) as table:
        table.append([{"run": "one"}, {"run": "two"}])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], fields, *lines[2:], ""]))
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=rf"results\.csv: line 3 has {what} fields"):
        ResultsTable(path)
    assert path.read_bytes() == before
    with pytest.raises(
        ConfigurationError, match=rf"results\.csv: line 3 has {len(fields.split(','))} fields"
    ):
        read_rows(path)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["measures.csv", "results.csv"]
