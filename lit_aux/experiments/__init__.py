"""The paper's experiments: grids as data, a runner that goes on where it stopped, and the results table."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_aux.experiments.expand import cells
    from lit_aux.experiments.grids import EXPERIMENTS, Experiment
    from lit_aux.experiments.options import Options
    from lit_aux.experiments.pool import SliceError
    from lit_aux.experiments.protocol import Protocol
    from lit_aux.experiments.results import ResultsTable
    from lit_aux.experiments.run import Run
    from lit_aux.experiments.runner import reproduce

_HOMES = {
    "EXPERIMENTS": "grids",
    "Experiment": "grids",
    "Options": "options",
    "Protocol": "protocol",
    "ResultsTable": "results",
    "Run": "run",
    "SliceError": "pool",
    "cells": "expand",
    "reproduce": "runner",
}
__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "Options",
    "Protocol",
    "ResultsTable",
    "Run",
    "SliceError",
    "cells",
    "reproduce",
]


def __getattr__(name: str) -> Any:
    """Import a part when it is asked for: who only reads the table needs none of the others."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'lit_aux.experiments' has no attribute {name!r}")
    return getattr(import_module(f"lit_aux.experiments.{_HOMES[name]}"), name)
