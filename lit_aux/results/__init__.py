"""What results tables say: rows to numbers, and numbers to tables that are read."""

from typing import TYPE_CHECKING

from lit_aux.lazy import lazy

if TYPE_CHECKING:
    from lit_aux.results.sheet import Sheet as Sheet
    from lit_aux.results.sheets import Query as Query
    from lit_aux.results.sheets import pairs as pairs
    from lit_aux.results.sheets import who_wins as who_wins
    from lit_aux.results.tables import query as query
    from lit_aux.results.tables import table as table
    from lit_aux.runs.reading import read_measures as read_measures
    from lit_aux.runs.reading import read_rows as read_rows

_HOMES = {
    "Query": "sheets",
    "Sheet": "sheet",
    "pairs": "sheets",
    "query": "tables",
    "read_measures": ".runs.reading",
    "read_rows": ".runs.reading",
    "table": "tables",
    "who_wins": "sheets",
}
__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
