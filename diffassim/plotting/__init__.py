"""Figures. Nothing below the experiments imports this package."""
