"""Pictures as functions of data: each returns a matplotlib figure, which shows itself in notebooks."""

from typing import TYPE_CHECKING

from lit_aux.lazy import lazy

if TYPE_CHECKING:
    from lit_aux.drawing.layers import draw_layers as draw_layers
    from lit_aux.drawing.layers import draw_summary as draw_summary
    from lit_aux.drawing.mixing import draw_mixing as draw_mixing
    from lit_aux.drawing.style import save as save
    from lit_aux.figures.factors import draw_factors as draw_factors
    from lit_aux.figures.fits import draw_students as draw_students
    from lit_aux.figures.penalties import draw_l_order as draw_l_order
    from lit_aux.figures.penalties import draw_penalties as draw_penalties
    from lit_aux.figures.regime_map import MapPoints as MapPoints
    from lit_aux.figures.regime_map import draw_regime_map as draw_regime_map
    from lit_aux.figures.regime_map import draw_regimes as draw_regimes
    from lit_aux.figures.request import Request as Request
    from lit_aux.figures.results import draw_figure as draw_figure
    from lit_aux.figures.results import figures_of as figures_of
    from lit_aux.figures.student_map import draw_students_map as draw_students_map
    from lit_aux.figures.tables import Tables as Tables
    from lit_aux.figures.tables import load as load
    from lit_aux.figures.trajectories import draw_change as draw_change
    from lit_aux.figures.trajectories import draw_gap as draw_gap
    from lit_aux.figures.trajectories import draw_measure as draw_measure

_HOMES = {
    "MapPoints": "regime_map",
    "Request": "request",
    "Tables": "tables",
    "draw_change": "trajectories",
    "draw_factors": "factors",
    "draw_figure": "results",
    "draw_gap": "trajectories",
    "draw_l_order": "penalties",
    "draw_layers": ".drawing.layers",
    "draw_measure": "trajectories",
    "draw_mixing": ".drawing.mixing",
    "draw_penalties": "penalties",
    "draw_regime_map": "regime_map",
    "draw_regimes": "regime_map",
    "draw_students": "fits",
    "draw_students_map": "student_map",
    "draw_summary": ".drawing.layers",
    "figures_of": "results",
    "load": "tables",
    "save": ".drawing.style",
}
__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
