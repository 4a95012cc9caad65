"""What an ensemble method sees of the observations: whitened innovations and anomalies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree
from diffassim.ensemble.members import check_ensemble
from diffassim.observations.container import as_streams, on_steps

__all__ = ["Departures", "whitened_departures", "whitened_innovation"]


class Departures(Pytree):
    r"""Innovation and observed anomalies in units of the observation error, all streams in one vector.

    .. math:: d = R^{-1/2} (y - \overline{H(x)}),\qquad S_i = R^{-1/2} (H(x_i) - \overline{H(x)})

    Args:
        d: mean innovation, shape (m,); zero where nothing was observed.
        S: observed anomalies, shape (N, m); zero where nothing was observed.
        observed: which entries were observed, shape (m,).
    """

    d: Float[Array, " m"]
    S: Float[Array, "N m"]
    observed: Bool[Array, " m"]

    @property
    def count(self) -> Int[Array, ""]:
        """Number of observed values."""
        return jnp.sum(self.observed)

    def chi_square(self) -> Float[Array, ""]:
        r"""Return \(\frac1m \sum_j d_j^2 / (1 + \mathrm{var}\, S_j)\): about one where spread and R explain d."""
        variance = 1 + jnp.sum(jnp.square(self.S), axis=0) / (self.S.shape[0] - 1)
        observed = jnp.maximum(self.count, 1).astype(self.d.dtype)
        return jnp.sum(jnp.square(self.d) / variance) / observed


def whitened_departures(ensemble: Any, observations: Any, states: Any = None) -> Departures:
    """Compare an ensemble with the observations of one time, or trajectories with those of several.

    A masked or missing (NaN) value has exactly no influence, on values and gradients. Correlated errors are whitened
    as far as their covariance can (`Covariance.whiten`, `Covariance.masked`).

    Args:
        ensemble: pytree with a leading member axis, N >= 2.
        observations: `Observations` whose rows all hold for the time of the ensemble (their `steps` do not matter), or
            a tuple of such streams.
        states: states of each member at the `observed_rows` of the streams, leading axes (member, row), where the
            observations are of other times than the ensemble.

    Returns:
        `Departures`.

    Raises:
        ShapeError: if the ensemble has fewer than two members, or H(x) is shaped unlike the values.
        ConfigurationError: if a stream has a robust loss, or lies between two steps of one time's analysis.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[2.0, jnp.nan]]), [0], error=da.covariances.Diagonal(std=0.5))
        >>> found = whitened_departures(jnp.array([[0.0, 1.0], [1.0, 1.0]]), y)
        >>> found.d.tolist(), found.S.tolist(), int(found.count)
        ([3.0, 0.0], [[-1.0, 0.0], [1.0, 0.0]], 1)
    """
    ensemble = check_ensemble("whitened_departures", ensemble)
    streams = as_streams(observations)
    if states is None:
        each = jax.vmap(whitened_innovation(streams))(ensemble)
    else:
        each = jax.vmap(whitened_innovation(streams, along=True))(states)
    d = jnp.mean(each, axis=0)
    return Departures(d, d[None] - each, flat([stream.mask for stream in streams]))


def whitened_innovation(streams: tuple[Any, ...], along: bool = False) -> Callable[[Any], Float[Array, " m"]]:
    r"""Return the function \(x \mapsto R^{-1/2} (y - H(x))\) of one state, all streams in one vector.

    Args:
        streams: the observations of one time, a tuple of `Observations`.
        along: whether x are the states at the `observed_rows` of the streams instead of one state.

    Raises:
        ConfigurationError: if a stream has a robust loss, or lies between two steps of one time's analysis.
    """
    robust = [type(stream.loss).__name__ for stream in streams if stream.loss is not None]
    if robust:
        raise ConfigurationError(
            f"an ensemble analysis needs Gaussian observation errors, found the loss {robust[0]}; leave `loss` out"
        )
    if not along:
        streams = tuple(on_steps("an ensemble analysis", stream) for stream in streams)

    def innovation(x: Any) -> Any:
        first, found = 0, []
        for stream in streams:
            count = stream.rows.shape[0]
            rows = jax.tree.map(lambda leaf, a=first, b=first + count: leaf[a:b], x) if along else _repeated(x, count)
            found.append(stream.innovation(rows))
            first += count
        return flat(found)

    return innovation


def flat(values: Any) -> Float[Array, " m"]:
    """Return all leaves one after the other as one vector."""
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(values)])


def _repeated(member: Any, rows: int) -> Any:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (rows, *leaf.shape)), member)
