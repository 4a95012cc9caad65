"""Row fusion: two kinds of observations of one field, by an encoder and by covariances; together and each alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffassim.covariances import Dense, Diagonal
from diffassim.experiments.learning.bench import Row, Score, Settings, train
from diffassim.experiments.learning.lorenz96_runs import CENTER, SPREAD, N, runs
from diffassim.learned import Network
from diffassim.learned.networks import SetEncoder
from diffassim.observations import Function, Interpolate, Observations
from diffassim.variational import ThreeDVar, minimize

__all__ = ["ROW"]

COUNTS = {"gauge": 10, "beam": 10}  # observations of each kind, every time elsewhere
STD = {"gauge": 1.0, "beam": 0.3}  # of their errors
WIDTH = 1.5  # variables that a beam sees at once, as the standard deviation of its weights
WAVES = 8  # wavenumbers in which places are told
CHAINS, LENGTH, EVERY, SPIN_UP = 64, 500, 10, 1000  # training trajectories, states of each, and steps between them
BATCH, TEST = 64, 1000
KINDS = {"gauges alone": ("gauge",), "beams alone": ("beam",), "both kinds": ("gauge", "beam")}


def states(key: jax.Array, chains: int, length: int) -> Any:
    """Return states on the attractor, shape (state, variable)."""
    return runs(key, chains, SPIN_UP + EVERY * np.arange(length), 0.05).reshape(chains * length, N)


def beam(x: Any, place: Any) -> Any:
    """Return means around places, with Gaussian weights."""
    away = jnp.abs(place - jnp.arange(N, dtype=x.dtype)[None])
    weights = jnp.exp(-0.5 * (jnp.minimum(away, N - away) / WIDTH) ** 2)
    return weights @ x / jnp.sum(weights, axis=1)


OPERATORS = {"gauge": Interpolate(), "beam": Function(beam)}


def observe(x: Any, key: jax.Array) -> dict[str, tuple[Any, Any]]:
    """Return values and places of both kinds."""
    found = {}
    for k, (kind, count) in enumerate(COUNTS.items()):
        keys = jax.random.split(jax.random.fold_in(key, k))
        places = jax.random.uniform(keys[0], (count, 1), x.dtype, 0, N)
        found[kind] = OPERATORS[kind](x, places) + STD[kind] * jax.random.normal(keys[1], (count,), x.dtype), places
    return found


def waves(places: Any) -> Any:
    """Return sines and cosines of places, shape (place, 2 WAVES)."""
    angles = 2 * jnp.pi / N * places * jnp.arange(1, WAVES + 1, dtype=places.dtype)[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


def encoded(network: Any, seen: Any, shown: Any) -> Any:
    """Return the state that the encoder makes of the kinds that are shown."""
    tokens = {
        kind: (
            jnp.concatenate([((values - CENTER) / SPREAD)[:, None], waves(places)], axis=1),
            jnp.broadcast_to(shown[kind], values.shape),
        )
        for kind, (values, places) in seen.items()
    }
    everywhere = waves(jnp.arange(N, dtype=jnp.float32)[:, None])
    return CENTER + SPREAD * network(tokens, everywhere)[:, 0]


def loss(network: Any, batch: Any, key: jax.Array) -> Any:
    """Return the mean square error in units of the climate; a kind is hidden every third time, never both."""

    def one(x: Any, key: jax.Array) -> Any:
        keys = jax.random.split(key, 3)
        x = jnp.roll(x, jax.random.randint(keys[0], (), 0, N))  # the law of the model is the same everywhere
        case = jax.random.randint(keys[1], (), 0, 3)
        shown = {"gauge": case != 0, "beam": case != 1}
        return encoded(network, observe(x, keys[2]), shown) - x

    errors = jax.vmap(one)(batch, jax.random.split(key, batch.shape[0])) / SPREAD
    return jnp.mean(errors**2)


@jax.jit
def by_network(network: Any, seen: Any, shown: Any) -> Any:
    """Return the encoder's states of all cases."""
    return jax.vmap(lambda one: encoded(network, one, shown))(seen)


def by_covariances(climate: Any, seen: Any, kinds: tuple[str, ...]) -> Any:
    """Return the 3D-Var analyses of all cases, with mean and covariance of the climate as background."""
    mean, B = climate

    def one(case: Any) -> Any:
        streams = [
            Observations(case[kind][0][None], [0], OPERATORS[kind], Diagonal(std=STD[kind]), where=case[kind][1][None])
            for kind in kinds
        ]
        return minimize(ThreeDVar(mean, B, streams)).state

    return jax.jit(jax.vmap(one))(seen)


def run(settings: Settings) -> Iterator[Score]:
    """Train one encoder for all kinds, and score it and 3D-Var with each kind alone and with both."""
    keys = jax.random.split(settings.key, 5)
    training, truth = states(keys[0], CHAINS, LENGTH), states(keys[1], TEST // 50, 50)
    single = jnp.float32
    features = dict.fromkeys(COUNTS, 1 + 2 * WAVES)
    width, rounds = (128, 6) if settings.full else (48, 3)
    encoder = SetEncoder(features, 2 * WAVES, 1, width, 4, rounds, rngs=nnx.Rngs(settings.seed), dtype=single)
    found = train(
        loss, Network.from_nnx(encoder), training.astype(single), settings=settings, name="the encoder",
        updates=20_000, rate=2e-3, batch_size=BATCH, key=keys[2],
    )  # fmt: skip
    seen = jax.vmap(observe)(truth, jax.random.split(keys[3], TEST))
    climate = jnp.mean(training, axis=0), Dense.from_matrix(jnp.cov(training.T))
    for route in ("encoder", "3D-Var"):
        alone: list[float] = []
        for name, kinds in KINDS.items():
            settings.tell(f"{route}, {name}")
            if route == "encoder":
                shown = {kind: jnp.asarray(kind in kinds) for kind in COUNTS}
                analyses = by_network(found.trained, jax.tree.map(lambda leaf: leaf.astype(single), seen), shown)
            else:
                analyses = by_covariances(climate, seen, kinds)
            error = float(jnp.sqrt(jnp.mean((analyses.astype(truth.dtype) - truth) ** 2)))
            aim = min(alone) if len(kinds) > 1 else None  # better together than each alone
            alone.append(error)
            kind = "learned" if route == "encoder" else "classical"
            yield Score(f"{route}, {name}", error, kind, None, aim)


ROW = Row(
    "fusion", "Lorenz-96 from gauges and beams at places that change", "root mean square error",
    "better together than each alone", run,
)  # fmt: skip
