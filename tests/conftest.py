"""Test configuration: strict, double precision, and enough threads for the CPU runtime."""

from __future__ import annotations

import gc
import os
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("NPROC", "4")
# JAX takes its factorizations from OpenBLAS, whose threads cost small matrices far more than they give.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Nearly all of the time of the default suite is compilation: no keys for a cache that is not there, no traceback of
# every operation, and the emitters that compile fastest. Optimizations stay: without them, XLA miscompiles some loops.
# In the environment, so that commands run by tests have it too.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "0")
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
if version("jaxlib").startswith("0.10."):  # another one may not know these, and ends the process where it does not
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{flags} {os.environ.get('XLA_FLAGS', '')}"

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
