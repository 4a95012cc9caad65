"""Numerical methods that models are made of: stencils, time steps, transforms, solvers and grid transfers."""
