"""Test configuration: strict, double precision, and enough threads for the CPU runtime."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("NPROC", "4")
# JAX takes its factorizations from OpenBLAS, whose threads cost small matrices far more than they give.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Nearly all of the time of the default suite is compilation: processes share what they compile, there is no traceback
# of every operation, and the emitters are those that compile fastest. Optimizations stay: without them, XLA miscompiles
# some loops. In the environment, so that other processes and commands run by tests have it too.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="diffassim-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
if version("jaxlib").startswith("0.10."):  # another one may not know these, and ends the process where it does not
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{flags} {os.environ.get('XLA_FLAGS', '')}"

import jax
import pytest

from tests.durations import (  # noqa: F401
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_runtest_makereport,
    pytest_runtest_setup,
)  # fmt: skip

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

MAPS = Path("/proc/self/maps")
MANY_MAPS = 15_000


@pytest.fixture
def command_line(monkeypatch, tmp_path):
    """Give the command line a directory of its own, and put back the JAX settings that it changes."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    kept = {key: getattr(jax.config, key) for key in ("jax_enable_x64", "jax_persistent_cache_min_compile_time_secs")}
    monkeypatch.setattr("warnings.showwarning", None)
    yield
    for key, value in kept.items():
        jax.config.update(key, value)


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Drop compiled programs before there are too many of them.

    Each holds a few memory mappings, of which Linux allows a process 65,530; without one left the compiler crashes.
    """
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MANY_MAPS:
        jax.clear_caches()
        gc.collect()
