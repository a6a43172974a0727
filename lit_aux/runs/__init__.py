"""Many runs: what a job is, where jobs are carried out, and the results table with its readers."""

from typing import Any

_HOMES = {
    "Cluster": "cluster",
    "Here": "engines",
    "Job": "job",
    "Processes": "engines",
    "Progress": "progress",
    "Report": "job",
    "ResultsTable": "table",
    "Runner": "runner",
    "read_measures": "reading",
    "read_rows": "reading",
    "run_hash": "table",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    """Import a part when it is asked for."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'lit_aux.runs' has no attribute {name!r}")
    return getattr(import_module(f"lit_aux.runs.{_HOMES[name]}"), name)
