"""Runs and fields beside a table of observations: model equivalents, and scores."""
