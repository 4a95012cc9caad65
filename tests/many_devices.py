"""Functions of the tests, called in a process of its own that has several devices."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
THREADS = "16"  # with fewer than devices need, the CPU runtime can wait for itself for ever


def on_devices(function: Any, *arguments: Any, devices: int = 4, timeout: float = 900) -> Any:
    """Return what a function of a test module returns (as JSON) in a process with several devices on the CPU."""
    code = (
        "import json, sys, tests.conftest, warnings; warnings.simplefilter('error')\n"
        f"from {function.__module__} import {function.__name__} as function\n"
        "print(json.dumps(function(*json.loads(sys.argv[1]))))"
    )
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)], cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags, "NPROC": THREADS}, timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def on_processes(function: Any, *arguments: Any, count: int = 2, devices: int = 1, timeout: float = 900) -> list[Any]:
    """Return what a function of a test module returns (as JSON) in each of several processes that form one run."""
    code = (
        "import diffassim.core.processes as p; p.initialize()\n"
        "import json, sys, tests.conftest, warnings; warnings.simplefilter('error')\n"
        f"from {function.__module__} import {function.__name__} as function\n"
        "print(json.dumps(function(*json.loads(sys.argv[1]))))"
    )
    with socket.socket() as found:
        found.bind(("localhost", 0))
        address = f"localhost:{found.getsockname()[1]}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    own = {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags, "NPROC": THREADS, "JAX_COORDINATOR_ADDRESS": address}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(arguments)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | own | {"JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(rank)},
        )
        for rank in range(count)
    ]  # fmt: skip
    ended = [process.communicate(timeout=timeout) for process in started]
    assert not any(process.returncode for process in started), "".join(errors[-3000:] for _, errors in ended)
    return [json.loads(output.strip().splitlines()[-1]) for output, _ in ended]


def apart(a: Any, b: Any) -> float:
    """Return the largest difference of two pytrees, relative to the largest entry of the second."""
    import jax
    import numpy as np

    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.max(np.abs(np.asarray(x) - np.asarray(y))) / max(np.max(np.abs(y)), 1e-30)) for x, y in pairs)
