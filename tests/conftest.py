"""Test configuration: strict, double precision, and enough threads for the CPU runtime."""

from __future__ import annotations

import os

os.environ.setdefault("NPROC", "4")

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
