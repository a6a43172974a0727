"""Many runs: what a job is, where jobs are carried out, and the results table with its readers."""

from typing import TYPE_CHECKING

from lit_aux.lazy import lazy

if TYPE_CHECKING:
    from lit_aux.runs.cluster import Cluster as Cluster
    from lit_aux.runs.engines import Here as Here
    from lit_aux.runs.engines import Processes as Processes
    from lit_aux.runs.job import Job as Job
    from lit_aux.runs.job import Report as Report
    from lit_aux.runs.progress import Progress as Progress
    from lit_aux.runs.reading import read_measures as read_measures
    from lit_aux.runs.reading import read_rows as read_rows
    from lit_aux.runs.runner import Runner as Runner
    from lit_aux.runs.table import ResultsTable as ResultsTable
    from lit_aux.runs.table import run_hash as run_hash

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
__getattr__, __dir__ = lazy(__name__, _HOMES)
