"""Where the next observations help most: candidates, searches, and how far they may be from the best."""

from diffassim.diagnostics.placement.exchange import Exchange
from diffassim.diagnostics.placement.exhaustive import Exhaustive
from diffassim.diagnostics.placement.goal import LaterState
from diffassim.diagnostics.placement.greedy import Greedy
from diffassim.diagnostics.placement.place import Placement, place_sensors
from diffassim.diagnostics.placement.prospects import Prospects
from diffassim.diagnostics.placement.relaxation import Relaxation

__all__ = ["Exchange", "Exhaustive", "Greedy", "LaterState", "Placement", "Prospects", "Relaxation", "place_sensors"]
