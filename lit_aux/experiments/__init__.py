"""The paper's experiments: grids as data, a runner that goes on where it stopped, and the results table."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_aux.experiments.expand import cells
    from lit_aux.experiments.grids import EXPERIMENTS, Experiment
    from lit_aux.experiments.options import Options
    from lit_aux.experiments.protocol import Protocol
    from lit_aux.experiments.reproduction import SliceError, reproduce
    from lit_aux.experiments.run import Run
    from lit_aux.runs.table import ResultsTable

_HOMES = {
    "EXPERIMENTS": "lit_aux.experiments.grids",
    "Experiment": "lit_aux.experiments.grids",
    "Options": "lit_aux.experiments.options",
    "Protocol": "lit_aux.experiments.protocol",
    "ResultsTable": "lit_aux.runs.table",
    "Run": "lit_aux.experiments.run",
    "SliceError": "lit_aux.experiments.reproduction",
    "cells": "lit_aux.experiments.expand",
    "reproduce": "lit_aux.experiments.reproduction",
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
    return getattr(import_module(_HOMES[name]), name)
