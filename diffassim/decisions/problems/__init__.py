"""Control problems of the literature."""

from diffassim.decisions.problems.classic import cliff_walk, five_by_five, four_by_four, random_walk
from diffassim.decisions.problems.flood_warning import FloodWarning, RecordedWarning, WarningCosts
from diffassim.decisions.problems.lake import Basin, Lake
from diffassim.decisions.problems.linear_quadratic import linear_quadratic, riccati_gain
from diffassim.decisions.problems.sensor_placement import placed, sensor_placement
from diffassim.decisions.problems.water_reservoir import WaterReservoir

__all__ = [
    "Basin",
    "FloodWarning",
    "Lake",
    "RecordedWarning",
    "WarningCosts",
    "WaterReservoir",
    "cliff_walk",
    "five_by_five",
    "four_by_four",
    "linear_quadratic",
    "placed",
    "random_walk",
    "riccati_gain",
    "sensor_placement",
]
