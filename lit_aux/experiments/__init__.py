"""The paper's experiments: grids as data, a runner that goes on where it stopped, and the results table."""

from typing import TYPE_CHECKING

from lit_aux.lazy import lazy

if TYPE_CHECKING:
    from lit_aux.experiments.expand import cells as cells
    from lit_aux.experiments.grids import EXPERIMENTS as EXPERIMENTS
    from lit_aux.experiments.grids import Experiment as Experiment
    from lit_aux.experiments.options import Options as Options
    from lit_aux.experiments.protocol import Protocol as Protocol
    from lit_aux.experiments.reproduction import SliceError as SliceError
    from lit_aux.experiments.reproduction import reproduce as reproduce
    from lit_aux.experiments.run import Run as Run
    from lit_aux.runs.table import ResultsTable as ResultsTable

_HOMES = {
    "EXPERIMENTS": "grids",
    "Experiment": "grids",
    "Options": "options",
    "Protocol": "protocol",
    "ResultsTable": ".runs.table",
    "Run": "run",
    "SliceError": "reproduction",
    "cells": "expand",
    "reproduce": "reproduction",
}
__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
