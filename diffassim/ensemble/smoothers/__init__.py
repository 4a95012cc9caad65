"""Ensemble methods over windows and into the past."""
