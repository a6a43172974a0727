"""Pictures of the theory (penalties, their orders, the map of regimes) and of results tables."""

from typing import TYPE_CHECKING

from lit_aux.lazy import lazy

if TYPE_CHECKING:
    from lit_aux.figures.penalties import draw_l_order as draw_l_order
    from lit_aux.figures.penalties import draw_penalties as draw_penalties
    from lit_aux.figures.regime_map import MapPoints as MapPoints
    from lit_aux.figures.regime_map import draw_regime_map as draw_regime_map
    from lit_aux.figures.regime_map import draw_regimes as draw_regimes
    from lit_aux.figures.results import draw_all as draw_all
    from lit_aux.figures.results import draw_figure as draw_figure

_HOMES = {
    "MapPoints": "regime_map",
    "draw_all": "results",
    "draw_figure": "results",
    "draw_l_order": "penalties",
    "draw_penalties": "penalties",
    "draw_regime_map": "regime_map",
    "draw_regimes": "regime_map",
}
__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
