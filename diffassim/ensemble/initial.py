"""Ensembles drawn around a state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.methods.members import anomalies, recombine

__all__ = ["draw_ensemble"]


def draw_ensemble(key: jax.Array, center: Any, covariance: Any, members: int) -> Any:
    r"""Draw an ensemble whose mean is exactly the given state, and whose covariance is exactly B where it can be.

    .. math:: x_i = \bar x + B^{1/2} z_i,\quad \sum_i z_i = 0,\quad \tfrac{1}{N-1} \sum_i z_i z_i^\top = I

    With more members N than entries n of the control vector, the whitened draws are made orthonormal, so that the
    sample covariance is B without any sampling error, which independent draws would bring into the first analyses. With
    fewer, no ensemble has that covariance, and the draws are independent but for their mean.

    Args:
        key: random key.
        center: mean of the ensemble, a state.
        covariance: error covariance B of the state.
        members: number of members N >= 2 (static).

    Returns:
        The ensemble, a pytree like the state with a leading member axis.

    Raises:
        ConfigurationError: if there are fewer than two members.
        ShapeError: if the covariance does not fit the state.

    Example:
        >>> import diffassim as da
        >>> ensemble = draw_ensemble(jax.random.key(0), jnp.array([1.0, 5.0]), da.covariances.Diagonal(std=2.0), 4)
        >>> bool(jnp.allclose(jnp.cov(ensemble.T), 4 * jnp.eye(2), atol=1e-5))
        True

    Source: second-order exact sampling: Pham (2001), section 2.
    """
    if members < 2:
        raise ConfigurationError(f"draw_ensemble: members={members} must be at least 2")
    covariance.check("draw_ensemble: covariance", center)
    control = covariance.control_like(center)
    dtype = jnp.result_type(*jax.tree.leaves(control))
    z = anomalies(jax.random.normal(key, (members, tree.size(control)), dtype))
    if members > z.shape[1]:
        z = (members - 1) ** 0.5 * jnp.linalg.qr(z)[0]
    return recombine(center, jax.vmap(covariance.sqrt)(tree.state_rows(z, control)))
