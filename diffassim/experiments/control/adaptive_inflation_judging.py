"""How policies of inflation and constants are judged: the same twins for all of them."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.cycling import cycle
from diffassim.ensemble import AdaptiveInflation, PolicyInflation
from diffassim.experiments.control.adaptive_inflation_regimes import (
    BURN_IN,
    FORCING,
    REGIMES,
    Named,
    Twin,
    drawn_regime,
    twin,
)
from diffassim.experiments.control.adaptive_inflation_training import FILTERS, LOST
from diffassim.models import Lorenz96

__all__ = ["Judged", "Lanes", "best_constants", "judge", "lanes_of"]


class Lanes(NamedTuple):
    """Twins side by side.

    Attributes:
        twins: leading axis of twins: of the regimes (tuning, then scored seeds of each), then drawn as in training.
        tuning: seeds of each regime on which its best constant is chosen.
        seeds: seeds of each regime on which everything is scored.
    """

    twins: Twin
    tuning: int
    seeds: int

    def scored(self, values: Any) -> Any:
        """Return the part that is scored, shape (regime, seed, ...)."""
        return self._by_regime(values)[:, self.tuning :]

    def tuned(self, values: Any) -> Any:
        """Return the part on which constants are chosen, shape (regime, seed, ...)."""
        return self._by_regime(values)[:, : self.tuning]

    def drawn(self, values: Any) -> Any:
        """Return the part in regimes of the training, shape (lane, ...)."""
        return values[len(REGIMES) * (self.tuning + self.seeds) :]

    def _by_regime(self, values: Any) -> Any:
        each = self.tuning + self.seeds
        return values[: len(REGIMES) * each].reshape(len(REGIMES), each, *values.shape[1:])


class Judged(NamedTuple):
    """What a method did in each twin, after the burn-in; leading axis of twins.

    Attributes:
        error: root mean square error of each analysis, at most `LOST`, shape (twin, time).
        spread: root mean square spread, likewise.
        factor: of the prior variances, NaN where a method keeps it to itself.
        lost: whether the filter diverged: not finite, or an error of `LOST`.
    """

    error: Any
    spread: Any
    factor: Any
    lost: Any


def lanes_of(
    keys: jax.Array, tuning: int, seeds: int, drawn: int, members: int, n: int, half: int, dtype: Any
) -> Lanes:
    """Return the twins on which everything is chosen and judged.

    Args:
        keys: of the tuning, of the scored seeds, and of the regimes of the training.
        tuning: seeds of each regime.
        seeds: likewise.
        drawn: twins in regimes of the training.
        members: of the ensembles.
        n: number of variables.
        half: analyses of each half of a twin.
        dtype: of the numbers.
    """
    named = [named for named in REGIMES.values() for _ in range(tuning + seeds)]
    own = [jax.random.fold_in(keys[int(k >= tuning)], k) for _ in REGIMES for k in range(tuning + seeds)]

    def number(*values: Any) -> Any:
        return jnp.asarray(values, dtype)

    befores = jax.tree.map(number, *(named.before for named in named))
    afters = jax.tree.map(number, *(named.before if named.after is None else named.after for named in named))
    fresh = jax.random.split(keys[2], 3 * drawn).reshape(3, drawn)
    first, second = (jax.vmap(lambda key: drawn_regime(key, dtype))(part) for part in fresh[:2])
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts), Named(befores, afters), Named(first, second))
    return Lanes(_twins(both, jnp.concatenate([jnp.stack(own), fresh[2]]), members, n, half, dtype), tuning, seeds)


@partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _twins(named: Named, keys: Any, members: int, n: int, half: int, dtype: Any) -> Twin:
    return jax.vmap(lambda named, key: twin(named, key, members, n, half, jnp.dtype(dtype)))(named, keys)


@jax.jit
def judge(method: Any, twins: Twin) -> Judged:
    """Run a method in many twins.

    Args:
        method: sequential method.
        twins: leading axis of twins.
    """
    dtype = twins.truth.dtype
    times = np.arange(1, twins.truth.shape[1] + 1)
    model = Lorenz96(forcing=jnp.asarray(FORCING, dtype))

    def one(now: Twin) -> Judged:
        record = now.observations.replace(steps=times)  # known outside of traced code
        _, history = cycle(method, model, now.ensemble, record)
        error = jnp.sqrt(jnp.mean(jnp.square(history.analysis.mean - now.truth), axis=1))
        spread = jnp.sqrt(jnp.mean(jnp.square(history.analysis.spread), axis=1))
        before = jnp.mean(jnp.square(history.background.spread), axis=1)
        factor = jnp.square(history.info.background_spread) / before
        sound = jnp.isfinite(error) & (error < LOST)
        whole = Judged(jnp.where(sound, error, LOST), jnp.where(sound, spread, jnp.nan), factor, ~sound)
        counted = Judged(*(part[BURN_IN:] for part in whole))
        return counted._replace(lost=jnp.any(counted.lost))

    return jax.vmap(one)(twins)


def contestants(name: str, dtype: Any) -> dict[str, Any]:
    """Return the methods without constants to be tuned."""
    contender = FILTERS[name]
    radius = jnp.asarray(contender.radius, dtype)
    return {
        "finite size": contender.finite_size(radius),
        "adaptive": AdaptiveInflation(contender.plain(jnp.ones((), dtype), radius)),
    }


def constants_of(name: str) -> list[tuple[float, float]]:
    """Return all pairs of constants: variance factor and radius."""
    contender = FILTERS[name]
    return [(factor, radius) for radius in contender.radii for factor in contender.factors]


def with_constants(name: str, pair: tuple[float, float], dtype: Any) -> Any:
    """Return the filter with these constants."""
    return FILTERS[name].plain(*(jnp.asarray(value, dtype) for value in pair))


def with_policy(name: str, policy: Any, dtype: Any) -> PolicyInflation:
    """Return the filter that a policy steers."""
    return FILTERS[name].steered(policy, dtype)


def best_constants(errors: Any, lanes: Lanes) -> tuple[np.ndarray, int]:
    """Return the number of the best constants of each regime, on the tuning seeds, and that of the best for all.

    Args:
        errors: mean error of each constant in each twin, shape (constant, twin).
        lanes: the twins.

    Returns:
        Numbers of shape (regime,); the constants with the least geometric mean over regimes of the training.
    """
    tuned = np.stack([lanes.tuned(row).mean(axis=1) for row in errors])
    return tuned.argmin(axis=0), int(np.log(np.stack([lanes.drawn(row) for row in errors])).mean(axis=1).argmin())
