"""Cut a long record of observations into assimilation windows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.cycling.times import error_rows

__all__ = ["split_windows"]


def split_windows(observations: Any, steps: int, count: int) -> Any:
    """Cut observations into consecutive windows of equal length, padded so that all have the same shapes.

    Window w covers the steps w * steps to (w + 1) * steps. Every observation is used once: one on a boundary belongs to
    the window that ends there (step 0 belongs to the first window). Steps become relative to the window start.

    Args:
        observations: `Observations` whose steps count from the start of the first window, or a tuple of them.
        steps: window length in model steps.
        count: number of windows; later observations are left out.

    Returns:
        Observations whose arrays have a leading axis of size `count`, for `cycle`; padding is masked out.

    Raises:
        ConfigurationError: if `steps` or `count` is not positive.
        ShapeError: if the observation steps are traced.

    Example:
        >>> import diffassim as da
        >>> obs = da.Observations(jnp.arange(4.0)[:, None], [0, 2, 3, 4], error=da.covariances.Diagonal(std=1.0))
        >>> split_windows(obs, steps=2, count=2).steps.tolist()
        [[0, 2], [1, 2]]
    """
    if steps < 1 or count < 1:
        raise ConfigurationError(f"split_windows: steps={steps} and count={count} must be at least 1")
    if isinstance(observations, tuple):
        return tuple(split_windows(stream, steps, count) for stream in observations)
    if isinstance(observations.steps, jax.core.Tracer):
        raise ShapeError("split_windows: observation steps must be known outside of traced code")
    all_steps = np.asarray(observations.steps)
    window = np.maximum(-(-all_steps // steps) - 1, 0)
    members = [np.flatnonzero(window == w) for w in range(count)]
    size = max(1, max(len(rows) for rows in members))
    # Padding repeats row 0 of the record under a mask that is False, at the window's step 0.
    rows = np.stack([np.pad(r, (0, size - len(r)), constant_values=0) for r in members])
    real = np.stack([np.arange(size) < len(r) for r in members])
    relative = np.where(real, all_steps[rows] - steps * np.arange(count)[:, None], 0)

    def take(leaf: Any) -> Any:
        return jnp.asarray(leaf)[rows]

    def take_mask(leaf: Any) -> Any:
        return take(leaf) & real.reshape(real.shape + (1,) * (leaf.ndim - 1))

    def repeat(leaf: Any) -> Any:
        return jnp.broadcast_to(leaf, (count, *jnp.shape(leaf)))

    windows = jax.tree.map(repeat, observations)
    # Assembled from parts that were checked when the record was built; the constructor would check one window's shapes.
    parts = {
        "values": jax.tree.map(take, observations.values),
        "steps": jnp.asarray(relative, jnp.int32),
        "mask": jax.tree.map(take_mask, observations.mask),
        "where": jax.tree.map(take, observations.where),
        "error": error_rows(observations.error, observations.values, take, repeat),
    }
    windows.__dict__.update(parts)
    return windows
