"""Who the processes of a run are, and how this one becomes one of them."""

from __future__ import annotations

import os
from typing import Any

import jax

from diffassim.core.errors import ConfigurationError
from diffassim.core.processes.service import ProcessError
from diffassim.core.processes.signs import HEARTBEAT, give_signs_of_life

__all__ = ["ADDRESS", "COUNT", "HERE", "RANK", "initialize"]

# The variables by which a launcher names the processes; jax itself reads the first one.
ADDRESS, COUNT, RANK = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
SCHEDULERS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "JOB_COMPLETION_INDEX", "TPU_WORKER_ID")  # that jax reads
HERE = "DIFFASSIM_PROCESSES_HERE"  # how many processes share the memory of this machine


def initialize(*, heartbeat: int = HEARTBEAT, timeout: int = 300) -> None:
    """Make this process one of several, if it was started as such; call it before anything is computed.

    The processes are named by JAX_COORDINATOR_ADDRESS (host:port of the first one), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID, or by what SLURM, Open MPI, Kubernetes (Jobs, JobSets) and TPU pods set, which
    `jax.distributed.initialize` knows. Where nothing is set, this is the only process, and nothing happens. A killed
    process ends all others within `heartbeat` seconds.

    Args:
        heartbeat: seconds without a sign of life after which a process counts as dead.
        timeout: seconds in which all processes have to appear.

    Raises:
        ConfigurationError: if only some of the variables are set, or they cannot be what they are; if something has
            been computed already.
        ProcessError: if the others do not appear in time.

    Example:
        >>> initialize()
        >>> jax.distributed.is_initialized()  # alone
        False
    """
    if not jax.distributed.is_initialized() and not _joined(heartbeat, timeout):
        return
    give_signs_of_life()


def _joined(heartbeat: int, timeout: int) -> bool:
    """Return whether there are other processes, which this one then knows."""
    options: dict[str, Any] = {
        "heartbeat_timeout_seconds": heartbeat, "shutdown_timeout_seconds": heartbeat,
        "initialization_timeout": timeout,
    }  # fmt: skip
    options |= _named_processes()
    jax.config.update("jax_enable_preemption_service", False)  # signals are handled by whoever runs the work
    try:
        jax.distributed.initialize(**options)
    except ValueError:
        if options.get("num_processes"):
            raise
        return False  # no cluster that jax knows
    except jax.errors.JaxRuntimeError as error:
        raise ProcessError(
            f"the processes of this run did not find each other within {timeout} s: {str(error)[:300]}"
        ) from None
    except RuntimeError:  # jax has started its devices
        named = [name for name in (RANK, *SCHEDULERS) if name in os.environ]
        if not named:
            return False
        raise ConfigurationError(
            f"{named[0]} says that this is one of several processes, but something has been computed already; call "
            "initialize before the first computation"
        ) from None
    # A precaution: programs of which two run at once could wait for one another's messages.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return True


def _named_processes() -> dict[str, Any]:
    """Return what the three variables say, or nothing where none of the last two is set."""
    words = {name: os.environ.get(name, "") for name in (ADDRESS, COUNT, RANK)}
    if not words[COUNT] and not words[RANK]:
        return {}
    missing = [name for name, word in words.items() if not word]
    if missing:
        raise ConfigurationError(f"several processes: {missing[0]} is not set; set all of {', '.join(words)}")
    try:
        number, own = int(words[COUNT]), int(words[RANK])
    except ValueError:
        raise ConfigurationError(
            f"several processes: {COUNT} and {RANK} must be integers, found {words[COUNT]!r} and {words[RANK]!r}"
        ) from None
    if not 0 <= own < number:
        raise ConfigurationError(f"several processes: {RANK} = {own} must lie between 0 and {COUNT} - 1 = {number - 1}")
    named = {"coordinator_address": words[ADDRESS], "num_processes": number, "process_id": own}
    return named | {"cluster_detection_method": "deactivate"}
