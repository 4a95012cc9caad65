"""Serial filters: observations one after the other, each update regressed on the state with localized covariances."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core.loops import checkpointed_scan
from diffassim.covariances.base import as_field
from diffassim.ensemble.local.domain import from_columns, to_columns
from diffassim.ensemble.local.localized import LocalizedMethod
from diffassim.ensemble.local.search import within_reach
from diffassim.methods.departures import Departures
from diffassim.methods.members import anomalies, mean, recombine

__all__ = ["SerialFilter"]

FEW = 64  # values whose intermediate ensembles are kept for reverse mode: no checkpoints, half the compile time


class SerialFilter(LocalizedMethod):
    r"""Base of the filters that take one whitened value after the other, in two steps.

    First the members' values h of the observed quantity are updated, by a rule for one scalar (`response`); then the
    increments \(\Delta h_i\) are regressed on everything else, state and values not yet taken alike, with covariances
    that a taper localizes:

    .. math::
        x_{a,i} = x_{f,i} + \rho(|r - r_j|)\, \mathrm{cov}(x, h)\, \frac{\Delta h_i}{\mathrm{var}\, h}

    The values are taken in the order of the streams. H is linear in between: it is evaluated once, before the first.

    Without localization, any state structure and correlated R will do. With it, the grid and the places have the
    meaning they have for the `LETKF`, and R has to be uncorrelated. Each value costs one pass over the state, or over
    what its taper reaches where that is known outside of traced code.
    """

    def response(self, key: Any, s: Float[Array, " N"], d: Float[Array, ""]) -> Float[Array, " N"]:
        r"""Return the increments of an observed quantity over its prior variance, \(\Delta h_i / \mathrm{var}\, h\).

        In this form the rule stays defined without any spread.

        Args:
            key: random key; None where the method draws nothing.
            s: anomalies of the whitened quantity, shape (N,).
            d: mean innovation, its error variance being one.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define response(key, s, d)")

    def update(self, key: Any, ensemble: Any, departures: Departures, streams: tuple[Any, ...]) -> Any:
        """Return the posterior ensemble, before inflation and rotation."""
        S, d, observed = departures.S, departures.d, departures.observed
        N, count = S.shape
        if count == 0:
            return ensemble
        if self.nearest is not None:
            return self._update_nearby(key, ensemble, departures, streams)
        coefficients = self._coefficients(ensemble, streams, observed, S.dtype)

        def take(carry: Any, j: Any) -> tuple[Any, None]:
            x, X, S, d = carry
            s = S[:, j]
            c = self.response(None if key is None else jax.random.fold_in(key, j), s, d[j])
            shift, change = jnp.mean(c), c - jnp.mean(c)
            to_state, to_values = coefficients(j)

            def covariance(leaf: Any) -> Any:
                found = jnp.tensordot(s.astype(leaf.dtype), leaf, 1) / (N - 1)
                return found if to_state is None else found * as_field(to_state, found)

            def moved(leaf: Any, gain: Any) -> Any:
                return leaf + change.astype(leaf.dtype).reshape((-1,) + (1,) * gain.ndim) * gain[None]

            gain, own = jax.tree.map(covariance, X), s @ S / (N - 1) * to_values
            x = jax.tree.map(lambda leaf, g: leaf + shift.astype(leaf.dtype) * g, x, gain)
            return (x, jax.tree.map(moved, X, gain), S + change[:, None] * own[None], d - shift * own), None

        carry = (mean(ensemble), anomalies(ensemble), S, d)
        (x, X, _, _), _ = checkpointed_scan(take, carry, count, segment=count if count <= FEW else None)
        return recombine(x, X)

    def _update_nearby(self, key: Any, ensemble: Any, departures: Departures, streams: tuple[Any, ...]) -> Any:
        """Return the same, where it is known which points and which values each value can reach: no pass over all."""
        shape, (N, count) = self.grid_shape(ensemble), departures.S.shape
        places, points = self.stream_places(streams, shape), self.grid.points(shape)
        dtype = departures.S.dtype

        def take(carry: Any, j: Any, near: Any) -> tuple[Any, None]:
            x, X, S, d = carry
            s, (at_points, at_values) = S[j], near
            c = self.response(None if key is None else jax.random.fold_in(key, j), s, d[j])
            shift, change = jnp.mean(c), c - jnp.mean(c)
            here, there = places[j][None], points.at[at_points].get(mode="clip")
            to_state = self.taper(here, there, shape, dtype)
            to_values = self.taper(here, places.at[at_values].get(mode="clip"), shape, dtype)

            def gain(leaf: Any) -> Any:  # of the columns (points, N, channels)
                found = leaf.at[at_points].get(mode="fill", fill_value=0)
                return (
                    jnp.einsum("n,pnc->pc", s.astype(leaf.dtype), found)
                    / (N - 1)
                    * to_state.astype(leaf.dtype)[:, None]
                )

            def moved(leaf: Any, g: Any) -> Any:
                return leaf.at[at_points].add(change.astype(leaf.dtype)[None, :, None] * g[:, None], mode="drop")

            gains = jax.tree.map(gain, X)
            own = S.at[at_values].get(mode="fill", fill_value=0) @ s / (N - 1) * to_values
            x = jax.tree.map(
                lambda leaf, g: leaf.at[at_points].add(shift.astype(leaf.dtype) * g, mode="drop"), x, gains
            )
            S = S.at[at_values].add(own[:, None] * change[None], mode="drop")
            return (x, jax.tree.map(moved, X, gains), S, d.at[at_values].add(-shift * own, mode="drop")), None

        columns = jax.tree.map(lambda leaf: to_columns(leaf, self.grid.ndim), ensemble)
        center = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=1), columns)
        X = jax.tree.map(lambda leaf, m: leaf - m[:, None], columns, center)
        carry = (center, X, departures.S.T, departures.d)
        segment = count if count <= FEW else None
        (x, X, _, _), _ = checkpointed_scan(take, carry, count, segment=segment, inputs=self.nearest)
        return jax.tree.map(lambda m, X, leaf: from_columns(m[:, None] + X, leaf), x, X, ensemble)

    def finder(self, shape: tuple[int, ...]) -> Any:
        """Return the search for the points and the values within reach of each value."""

        def find(places: Any, seen: Any) -> Any:
            points = np.asarray(self.grid.points(shape))
            somewhere = np.where(seen[:, None], places, points[:1])  # what was not observed has no anomalies
            found = [
                within_reach(self.localization, self.grid, shape, somewhere, others, known)
                for others, known in ((points, np.ones(len(points), bool)), (places, seen))
            ]
            return None if any(numbers is None for numbers in found) else tuple(found)

        return find

    def _coefficients(self, ensemble: Any, streams: tuple[Any, ...], observed: Any, dtype: Any) -> Any:
        """Return the function from the number of a value to its coefficients with the state and with all values."""
        if self.localization is None:
            one = jnp.ones((), dtype)
            return lambda j: (None, one)
        self.require_localization("None")
        shape = self.grid_shape(ensemble)
        # What was not observed may have no place; any will do, for it has no anomalies.
        places = jnp.where(observed[:, None], self.stream_places(streams, shape), 0)
        points = self.grid.points(shape)

        def of(j: Any) -> tuple[Any, Any]:
            there = places[j][None]
            return self.taper(there, points, shape, dtype).reshape(shape), self.taper(there, places, shape, dtype)

        return of
