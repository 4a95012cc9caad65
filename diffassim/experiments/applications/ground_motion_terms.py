"""Random terms of ground motion: event, station, path and what is left, as one Gaussian with learned covariances."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core.pytree import Pytree
from diffassim.covariances import Dense, Fitted, fit_parameters, negative_log_likelihood
from diffassim.io.ground_motion import GroundMotion

__all__ = [
    "FIRST_GUESS",
    "TERMS",
    "Blocks",
    "Records",
    "TermCovariances",
    "apart",
    "block_factors",
    "block_likelihood",
    "fit_terms",
    "station_blocks",
    "turned",
]

SOURCE_SCALE = 20.0  # km over which path terms are taken as linear in the place of the source
NUGGET = 1e-6  # of the path terms: two instruments at one place share theirs
TERMS = 3  # of each station: at the center of the sources, and its slopes to east and north


class Records(NamedTuple):
    """What of the records the covariances depend on; arrays of one length.

    Args:
        event: number of the event.
        station: number of the station.
        basis: 1, and east and north of the source in `SOURCE_SCALE`, shape (records, 3).
        place: of the station, km, shape (records, 2).
        bearing: direction from source to station, radians.
    """

    event: Any
    station: Any
    basis: Any
    place: Any
    bearing: Any

    @classmethod
    def of(cls, data: GroundMotion, chosen: np.ndarray | slice = slice(None)) -> Records:
        """Return them for chosen records."""
        event, station = data.event[chosen], data.station[chosen]
        source, place = data.event_place[event, :2], data.station_place[station]
        basis = np.column_stack([np.ones(len(event)), source / SOURCE_SCALE])
        away = place - source
        return cls(event, station, basis, place, np.arctan2(away[:, 0], away[:, 1]))


class TermCovariances(Pytree):
    r"""Covariance of log ground motion around its mean.

    .. math::
        y_{es} = f_{es} + \eta_e + \delta_s + \mathbf{g}_s \cdot \mathbf{x}_e + w_{es} + a_e(\theta_{es})
            + \epsilon_{es}

    with independent event terms \(\eta\); station terms \(\delta\), of which a part is correlated in space; path terms,
    slopes \(\mathbf{g}_s\) by the place of the source that neighboring stations share; and within an event a field w of
    the stations' places, a field a of their bearings (radiation and directivity), and the rest of each record.
    Correlations are exponential.

    Args:
        event: standard deviation of the event terms, log10 units like all of them.
        station_own: of the uncorrelated part of the station terms.
        station_shared: of the correlated part.
        station_length: its length, km.
        path: of the slopes, over `SOURCE_SCALE`.
        path_length: their length, km.
        within: of the field within an event.
        within_length: its length, km.
        bearing: of the field of bearings.
        bearing_length: its length, radians.
        record: of the rest.

    Example:
        >>> terms = TermCovariances(**FIRST_GUESS)
        >>> one = Records(np.zeros(1, int), np.zeros(1, int), np.eye(3)[:1], np.zeros((1, 2)), np.zeros(1))
        >>> float(terms.matrix(one)[0, 0].round(4))  # the sum of all variances but that of the slopes
        0.1199

    Source: Kuehn and Abrahamson (2020) for terms of this kind; Jayaram and Baker (2009) for the field within an event.
    """

    event: Any
    station_own: Any
    station_shared: Any
    station_length: Any
    path: Any
    path_length: Any
    within: Any
    within_length: Any
    bearing: Any
    bearing_length: Any
    record: Any

    def matrix(self, r: Records) -> Float[Array, "n n"]:
        """Return the covariance of records."""
        distance = apart(r.place, r.place)
        path = jnp.square(self.path) * jnp.exp(-distance / self.path_length)
        basis = jnp.asarray(r.basis)
        slopes = basis[:, 1:] @ basis[:, 1:].T
        same_event = jnp.asarray(r.event)[:, None] == jnp.asarray(r.event)[None, :]
        same_station = jnp.asarray(r.station)[:, None] == jnp.asarray(r.station)[None, :]
        total = self.shared(distance) + jnp.where(same_station, jnp.square(self.station_own), 0) + slopes * path
        total = total + jnp.where(same_event, self.between(distance, turned(r.bearing, r.bearing)), 0)
        return total + jnp.square(self.record) * jnp.eye(distance.shape[0])

    def shared(self, distance: Array) -> Array:
        """Return the covariance of the correlated part of station terms."""
        return jnp.square(self.station_shared) * jnp.exp(-distance / self.station_length)

    def between(self, distance: Array, angle: Array) -> Array:
        """Return the covariance of two records of one event, without what belongs to stations and single records."""
        field = jnp.square(self.within) * jnp.exp(-distance / self.within_length)
        return jnp.square(self.event) + field + jnp.square(self.bearing) * jnp.exp(-angle / self.bearing_length)

    def station_prior(self, place: np.ndarray) -> Float[Array, "stations 3 stations 3"]:
        """Return the covariance of the terms of all stations: of the station itself, and its two slopes."""
        distance = apart(place, place)
        own = self.shared(distance) + jnp.square(self.station_own) * jnp.eye(len(place))
        slope = jnp.square(self.path) * (jnp.exp(-distance / self.path_length) + NUGGET * jnp.eye(len(place)))
        prior = jnp.zeros((len(place), TERMS, len(place), TERMS))
        return prior.at[:, 0, :, 0].set(own).at[:, 1, :, 1].set(slope).at[:, 2, :, 2].set(slope)


FIRST_GUESS = {
    "event": 0.15, "station_own": 0.15, "station_shared": 0.15, "station_length": 20.0, "path": 0.05,
    "path_length": 50.0, "within": 0.1, "within_length": 20.0, "bearing": 0.1, "bearing_length": 1.0, "record": 0.18,
}  # fmt: skip


def apart(a: Any, b: Any) -> Float[Array, "n m"]:
    """Return the distances of places, with derivative zero where they are equal."""
    squared = sum(jnp.square(jnp.asarray(a)[:, None, k] - jnp.asarray(b)[None, :, k]) for k in range(2))
    near = squared == 0
    return jnp.where(near, 0, jnp.sqrt(jnp.where(near, 1, squared)))


def turned(a: Any, b: Any) -> Float[Array, "n m"]:
    """Return the angles between bearings, 0 to pi."""
    full = jnp.mod(jnp.asarray(a)[:, None] - jnp.asarray(b)[None, :], 2 * math.pi)
    return jnp.minimum(full, 2 * math.pi - full)


class Blocks(NamedTuple):
    """Records of neighboring stations, blocks of one size.

    Args:
        rows: numbers of the records, shape (blocks, size).
        real: which of them are not there to fill the block.
    """

    rows: np.ndarray
    real: np.ndarray


def station_blocks(data: GroundMotion, chosen: np.ndarray, size: int) -> Blocks:
    """Return blocks of about `size` chosen records at neighboring stations, by halving the map again and again.

    Args:
        data: the records.
        chosen: numbers of those to use.
        size: the most records in a block.
    """
    pending, found = [chosen], []
    while pending:
        part = pending.pop()
        stations = np.unique(data.station[part])
        if len(part) <= size or len(stations) == 1:
            found.append(part)
            continue
        place = data.station_place[data.station[part]]
        axis = int(np.argmax(np.ptp(place, axis=0)))
        order = stations[np.argsort(data.station_place[stations, axis])]
        counts = np.cumsum(np.bincount(data.station[part], minlength=len(data.stations))[order])
        half = order[: max(1, min(int(np.searchsorted(counts, len(part) / 2)) + 1, len(order) - 1))]
        first = np.isin(data.station[part], half)
        pending += [part[first], part[~first]]
    longest = max(len(part) for part in found)
    index = np.stack([np.pad(part, (0, longest - len(part)), constant_values=part[0]) for part in found])
    real = np.stack([np.arange(longest) < len(part) for part in found])
    return Blocks(index, real)


def some_blocks(blocks: Blocks, records: int, seed: int) -> Blocks:
    """Return blocks at random that hold about so many records, or all of them.

    Args:
        blocks: all.
        records: how many are enough.
        seed: of the choice.
    """
    order = np.random.default_rng(seed).permutation(len(blocks.rows))
    held = np.cumsum(blocks.real[order].sum(axis=1))
    kept = np.sort(order[: int(np.searchsorted(held, records)) + 1])
    return Blocks(blocks.rows[kept], blocks.real[kept])


def block_likelihood(terms: TermCovariances, residual: Array, records: Records, real: Array) -> Float[Array, ""]:
    """Return minus the log likelihood of the residuals of one block.

    Args:
        terms: the covariances.
        residual: y - f of its records, shape (n,).
        records: what the covariances depend on.
        real: which records count.
    """
    both = real[:, None] & real[None, :]
    matrix = jnp.where(both, terms.matrix(records), jnp.eye(residual.shape[0]))
    return negative_log_likelihood(jnp.where(real, residual, 0)[None], Dense.from_matrix(matrix))


def block_factors(terms: TermCovariances, records: Records, blocks: Blocks) -> Float[Array, "blocks n n"]:
    """Return the inverse Cholesky factor of the covariance of each block, zero where there is no record."""
    gathered = jax.tree.map(lambda leaf: jnp.asarray(leaf)[blocks.rows], records)
    return _factors(terms, gathered, jnp.asarray(blocks.real))


@jax.jit
def _factors(terms: TermCovariances, records: Records, real: Array) -> Array:
    def one(part: Any) -> Array:
        r, real = part
        both = real[:, None] & real[None, :]
        unit = jnp.eye(real.shape[0])
        L = jnp.linalg.cholesky(jnp.where(both, terms.matrix(r), unit))
        return jnp.where(both, jax.scipy.linalg.solve_triangular(L, unit, lower=True), 0)

    return jax.lax.map(one, (records, real))


def fit_terms(
    data: GroundMotion,
    blocks: Blocks,
    residual: np.ndarray,
    start: dict[str, Any],
    most: int,
    absent: tuple[str, ...] = (),
) -> tuple[TermCovariances, Fitted]:
    """Return the covariances of largest likelihood, in which blocks are independent.

    Args:
        data: the records.
        blocks: those that are fitted to.
        residual: y - f of all records.
        start: first guess, by name.
        most: iterations.
        absent: standard deviations of terms that there are none of.
    """
    tiny = dict.fromkeys(absent, 1e-06)
    free = {name: jnp.asarray(value) for name, value in start.items() if name not in absent and not _of(name, absent)}
    fixed = {name: jnp.asarray(tiny.get(name, value)) for name, value in start.items() if name not in free}
    records = jax.tree.map(jnp.asarray, Records.of(data))
    parts = [
        (jnp.asarray(residual[i]), jax.tree.map(lambda x, i=i: x[i], records), r) for i, r in zip(*blocks, strict=True)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)

    def total(values: dict[str, Any]) -> Array:
        terms = TermCovariances(**(fixed | values))
        return jnp.sum(jax.lax.map(jax.checkpoint(lambda part: block_likelihood(terms, *part)), stacked))

    found = fit_parameters(total, free, max_iterations=most)
    return TermCovariances(**(fixed | found.parameters)), found


def _of(name: str, absent: tuple[str, ...]) -> bool:
    """Return whether a name is the length of an absent term."""
    owner = {"station_length": "station_shared", "path_length": "path", "within_length": "within"}
    return owner.get(name, name.removesuffix("_length")) in absent
