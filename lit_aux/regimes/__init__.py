"""Where a network stands between ignoring its pretraining and clinging to it, and which factor moves it."""

from lit_aux.regimes.results_rows import read_results
from lit_aux.regimes.run_folder import read_run
from lit_aux.regimes.student_features import StudentFeatures
from lit_aux.regimes.student_summary import GroupSummary, Suggestion, suggest, summarize
from lit_aux.regimes.sweep import Sweep

__all__ = [
    "GroupSummary",
    "StudentFeatures",
    "Suggestion",
    "Sweep",
    "read_results",
    "read_run",
    "suggest",
    "summarize",
]
