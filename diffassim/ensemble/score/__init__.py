"""Filters that carry members along a diffusion process or a flow, guided by the observations."""
