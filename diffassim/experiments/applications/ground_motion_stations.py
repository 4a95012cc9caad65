"""The terms of all stations, given records: the exact posterior, whatever the number of records."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core.pytree import Pytree
from diffassim.experiments.applications.ground_motion_terms import TERMS, Records, TermCovariances, apart, turned
from diffassim.io.ground_motion import GroundMotion

__all__ = ["StationTerms", "event_covariance"]

SMALLEST_SIZE = 16  # of the matrices of an event: few sizes are compiled


class StationTerms(Pytree):
    """Gaussian of the terms of all stations, given records.

    Args:
        mean: shape (stations, 3).
        covariance: shape (stations, 3, stations, 3).
    """

    mean: Any
    covariance: Any

    @classmethod
    def given(
        cls, terms: TermCovariances, data: GroundMotion, chosen: np.ndarray, residual: np.ndarray
    ) -> StationTerms:
        r"""Return the exact posterior, one event after the other in information form.

        .. math:: \Lambda = P^{-1} + \sum_e H_e^\top R_e^{-1} H_e, \qquad \Lambda m = \sum_e H_e^\top R_e^{-1} r_e

        Args:
            terms: the covariances.
            data: the records.
            chosen: numbers of those to use.
            residual: y - f of all records.
        """
        count = len(data.stations)
        prior = terms.station_prior(data.station_place).reshape(TERMS * count, TERMS * count)
        information = np.zeros((count, TERMS, count, TERMS))
        vector = np.zeros((count, TERMS))
        for event in np.unique(data.event[chosen]):
            rows = chosen[data.event[chosen] == event]
            r = Records.of(data, rows)
            matrix = event_covariance(terms, r) + float(terms.record) ** 2 * np.eye(len(rows))
            inverse = np.linalg.inv(matrix)
            basis = r.basis[0]
            block = basis[:, None, None] * basis[None, :, None] * inverse[:, None, None, :]  # (n, 3, 3, n)
            information[np.ix_(r.station, range(TERMS), r.station, range(TERMS))] += block.transpose(0, 1, 3, 2)
            vector[r.station] += (inverse @ residual[rows])[:, None] * basis[None, :]
        mean, covariance = _posterior(prior, jnp.asarray(information.reshape(prior.shape)), jnp.asarray(vector.ravel()))
        return cls(mean.reshape(count, TERMS), covariance.reshape(count, TERMS, count, TERMS))

    def at(self, basis: np.ndarray) -> tuple[Float[Array, " stations"], Float[Array, "stations stations"]]:
        """Return mean and covariance of what stations and paths add for one place of the source."""
        b = jnp.asarray(basis)
        return self.mean @ b, jnp.einsum("sitj,i,j->st", self.covariance, b, b)


def event_covariance(terms: TermCovariances, r: Records) -> np.ndarray:
    """Return the covariance of the records of an event, without what belongs to stations and single records.

    Args:
        terms: the covariances.
        r: records of one event, n of them; padded inside, so that few sizes are compiled.

    Returns:
        Shape (n, n).
    """
    n = len(r.event)
    size = max(SMALLEST_SIZE, 1 << (n - 1).bit_length())
    place, bearing = np.pad(r.place, [(0, size - n), (0, 0)]), np.pad(r.bearing, (0, size - n))
    return np.asarray(_padded_covariance(terms, place, bearing))[:n, :n]


@jax.jit
def _padded_covariance(terms: TermCovariances, place: Array, bearing: Array) -> Array:
    return terms.between(apart(place, place), turned(bearing, bearing))


@jax.jit
def _posterior(prior: Array, information: Array, vector: Array) -> tuple[Array, Array]:
    # P - P (P + J^-1)^-1 P without an inverse of J, which is singular: with P = L L^T it is L (I + L^T J L)^-1 L^T.
    L = jnp.linalg.cholesky(prior)
    inner = jnp.eye(prior.shape[0]) + L.T @ information @ L
    C = jnp.linalg.cholesky(inner)
    root = jax.scipy.linalg.solve_triangular(C, L.T, lower=True)
    covariance = root.T @ root
    return covariance @ vector, covariance
