"""The mean of ground motion: a law with fitted coefficients, or a network trained on simulated, then on real events."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from diffassim.core.pytree import Pytree
from diffassim.experiments.applications.ground_motion_terms import Blocks, Records, TermCovariances, block_factors
from diffassim.io.ground_motion import GroundMotion
from diffassim.learned import Network
from diffassim.learned.networks import MLP
from diffassim.training import fit

__all__ = [
    "INPUTS",
    "UNITS",
    "Law",
    "NetworkMean",
    "fine_tune",
    "fit_law",
    "inputs",
    "published_law",
    "record_inputs",
    "simulated_training",
]

CENTRAL_MAGNITUDE = 4.5
SATURATION = 6.0  # km, of the distance: motion does not grow without bound near the source
STANDARD_VS30 = 500.0  # m/s
SIMULATED = 300, 100  # events, stations in each
INPUTS = 6
UNITS = 32  # of each of two hidden layers
BATCH = 8


def inputs(magnitude: Any, distance: Any, depth: Any, vs30: Any, elevation: Any) -> Float[Array, "... 6"]:
    """Return what a mean depends on, scaled to the order of one.

    Args:
        magnitude: moment magnitude, broadcast with the rest.
        distance: to the rupture, km.
        depth: of the source, km.
        vs30: mean shear velocity of the upper 30 m, m/s.
        elevation: of the station, m.
    """
    r = jnp.hypot(jnp.asarray(distance), SATURATION)
    parts = (
        jnp.asarray(magnitude) - CENTRAL_MAGNITUDE, jnp.log10(r) - 2.0, r / 200.0 - 1.0,
        jnp.asarray(depth) / 5.0 - 1.0, 2 * jnp.log10(jnp.asarray(vs30) / STANDARD_VS30),
        jnp.asarray(elevation) / 1000.0 - 0.7,
    )  # fmt: skip
    return jnp.stack(jnp.broadcast_arrays(*parts), axis=-1)


def record_inputs(data: GroundMotion) -> Float[Array, "records 6"]:
    """Return the inputs of all records."""
    return inputs(
        data.magnitude[data.event], data.distance, data.event_place[data.event, 2], data.vs30[data.station],
        data.elevation[data.station],
    )  # fmt: skip


class Law(Pytree):
    """A law that is linear in its coefficients: magnitude up to its square, attenuation, depth, site.

    Args:
        coefficients: shape (9,).
    """

    coefficients: Any

    def __call__(self, x: Float[Array, "... 6"]) -> Float[Array, ...]:
        """Return log10 PGA."""
        return self.terms(x) @ jnp.asarray(self.coefficients)

    @staticmethod
    def terms(x: Float[Array, "... 6"]) -> Float[Array, "... 9"]:
        """Return what the coefficients multiply."""
        m = x[..., :1]
        return jnp.concatenate([jnp.ones_like(m), x, jnp.square(m), m * x[..., 1:2]], axis=-1)


class NetworkMean(Pytree):
    """A network added to a law that stays as it is.

    Args:
        law: the law.
        network: of the same inputs.
    """

    law: Law
    network: Network

    def __call__(self, x: Float[Array, "... 6"]) -> Float[Array, ...]:
        """Return log10 PGA."""
        return self.law(x) + self.network(x)[..., 0]


def published_law(magnitude: Any, distance: Any) -> Any:
    """Return log10 PGA in g of small to moderate earthquakes in California.

    Source: Atkinson (2015), table 1, PGA.
    """
    h = jnp.maximum(1.0, 10 ** (-1.72 + 0.43 * magnitude))
    r = jnp.hypot(distance, h)
    log_cm = -2.376 + 1.818 * magnitude - 0.1153 * magnitude**2 - 1.752 * jnp.log10(r) - 0.002 * r
    return log_cm - jnp.log10(980.665)


def simulated_training(seed: int, updates: int) -> NetworkMean:
    """Return a mean trained on simulated events: the published law, with random terms of events, stations and records.

    The standard deviations of the terms are the law's own (between events .24, within .28). A quarter of the variance
    within events is a site effect that grows as the ground gets softer, as in all later laws.

    Args:
        seed: of the events and the weights.
        updates: steps of the optimizer.
    """
    rng = np.random.default_rng(seed)
    events, stations = SIMULATED
    m = rng.uniform(3.5, 7.2, (events, 1))
    distance = 10 ** rng.uniform(0.3, 2.7, (events, stations))
    depth, elevation = rng.uniform(1, 15, (events, 1)), rng.uniform(0, 2500, (events, stations))
    vs30 = 500 * 10 ** rng.normal(0, 0.15, (events, stations))
    x = inputs(m, distance, depth, vs30, elevation)
    y = published_law(jnp.asarray(m), jnp.asarray(distance)) + 0.24 * rng.normal(size=(events, 1))
    y = y + 0.25 * rng.normal(size=(events, stations)) - 0.8 * jnp.log10(vs30 / 500)
    x, y = x.reshape(-1, x.shape[-1]), y.ravel()
    law = Law(jnp.linalg.lstsq(Law.terms(x), y)[0])
    start = NetworkMean(law, Network.from_nnx(MLP([x.shape[-1], UNITS, UNITS, 1], zero=True, rngs=nnx.Rngs(seed))))

    def loss(mean: NetworkMean, batch: Any, key: Any) -> Array:
        features, wanted = batch
        return jnp.mean(jnp.square(mean(features) - wanted))

    rate = optax.cosine_decay_schedule(3e-3, updates)
    found = fit(
        loss, start, (x, y), optimizer=optax.adam(rate), steps=updates, batch_size=512, key=jax.random.key(seed)
    )
    return found.trained


def fit_law(data: GroundMotion, blocks: Blocks, terms: TermCovariances | None) -> Law:
    """Return the law of (generalized) least squares.

    Args:
        data: the records.
        blocks: those that are fitted to.
        terms: covariances of the residuals; None: independent ones.
    """
    design, y = Law.terms(record_inputs(data)), jnp.asarray(data.log_pga)
    rows, wanted = design[blocks.rows], y[blocks.rows]
    if terms is None:
        weight = jnp.asarray(blocks.real, y.dtype)
        rows, wanted = weight[..., None] * rows, weight * wanted
    else:
        whitening = block_factors(terms, Records.of(data), blocks)
        rows, wanted = whitening @ rows, jnp.einsum("bij,bj->bi", whitening, wanted)
    return Law(jnp.linalg.lstsq(rows.reshape(-1, rows.shape[-1]), wanted.ravel())[0])


def fine_tune(
    mean: NetworkMean, data: GroundMotion, blocks: Blocks, terms: TermCovariances, updates: int, seed: int
) -> NetworkMean:
    r"""Return a mean trained on real records by their likelihood, \(\tfrac12 \lVert L^{-1} (y - f) \rVert^2\).

    Args:
        mean: trained on simulated events.
        data: the records.
        blocks: those to train on.
        terms: covariances of the residuals.
        updates: steps of the optimizer.
        seed: of the order of the blocks.
    """
    whitening = block_factors(terms, Records.of(data), blocks)
    x, y = record_inputs(data)[blocks.rows], jnp.asarray(data.log_pga)[blocks.rows]

    def loss(mean: NetworkMean, batch: Any, key: Any) -> Array:
        W, features, wanted = batch
        return jnp.mean(jnp.square(jnp.einsum("bij,bj->bi", W, wanted - mean(features))))

    rate = optax.cosine_decay_schedule(2e-3, updates)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=1e-3))
    found = fit(
        loss, mean, (whitening, x, y), optimizer=optimizer, steps=updates, batch_size=min(BATCH, len(blocks.rows)),
        key=jax.random.key(seed),
    )  # fmt: skip
    return found.trained
