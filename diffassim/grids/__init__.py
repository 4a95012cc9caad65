"""Grids: where the components of a state are, and what a distance is."""

from diffassim.grids.cells import Cells
from diffassim.grids.grid import Grid
from diffassim.grids.product import Categories, Levels, ProductGrid
from diffassim.grids.sphere import Sphere

__all__ = ["Categories", "Cells", "Grid", "Levels", "ProductGrid", "Sphere"]
