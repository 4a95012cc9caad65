"""Samples of the background error from pairs of forecasts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.errors import ShapeError, require_positive

__all__ = ["forecast_differences"]


def forecast_differences(longer: Any, shorter: Any, factor: float = 0.5) -> Any:
    r"""Return samples of the background error from pairs of forecasts for the same time ("NMC method").

    .. math:: s_i = \sqrt{f}\, (\delta_i - \bar\delta), \qquad \delta_i = x_i^{\text{longer}} - x_i^{\text{shorter}}

    They go into `LowRank.from_samples`, `Ensemble` or `fit_parameters`.

    Args:
        longer: forecasts with the longer lead (48 hours), the state's pytree with a leading axis of cases.
        shorter: forecasts for the same times with the shorter lead (24 hours).
        factor: f, of the variance; one half if the errors of the two were independent and equally large. To be tuned
            (see `tune_factors`).

    Returns:
        The samples, with zero mean over the cases; where either forecast is missing (NaN) so is the sample.

    Raises:
        ShapeError: if the two differ in shape or have fewer than two cases.

    Example:
        >>> forecast_differences(jnp.array([[3.0], [1.0]]), jnp.array([[1.0], [1.0]]), factor=1.0).tolist()
        [[1.0], [-1.0]]

    Source: Parrish and Derber (1992), section 4.
    """
    require_positive("forecast_differences: factor", factor)
    cases = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(longer)}
    if not tree.same_shapes(longer, shorter) or len(cases) != 1 or min(cases) < 2:
        raise ShapeError(
            "forecast_differences: both need the same shapes, with at least two cases on the leading axis; found "
            f"{tree.describe_shapes(longer)} and {tree.describe_shapes(shorter)}"
        )
    difference = tree.subtract(jax.tree.map(jnp.asarray, longer), jax.tree.map(jnp.asarray, shorter))
    return jax.tree.map(lambda s: (s - jnp.nanmean(s, axis=0, keepdims=True)) * factor**0.5, difference)
