"""Test configuration: strict, double precision, and enough threads for the CPU runtime."""

from __future__ import annotations

import gc
import os
from pathlib import Path

os.environ.setdefault("NPROC", "4")
# JAX takes its factorizations from OpenBLAS, whose threads cost small matrices far more than they give.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

MAPS = Path("/proc/self/maps")
MANY_MAPS = 15_000


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Drop compiled programs before there are too many of them.

    Each holds a few memory mappings, of which Linux allows a process 65,530; without one left the compiler crashes.
    """
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MANY_MAPS:
        jax.clear_caches()
        gc.collect()
