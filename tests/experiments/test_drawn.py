"""Rows that were drawn otherwise are no other rows: neither done, nor appended to, nor averaged."""

from pathlib import Path
from typing import Any

import pytest

from lit_aux.cli import main
from lit_aux.errors import ConfigurationError
from lit_aux.experiments import Options, ResultsTable, Run, cells, reproduce
from lit_aux.runs import read_rows
from lit_aux.runs.table import run_hash
from lit_aux.teachers import drawn_word, output_scales, spelled

PLACE: dict[str, Any] = {"setups": "STL", "seeds": 0, "n_main": 16}


def one(name: str, **options: Any) -> Run:
    return cells(name, **PLACE, k_main=5, options=Options(**options))[0]


def write(path: Path, *runs: Run) -> Path:
    with ResultsTable(path) as table:
        table.append([{**run.identity, "solver": "exact", "loss_best": 1.0} for run in runs])
    return path


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("diagonal-sparsity", {}, "-p1uus"),
        ("diagonal-rescaling", {}, "-p1uus"),
        ("diagonal-sparsity", {"output_scale": "sqrt"}, ""),
        ("diagonal-sparsity", {"output_scale": {"main": "sqrt"}}, "-p1sus"),
        ("diagonal-sparsity", {"sampling": "independent"}, "-i1uus"),
        ("relu-sparsity", {}, "-p2uus"),
        ("relu-rescaling", {}, "-p2uus"),
        ("relu-sparsity", {"sampling": "independent", "output_scale": "sqrt"}, "-i1sss"),
    ],
)
def test_the_name_of_a_run_tells_draws_and_sizes(name: str, options: dict[str, Any], word: str) -> None:
    assert one(name, **options).run_hash[12:] == word


def test_overlap_and_correlation_have_the_published_sizes() -> None:
    assert cells("diagonal-overlap", **PLACE)[0].run_hash.isalnum()  # tables of before go on
    assert cells("relu-overlap", **PLACE)[0].run_hash.endswith("-p2sss")
    assert cells("relu-correlation", **PLACE | {"n_main": 32})[0].run_hash.endswith("-p2uuu")


def test_old_names_of_diagonal_runs_are_the_names() -> None:
    run = one("diagonal-sparsity", output_scale="sqrt")
    assert run.protocol is not None
    numbers = {"integrator": "gradient_flow", "sampling": "published", "stride": 50}
    numbers |= {"tolerance": 1e-2, "max_evaluations": 20_000}
    parts = {"experiment": run.experiment, "setup": "STL", "axes": run.axes, "protocol": vars(run.protocol)}
    assert run.run_hash == run_hash({**parts, "options": numbers})


def test_other_sizes_and_draws_are_other_runs() -> None:
    hashes = [
        one(name, **options).run_hash[:12]
        for name in ("diagonal-sparsity", "relu-sparsity")
        for options in (
            {},
            {"output_scale": "sqrt"},
            {"output_scale": "units"},
            {"sampling": "independent"},
            {"output_scale": {"pretrain": "units", "main": "sqrt"}},
        )
    ]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize("before", [{"output_scale": "sqrt"}, {"sampling": "independent"}])
def test_a_table_of_other_sizes_or_draws_is_not_appended_to(before: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "results.csv", one("diagonal-sparsity", **before))
    kept = path.read_bytes()
    with pytest.raises(ConfigurationError) as raised:
        reproduce("diagonal-sparsity", **PLACE, out=path, options=Options(integrator="exact"))
    message = str(raised.value)
    assert message.startswith(f"--out {path}: rows of diagonal-sparsity are of two kinds, ")
    assert "main 1/units, aux 1/units, pretrain 1/sqrt(units)" in message
    assert message.endswith(f"name another table: --out {tmp_path / 'results-p1uus.csv'}")
    assert "\n" not in message
    assert path.read_bytes() == kept


def test_another_experiment_may_be_in_the_table(tmp_path: Path) -> None:
    path = write(tmp_path / "results.csv", *cells("diagonal-overlap", **PLACE, overlap=40))
    options = Options(integrator="exact")
    assert reproduce("diagonal-sparsity", **PLACE, k_main=5, overlap=0, out=path, options=options)
    assert len(read_rows(path)) == 2


def test_a_table_does_not_average_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [
        str(write(tmp_path / name, one("diagonal-sparsity", output_scale=scale)))
        for name, scale in (("a.csv", None), ("b.csv", "sqrt"))
    ]
    assert main(["table", files[0]]) == 0
    assert main(["table", *files]) != 0
    told = capsys.readouterr().err
    assert (
        "FILE: rows of diagonal-sparsity are of two kinds, '' and 'p1uus', which cannot be averaged" in told
    )
    assert len(told.splitlines()) == 1


def test_names_that_others_gave_are_of_one_kind(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("run,experiment,setup,seed,loss_best\nfit-1,mine,STL,0,1.0\nfit-2,mine,STL,1,2.0\n")
    assert len(read_rows(path)) == 2


def test_words_in_full() -> None:
    assert drawn_word({}) == ""
    assert output_scales("x", {"aux": "units"}, {"main": "units"}) == {
        "main": "units",
        "aux": "units",
        "pretrain": "sqrt",
    }
    text = "independent draws, version 1, of teachers main 1/units, aux 1/sqrt(units), pretrain 1/units"
    assert spelled("i1usu") == text
    assert spelled("") == spelled("p1sss")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("unit", "--output-scale: 'unit' is unknown; did you mean 'units'?"),
        ({"mian": "units"}, "--output-scale: 'mian' is unknown; did you mean 'main'?"),
        ({"main": 3}, "--output-scale: '3' is unknown"),
        (["sqrt"], "--output-scale: \"['sqrt']\" is unknown"),
    ],
)
def test_sizes_that_cannot_be(given: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Options(output_scale=given)
    assert str(raised.value).startswith(message)
