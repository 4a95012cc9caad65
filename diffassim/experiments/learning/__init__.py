"""Experiments that train networks through an assimilation."""
