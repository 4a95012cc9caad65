"""Sort a record of observations by analysis time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from diffassim.core.errors import ShapeError
from diffassim.core.pytree import Pytree, static
from diffassim.observations.container import as_streams, on_steps

__all__ = ["AnalysisTimes", "analysis_times"]


class AnalysisTimes(Pytree):
    """A record of observations, and which of its rows belong to which analysis time; built by `analysis_times`.

    A slice (`times[100:200]`) is the part of a record from which a cycle is continued. Values and errors may be traced
    or batched; the number of times and of rows per time decides what is compiled.

    Args:
        streams: the record, a tuple of `Observations`.
        rows: for each stream, the rows of every analysis time, shape (time, rows).
        real: for each stream, False where a row is padding, shape (time, rows).
        gaps: model steps from the analysis before (or the start) to each analysis, shape (time,).
        longest: upper bound of the gaps (static).
        uniform: whether all gaps are equal to `longest` (static).
    """

    streams: tuple[Any, ...]
    rows: tuple[Int[Array, "time rows"], ...]
    real: tuple[Bool[Array, "time rows"], ...]
    gaps: Int[Array, " time"]
    longest: int = static()
    uniform: bool = static()

    def __len__(self) -> int:
        """Return the number of analysis times."""
        return int(self.gaps.shape[0])

    def __getitem__(self, index: slice) -> AnalysisTimes:
        """Return a stretch of analysis times."""
        if not isinstance(index, slice) or index.step not in (None, 1):
            raise ShapeError(f"AnalysisTimes: only a stretch of times can be taken, times[a:b], not {index}")
        rows, real, gaps = jax.tree.map(lambda leaf: leaf[index], (self.rows, self.real, self.gaps))
        return self.replace(rows=rows, real=real, gaps=gaps)

    def observations(self, rows: tuple[Any, ...], real: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the observations of one analysis time, given its entries of `rows` and `real`."""
        return tuple(_taken(*parts) for parts in zip(self.streams, rows, real, strict=True))


def analysis_times(observations: Any) -> AnalysisTimes:
    """Group the rows of a record by their step, in the order of time.

    Args:
        observations: `Observations`, or a tuple of streams. Their steps count from the start of the cycle, in any
            order; rows of one step, in whatever stream, are analysed together.

    Returns:
        `AnalysisTimes`.

    Raises:
        ShapeError: if the observation steps are traced.
        ConfigurationError: if an observation lies between two steps: an ensemble is analysed on steps.

    Example:
        >>> import diffassim as da
        >>> obs = da.Observations(jnp.arange(4.0)[:, None], [2, 2, 4, 7], error=da.covariances.Diagonal(std=1.0))
        >>> times = analysis_times(obs)
        >>> len(times), times.gaps.tolist(), times.rows[0].tolist()
        (3, [2, 2, 3], [[0, 1], [2, 0], [3, 0]])
    """
    streams = tuple(on_steps("analysis_times", stream) for stream in as_streams(observations))
    if any(isinstance(stream.steps, jax.core.Tracer) for stream in streams):
        raise ShapeError(
            "analysis_times: observation steps must be known outside of traced code; call analysis_times(observations) "
            "there and pass its result on"
        )
    all_steps = [np.asarray(stream.steps) for stream in streams]
    times = np.unique(np.concatenate(all_steps)) if streams else np.zeros(0, np.int32)
    rows, real = [], []
    for steps in all_steps:
        members = [np.flatnonzero(steps == time) for time in times]
        size = max([len(found) for found in members], default=0)
        padded, present = np.zeros((len(times), size), np.int32), np.zeros((len(times), size), bool)
        for k, found in enumerate(members):
            padded[k, : len(found)], present[k, : len(found)] = found, True
        rows.append(jnp.asarray(padded))
        real.append(jnp.asarray(present))
    gaps = np.diff(times, prepend=0)
    longest = int(gaps.max(initial=0))
    uniform = bool((gaps == longest).all())
    if not uniform:
        longest = 1 << (longest - 1).bit_length()  # so that another record of this kind seldom compiles anew
    return AnalysisTimes(streams, tuple(rows), tuple(real), jnp.asarray(gaps, jnp.int32), longest, uniform)


def _taken(stream: Any, rows: Any, real: Any) -> Any:
    def take(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        return leaf[rows] if leaf.shape[0] else leaf  # an empty record has no rows to take

    mask = jax.tree.map(lambda m: take(m) & real.reshape(real.shape + (1,) * (m.ndim - 1)), stream.mask)
    return stream.replace(
        values=jax.tree.map(take, stream.values),
        steps=take(stream.steps),
        mask=mask,
        where=jax.tree.map(take, stream.where),
        error=stream.error.rows(stream.values, take),
    )
