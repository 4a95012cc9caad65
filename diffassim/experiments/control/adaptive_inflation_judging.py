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

__all__ = ["Constants", "Judged", "Lanes", "by_regime", "chosen_constants", "in_turn", "judge", "lanes_of"]


class Lanes(NamedTuple):
    """Twins side by side, all with a leading axis of twins.

    Attributes:
        tuned: of each regime in turn, on which its best constants are chosen.
        scored: other ones of each regime in turn, on which everything is scored.
        drawn: in regimes drawn as in training.
    """

    tuned: Twin
    scored: Twin
    drawn: Twin

    @property
    def choosing(self) -> Twin:
        """The twins on which constants are chosen: tuned ones, then drawn ones."""
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), self.tuned, self.drawn)


def by_regime(values: Any) -> Any:
    """Return numbers of tuned or of scored twins by regime, shape (regime, seed, ...)."""
    return values.reshape(len(REGIMES), -1, *values.shape[1:])


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
    each = (0,) * tuning + (1,) * seeds
    named = [named for _ in each for named in REGIMES.values()]
    own = [jax.random.fold_in(keys[which], k) for k, which in enumerate(each) for _ in REGIMES]

    def number(*values: Any) -> Any:
        return jnp.asarray(values, dtype)

    befores = jax.tree.map(number, *(named.before for named in named))
    afters = jax.tree.map(number, *(named.before if named.after is None else named.after for named in named))
    fresh = jax.random.split(keys[2], 3 * drawn).reshape(3, drawn)
    first, second = (jax.vmap(lambda key: drawn_regime(key, dtype))(part) for part in fresh[:2])
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts), Named(befores, afters), Named(first, second))
    whole = _twins(both, jnp.concatenate([jnp.stack(own), fresh[2]]), members, n, half, dtype)
    order = np.arange(len(each) * len(REGIMES)).reshape(len(each), len(REGIMES)).T  # regimes first
    parts = order[:, :tuning].ravel(), order[:, tuning:].ravel(), order.size + np.arange(drawn)
    return Lanes(*(jax.tree.map(lambda leaf, part=part: leaf[part], whole) for part in parts))


@partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _twins(named: Named, keys: Any, members: int, n: int, half: int, dtype: Any) -> Twin:
    return jax.vmap(lambda named, key: twin(named, key, members, n, half, jnp.dtype(dtype)))(named, keys)


@partial(jax.jit, static_argnames="each")
def judge(method: Any, twins: Twin, *, each: bool = False) -> Judged:
    """Run a method in many twins.

    Args:
        method: sequential method.
        twins: leading axis of twins.
        each: whether every twin has its own method, which then has the leading axis, too (static).
    """
    dtype = twins.truth.dtype
    times = np.arange(1, twins.truth.shape[1] + 1)
    model = Lorenz96(forcing=jnp.asarray(FORCING, dtype))

    def one(method: Any, now: Twin) -> Judged:
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

    return jax.vmap(one, in_axes=(0 if each else None, 0))(method, twins)


def contestants(name: str, dtype: Any) -> dict[str, Any]:
    """Return the methods without constants to be tuned."""
    contender = FILTERS[name]
    one, radius, shape = (jnp.asarray(value, dtype) for value in (1.0, contender.radius, contender.shape))
    return {
        "finite size": contender.finite_size(radius),
        "adaptive": AdaptiveInflation(contender.plain(one, radius), shape),
    }


def constants_of(name: str) -> list[tuple[float, float]]:
    """Return all pairs of constants: variance factor and radius."""
    contender = FILTERS[name]
    return [(factor, radius) for radius in contender.radii for factor in contender.factors]


def with_constants(name: str, pairs: Any, dtype: Any) -> Any:
    """Return the filter with these constants, shape (2,), or many of them side by side, shape (twin, 2)."""
    plain, pairs = FILTERS[name].plain, jnp.asarray(pairs, dtype)
    return plain(*pairs) if pairs.ndim == 1 else jax.vmap(lambda pair: plain(*pair))(pairs)


def with_policy(name: str, policy: Any, dtype: Any) -> PolicyInflation:
    """Return the filter that a policy steers."""
    return FILTERS[name].steered(policy, dtype)


class Constants(NamedTuple):
    """Constants, chosen without the scored twins.

    Attributes:
        best: factor and radius of each regime, shape (regime, 2).
        halves: those that are best in the first and in the second half of its twins, shape (2, regime, 2).
        one: the ones of least geometric mean over regimes of the training, shape (2,).
    """

    best: np.ndarray
    halves: np.ndarray
    one: np.ndarray


def chosen_constants(pairs: Any, errors: Any, tuned: int) -> Constants:
    """Return the best constants.

    Args:
        pairs: all of them, shape (constant, 2).
        errors: of each in the twins where constants are chosen, shape (constant, twin, time).
        tuned: how many of these are tuned ones; the others are drawn.
    """
    pairs, errors = np.asarray(pairs), np.asarray(errors)
    halves = errors.reshape(*errors.shape[:2], 2, -1).mean(axis=3)
    means = np.stack([by_regime(row).mean(axis=1) for row in halves[:, :tuned]])  # (constant, regime, half)
    one = np.log(halves[:, tuned:].mean(axis=2)).mean(axis=1).argmin()
    return Constants(pairs[means.mean(axis=2).argmin(axis=0)], pairs[means.argmin(axis=0).T], pairs[one])


def in_turn(first: Judged, second: Judged) -> Judged:
    """Return the first half of one and the second half of another, as if they had been switched in the middle."""
    half = first.error.shape[1] // 2
    error, spread, factor = (
        jnp.concatenate([a[:, :half], b[:, half:]], axis=1) for a, b in zip(first[:3], second[:3], strict=True)
    )
    return Judged(error, spread, factor, jnp.any(error >= LOST, axis=1))
