"""Small tables on disk."""

import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from lit_aux.experiments import ResultsTable

REFERENCE = os.environ.get("LIT_AUX_REFERENCE")
needs_reference = pytest.mark.skipif(
    not REFERENCE, reason="needs the published tables: set LIT_AUX_REFERENCE to their folder"
)


def row(setup: str, seed: int, n_main: int, loss: float | None, **more: Any) -> dict[str, Any]:
    """Return the row of a run whose name says where it is."""
    name = f"{setup}/{seed}/{n_main}" + "".join(f"/{value}" for value in more.values())
    plain = {"run": name, "experiment": "diagonal-overlap", "setup": setup, "seed": seed, "n_main": n_main}
    return plain | {"converged": True, "loss_best": loss} | more


def failed(setup: str, seed: int, n_main: int, error: str, **more: Any) -> dict[str, Any]:
    """Return the row of a run that failed."""
    return row(setup, seed, n_main, None, **more) | {"converged": False, "error": error}


def table(path: Path, rows: Iterable[Mapping[str, Any]], measures: Iterable[Mapping[str, Any]] = ()) -> Path:
    """Write a results table."""
    with ResultsTable(path) as made:
        made.append(list(rows), measures)
    return path


def plain_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write any table."""
    rows = list(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
