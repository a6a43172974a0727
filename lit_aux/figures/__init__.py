"""Pictures of the theory: penalties, their orders, and the map of regimes with a network's features on it."""

from lit_aux.figures.map_points import MapPoints
from lit_aux.figures.penalties import draw_l_order, draw_penalties
from lit_aux.figures.regime_map import draw_regime_map, draw_regimes

__all__ = ["MapPoints", "draw_l_order", "draw_penalties", "draw_regime_map", "draw_regimes"]
