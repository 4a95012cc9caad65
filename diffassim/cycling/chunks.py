"""A long cycle of an ensemble in chunks: progress and output between them, the same result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from diffassim.core.errors import ConfigurationError
from diffassim.cycling.ensemble import EnsembleHistory, cycle_ensemble
from diffassim.cycling.times import AnalysisTimes, analysis_times

__all__ = ["cycle_in_chunks"]


def cycle_in_chunks(
    method: Any,
    model: Any,
    ensemble: Any,
    observations: Any,
    *,
    chunk: int,
    key: Any = None,
    start: Any = 0,
    members: bool = False,
) -> Iterator[tuple[Any, EnsembleHistory]]:
    """Cycle over a long record, `chunk` analyses at a time, and hand over what is known after each of them.

    Between chunks a caller shows progress, writes output, keeps the ensemble as a checkpoint, or stops early. The
    history of a chunk lies in NumPy arrays, so that the device holds one chunk only. All together is the same as one
    `cycle` over the whole record with the same key, bit by bit; so is a run that goes on from a kept ensemble with the
    rest of the record (`times[k:]`) and `start=history.step[-1]`.

    Args:
        method: as for `cycle_ensemble`.
        model: as there.
        ensemble: as there.
        observations: as there.
        chunk: analyses in a chunk (the last may have fewer, which compiles once more).
        key: as there.
        start: as there.
        members: as there.

    Yields:
        The ensemble after the chunk, and the chunk's `EnsembleHistory`.

    Raises:
        ConfigurationError: if `chunk` is not positive.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(np.zeros((4, 40)), [1, 2, 3, 4], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble = 8 + jax.random.normal(jax.random.key(0), (10, 40))
        >>> times = da.analysis_times(y)
        >>> parts = da.cycling.cycle_in_chunks(da.ETKF(), da.models.Lorenz96(), ensemble, times, chunk=2)
        >>> for last, history in parts:
        ...     print(history.step.tolist())
        ...     np.savez(f"after_{history.step[-1]}.npz", ensemble=last, step=history.step[-1])
        [1, 2]
        [3, 4]

        Another process goes on from such a file, with the same result:

        >>> kept = np.load("after_2.npz")
        >>> resumed, _ = da.cycle(da.ETKF(), da.models.Lorenz96(), kept["ensemble"], times[2:], start=kept["step"])
        >>> bool((resumed == last).all())
        True
    """
    if chunk < 1:
        raise ConfigurationError(f"cycle_in_chunks: chunk={chunk} must be at least 1")
    times = observations if isinstance(observations, AnalysisTimes) else analysis_times(observations)
    return _chunks(method, model, ensemble, times, chunk, key, start, members)


# Apart from the call, so that its checks run when it is made and not when the first chunk is asked for.
def _chunks(
    method: Any, model: Any, ensemble: Any, times: AnalysisTimes, chunk: int, key: Any, start: Any, members: bool
) -> Iterator[tuple[Any, EnsembleHistory]]:
    for first in range(0, len(times), chunk):
        part = times[first : first + chunk]
        ensemble, history = cycle_ensemble(method, model, ensemble, part, key=key, start=start, members=members)
        start = history.step[-1]
        yield ensemble, jax.tree.map(np.asarray, history)
