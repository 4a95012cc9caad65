"""Covariances from data: statistics, likelihoods, and their fits."""
