"""A command line as words: options and values are read and rewritten where they stand."""

import pytest

from lit_aux.cli.lightning_cli import _class_path, _null
from lit_aux.cli.words import as_typed, option_of, typed_options, with_values


def test_an_option_is_named_without_init_args() -> None:
    assert option_of(["model", "init_args", "settings", "lr"]) == "--model.settings.lr"
    words = ["fit", "--model.init_args.lr", "1", "--a=b=c", "-c", "f.yaml", "--last"]
    found = [("--model.lr", "1"), ("--a", "b=c"), ("-c", "f.yaml"), ("--last", "")]
    assert list(typed_options(words)) == found


def test_values_are_rewritten_where_they_stand() -> None:
    words = ["fit", "--a", "x", "--b=x", "-c", "x", "x", "--flag", "--d="]
    changed = with_values(words, lambda option, value: f"{option}/{value}")
    expected = ["/fit", "--a", "--a/x", "--b=--b/x", "-c", "-c/x", "/x", "--flag", "--d=--d/"]
    assert changed == expected
    assert with_values(words, lambda option, value: value) == words


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (["--a", "None"], ["--a", "null"]),
        (["--a=None"], ["--a=null"]),
        (["--a=[None, 'b', 1]"], ['--a=[null, "b", 1]']),
        (["--a={'b': None}"], ['--a={"b": null}']),
        (["--a=[None, b]"], ["--a=[None, b]"]),  # no list of Python's
        (["--a=NoneSuch", "None"], ["--a=NoneSuch", "None"]),
    ],
)
def test_none_is_null(words: list[str], read: list[str]) -> None:
    assert with_values(words, _null) == read


def test_an_integrator_is_a_class() -> None:
    words = ["--model.settings.integrator", "gradient_descent", "--x.integrator=exact", "--y", "exact"]
    changed = with_values(words, _class_path)
    assert changed[1] == "lit_aux.integrators.GradientDescent"
    assert changed[2:] == ["--x.integrator=lit_aux.integrators.Exact", "--y", "exact"]


@pytest.mark.parametrize(
    ("message", "words", "told"),
    [
        ("--n_main: 0.01 is", ["--n-main", "1e-2"], "--n-main: 1e-2 is"),
        ("--a: True is", ["--a=yes", "--a=true"], "--a: true is"),
        ("--a: it is wrong", ["--a", "7"], "--a: it is wrong (given: 7)"),
        ("--a: it is wrong", [], "--a: it is wrong"),
        ("--a: it is wrong", {"a": 7}, "--a: it is wrong"),
        ("--a: lr: 0.001 is", ["--a.init_args.lr=1e-3"], "--a: lr: 1e-3 is"),
        ("no option at all", ["--a", "7"], "no option at all"),
    ],
)
def test_values_are_told_as_typed(message: str, words: list[str], told: str) -> None:
    assert as_typed(message, words) == told
