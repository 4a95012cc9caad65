"""Protection against a deadlock of the CPU runtime on machines with few cores."""

from __future__ import annotations

import os
import re
import sys
import warnings

from diffassim.core.errors import AssimilationWarning

__all__ = ["protect_small_machines"]

_ENOUGH_CORES = 4


def protect_small_machines() -> None:
    """Give JAX's CPU runtime at least four threads, and four for each device that it is told to pretend.

    With fewer, two independent chains of factorizations and products in one compiled program can wait for each other
    for ever, and devices for each other's messages. The number of threads is read from the environment variable NPROC
    when the CPU backend starts; an existing value is respected.

    Warns:
        AssimilationWarning: if the backend has started already, so that the setting comes too late.
    """
    needed = _ENOUGH_CORES * max(1, _forced_devices())
    if (os.cpu_count() or 1) >= needed or "NPROC" in os.environ:
        return
    os.environ["NPROC"] = str(needed)
    if _cpu_backend_is_up():
        warnings.warn(
            "JAX started its CPU backend before diffassim was imported, on a machine with fewer than four cores; some "
            "programs can hang there. Import diffassim first, or set the environment variable NPROC=4.",
            AssimilationWarning,
            stacklevel=3,
        )


def _forced_devices() -> int:
    found = re.findall(r"--xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    return int(found[-1]) if found else 1


def _cpu_backend_is_up() -> bool:
    bridge = sys.modules.get("jax._src.xla_bridge")
    try:
        return bool(bridge is not None and bridge.backends_are_initialized())
    except AttributeError:  # a future JAX without this function: better no warning than a wrong one
        return False
