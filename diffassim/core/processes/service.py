"""The texts that processes leave for one another in jax's coordination service."""

from __future__ import annotations

from typing import Any

import jax

from diffassim.core.errors import AssimilationError

__all__ = ["ProcessError", "client", "count", "directory_of", "lost", "rank", "set_text", "text_of"]

SLICE = 1000  # milliseconds in one call to the service, between which failures of others are seen


class ProcessError(AssimilationError):
    """Another process of the run failed, was lost, or gave no answer in time; the message names it and its place."""


def rank() -> int:
    """Return the number of this process, from 0 on."""
    return int(_state().process_id) if jax.distributed.is_initialized() else 0


def count() -> int:
    """Return the number of processes."""
    return int(_state().num_processes) if jax.distributed.is_initialized() else 1


def set_text(key: str, text: str) -> None:
    """Leave a text under a key, in place of what lay there."""
    try:
        client().key_value_set(f"diffassim/{key}", text, allow_overwrite=True)
    except jax.errors.JaxRuntimeError as error:
        raise lost(error) from None


def text_of(key: str) -> str | None:
    """Return a value, or None if it does not come soon."""
    try:
        return str(client().blocking_key_value_get(f"diffassim/{key}", SLICE))
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" in str(error):
            return None
        raise lost(error) from None


def directory_of(folder: str) -> dict[str, str]:
    """Return all values below a folder by the rest of their keys."""
    whole = f"diffassim/{folder}"
    try:
        return {key.removeprefix(whole): value for key, value in client().key_value_dir_get(whole)}
    except jax.errors.JaxRuntimeError as error:
        raise lost(error) from None


def client() -> Any:
    """Return the client of jax's coordination service, which has no public name."""
    return _state().client


def _state() -> Any:
    """Return what jax knows of the processes; unlike `jax.process_index` this starts no devices."""
    from jax._src import distributed

    return distributed.global_state


def lost(error: Exception) -> ProcessError:
    """Return the error for a service that does not answer."""
    return ProcessError(f"the first process of this run (rank 0), or the way to it, is lost: {str(error)[:200]}")
