"""The examples in docstrings of what is public run as they are printed, each by itself."""

import doctest
import importlib
from inspect import isfunction

import pytest

PACKAGES = ["functional", "metrics", "models", "integrators", "data", "callbacks", "phases", "modules", "cli"]


@pytest.mark.parametrize("package", PACKAGES)
def test_examples(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"lit_aux.{package}")
    runner = doctest.DocTestRunner()
    for name in module.__all__:
        public = getattr(module, name)
        if getattr(public, "__doc__", None):
            for example in doctest.DocTestFinder(recurse=False).find(public, name, globs={}):
                runner.run(example)
    assert runner.failures == 0, capsys.readouterr().out


def test_every_function_of_tensors_has_an_example() -> None:
    module = importlib.import_module("lit_aux.functional")
    functions = [found for name in module.__all__ if isfunction(found := getattr(module, name))]
    assert len(functions) > 30
    assert [found.__name__ for found in functions if ">>>" not in (found.__doc__ or "")] == []
