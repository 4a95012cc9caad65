"""Regimes of a Lorenz-96 twin whose model is wrong, some of which change on the way."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffassim.core.pytree import Pytree, static
from diffassim.covariances import Diagonal
from diffassim.models import Lorenz96
from diffassim.observations import Observations

__all__ = ["BURN_IN", "CHANGED", "FORCING", "REGIMES", "TRAINED", "Named", "Nature", "Regime", "Twin", "twin"]

FORCING = 8.0  # of the model that forecasts
SPIN_UP = 100
BURN_IN = 50  # analyses that are not scored
# Ranges from which regimes are drawn in training
TRAINED: dict[str, tuple[float, float]] = {
    "forcing": (6.5, 10.5), "share": (0.4, 1.0), "std": (0.4, 2.0),
}  # fmt: skip


class Regime(Pytree):
    """What differs between truth and model, and how the truth is observed.

    Args:
        forcing: of the truth.
        share: part of the variables that is observed at each time, others each time.
        std: standard deviation of the observation errors.
        noise: standard deviation of a random error of every step of the truth.
    """

    forcing: Any = FORCING
    share: Any = 1.0
    std: Any = 1.0
    noise: Any = 0.0


class Twin(Pytree):
    """A truth and its observations at every step.

    Args:
        truth: shape (time, n).
        observations: of all times.
        ensemble: members at the start.
    """

    truth: Any
    observations: Any
    ensemble: Any


class Named(NamedTuple):
    """A regime to be scored.

    Attributes:
        before: regime of the first half.
        after: regime of the second half; None: it stays.
    """

    before: Regime
    after: Regime | None = None


# None of them is one of the training, and most lie outside of its ranges.
REGIMES = {
    "no model error": Named(Regime()),
    "forcing 6": Named(Regime(forcing=6.0)),
    "forcing 9": Named(Regime(forcing=9.0)),
    "forcing 11": Named(Regime(forcing=11.0)),
    "random error": Named(Regime(noise=0.15)),
    "30 % observed": Named(Regime(9.0, share=0.3)),
    "errors of 0.3": Named(Regime(9.0, std=0.3)),
    "errors of 2.5": Named(Regime(9.0, std=2.5)),
    "forcing 8 to 11": Named(Regime(), Regime(11.0)),
    "forcing 11 to 8": Named(Regime(11.0), Regime()),
    "observed 100 to 30 %": Named(Regime(10.0), Regime(10.0, share=0.3)),
    "errors of 0.3 to 2.5": Named(Regime(10.0, std=0.3), Regime(10.0, std=2.5)),
    "forcing, share, errors": Named(Regime(8.0, 1.0, 1.0), Regime(11.0, 0.5, 0.5)),
}
CHANGED = tuple(name for name, regime in REGIMES.items() if regime.after is not None)


class Nature(Pytree):
    """Truths in regimes of the training, which change without notice: what a `FilterEnvironment` runs in.

    Args:
        bank: states to begin with, shape (state, n).
        members: of the ensembles (static).
        dwell: analyses that a regime lasts on average.
    """

    bank: Any
    members: int = static()
    dwell: Any = 60.0

    @classmethod
    def create(cls, key: jax.Array, members: int, n: int, dtype: Any, count: int = 256) -> Nature:
        """Return a nature whose states to begin with come from attractors of the trained forcings."""
        keys = jax.random.split(key, count)
        return cls(jax.vmap(lambda own: attracted(drawn_regime(own, dtype), own, n, dtype))(keys), members)

    def start(self, key: jax.Array) -> tuple[Regime, Any, Any]:
        """Return a regime, a truth, and members around an observation of it."""
        regime, which, draws = jax.random.split(key, 3)
        x = self.bank[jax.random.randint(which, (), 0, self.bank.shape[0])]
        return drawn_regime(regime, x.dtype), x, around(x, draws, self.members)

    def following(self, regime: Regime, x: Any, t: Any, key: jax.Array) -> tuple[Regime, Any, Observations]:
        """Return regime and truth a step later, and the observations there."""
        coin, anew, step, seen = jax.random.split(key, 4)
        change = jax.random.uniform(coin, dtype=x.dtype) * self.dwell < 1
        regime = jax.tree.map(lambda new, old: jnp.where(change, new, old), drawn_regime(anew, x.dtype), regime)
        x = next_truth(regime, x, step)
        values, mask = observed(regime, x, seen)
        error = Diagonal(std=jnp.broadcast_to(regime.std, x.shape))
        return regime, x, Observations(values[None], jnp.zeros(1, jnp.int32), error=error, mask=mask[None])


def drawn_regime(key: jax.Array, dtype: Any) -> Regime:
    """Return a regime of the training: a third has a perfect model, and a third is observed everywhere."""
    keys = jax.random.split(key, 5)
    forcing, share, std = (
        jax.random.uniform(own, (), dtype, *bounds) for own, bounds in zip(keys, TRAINED.values(), strict=False)
    )
    perfect, everywhere = (jax.random.uniform(own, dtype=dtype) < 1 / 3 for own in keys[3:])
    return Regime(jnp.where(perfect, FORCING, forcing), jnp.where(everywhere, 1, share), std, jnp.zeros((), dtype))


def next_truth(regime: Regime, x: Any, key: jax.Array) -> Any:
    """Return the truth a step later."""
    following = Lorenz96(forcing=regime.forcing).step(x, 0)
    return following + regime.noise * jax.random.normal(key, x.shape, x.dtype)


def observed(regime: Regime, x: Any, key: jax.Array) -> tuple[Any, Any]:
    """Return observed values of a state, and which of them there are."""
    noise, places = jax.random.split(key)
    order = jnp.argsort(jnp.argsort(jax.random.uniform(places, x.shape)))
    seen = order.astype(x.dtype) < jnp.maximum(1, jnp.round(regime.share * x.shape[0]))
    return x + regime.std * jax.random.normal(noise, x.shape, x.dtype), seen


def attracted(regime: Regime, key: jax.Array, n: int, dtype: Any) -> Any:
    """Return a truth on its attractor."""
    x = FORCING + jax.random.normal(key, (n,), dtype)
    return lax.fori_loop(0, SPIN_UP, lambda k, x: next_truth(regime, x, jax.random.fold_in(key, k)), x)


def around(x: Any, key: jax.Array, members: int) -> Any:
    """Return members around an observation of a state, with the error that they claim."""
    keys = jax.random.split(key)
    center = x + jax.random.normal(keys[0], x.shape, x.dtype)
    return center[None] + jax.random.normal(keys[1], (members, *x.shape), x.dtype)


def twin(named: Named, key: jax.Array, members: int, n: int, half: int, dtype: Any) -> Twin:
    """Return truth and observations of two halves, the regime of the first one from the start on.

    Args:
        named: with both regimes.
        key: random key.
        members: of the ensemble at the start (static).
        n: number of variables (static).
        half: observation times of each half (static); `BURN_IN` more come before, which are not scored.
        dtype: of the numbers.
    """
    first, draws, rest = jax.random.split(key, 3)
    x = attracted(named.before, first, n, dtype)
    after = named.before if named.after is None else named.after

    def body(x: Any, k: Any) -> Any:
        regime = jax.tree.map(lambda a, b: jnp.where(k < BURN_IN + half, a, b), named.before, after)
        step, seen = jax.random.split(jax.random.fold_in(rest, k))
        x = next_truth(regime, x, step)
        return x, (x, *observed(regime, x, seen), jnp.broadcast_to(regime.std, x.shape))

    ensemble = around(x, draws, members)
    times = np.arange(1, BURN_IN + 2 * half + 1)
    _, (truth, values, mask, std) = lax.scan(body, x, jnp.arange(len(times)))
    return Twin(truth, Observations(values, times, error=Diagonal(std=std), mask=mask), ensemble)
