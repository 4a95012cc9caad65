"""Twin experiments of the literature: model, start, observations, lengths."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from diffassim.covariances import Diagonal
from diffassim.experiments.framework.twin import LAWS, Perturbed, observe
from diffassim.models import (
    KuramotoSivashinsky,
    Lorenz63,
    Lorenz96,
    TwoScaleLorenz96,
    TwoScaleState,
    rollout,
)
from diffassim.observations import Field, Identity, Observations, Subsample

__all__ = ["LAWS", "SETUPS", "Setup"]


@dataclasses.dataclass(frozen=True)
class Setup:
    """A twin experiment: truth and members start from one normal distribution.

    Nothing is observed at the start; every cycle is a forecast over `interval` steps and an analysis. Scores are means
    over the cycles after the burn-in.

    Args:
        name: case/variant, unique.
        source: what it follows, and where its scores are documented.
        model: forward model.
        center: returns the mean of the start.
        variance: of every component of the start.
        noise: variance of the observation errors.
        interval: model steps from one observation time to the next.
        cycles: observation times of one run here. Most scores are documented for 1,000; where a run is cheap more are
            taken, because short runs scatter.
        burn_in: observation times at the start that do not count.
        operator: what is observed of a state.
        law: of the observation errors, one of `LAWS`.
        model_error: variance of a normal error of the truth's every component in every step; of a method's forecast it
            is part only where the method has a Q.

    Example:
        >>> setup = SETUPS["lorenz96/sakov2008"]
        >>> setup.draw(jax.random.key(0), 3).shape, setup.interval, setup.burn_in
        ((3, 40), 1, 400)
    """

    name: str
    source: str
    model: Any
    center: Callable[[], Any]
    variance: float
    noise: float
    interval: int
    cycles: int
    burn_in: int
    operator: Any = dataclasses.field(default_factory=Identity)
    law: str = "normal"
    model_error: float = 0.0

    def draw(self, key: jax.Array, count: int) -> Any:
        """Return states at the start, a pytree with a leading axis of `count`."""
        center, as_state = ravel_pytree(jax.tree.map(jnp.asarray, self.center()))
        draws = center[None] + self.variance**0.5 * jax.random.normal(key, (count, center.size), center.dtype)
        return jax.vmap(as_state)(draws)

    def steps(self, cycles: int) -> np.ndarray:
        """Return the model steps of the observation times."""
        return self.interval * np.arange(1, cycles + 1)

    def truth(self, key: jax.Array, first: Any, cycles: int) -> Any:
        """Return the true states at the start and at the observation times, a pytree with a leading axis."""
        at = np.insert(self.steps(cycles), 0, 0)
        model = Perturbed(self.model, Diagonal(std=self.model_error**0.5), key) if self.model_error else self.model
        return rollout(model, first, int(at[-1]), at=at)

    def observe(self, key: jax.Array, truth: Any, cycles: int) -> Observations:
        """Return observations of the truth, whose rows are the states at `steps`."""
        return observe(
            key, truth, self.steps(cycles), self.noise**0.5, operator=self.operator, law=self.law
        )  # fmt: skip


def _unit(n: int) -> Callable[[], Any]:
    return lambda: jnp.eye(n)[0]


def _kuramoto_sivashinsky_start() -> Any:
    """Return the initial condition of Kassam and Trefethen (2005) after 150 units of time."""
    x = 32 * jnp.pi * jnp.arange(1.0, 129.0) / 128
    return rollout(_KS, jnp.cos(x / 16) * (1 + jnp.sin(x / 16)), 300, at=[300])[0]


def _two_scale_start() -> TwoScaleState:
    return TwoScaleState(jnp.eye(8)[0], jnp.zeros((8, 32)))


_KS = KuramotoSivashinsky(dt=0.5)
_L63 = Setup(
    "lorenz63/sakov2012", "Sakov, Oliver and Bertino (2012), table 1; DAPPER mods/Lorenz63/sakov2012.py",
    Lorenz63(dt=0.01), lambda: jnp.asarray([1.509, -1.531, 25.46]), 2.0, 2.0, 25, 2000, 64,
)  # fmt: skip
_L96 = Setup(
    "lorenz96/sakov2008", "Sakov and Oke (2008); DAPPER mods/Lorenz96/sakov2008.py",
    Lorenz96(dt=0.05), _unit(40), 0.001, 1.0, 1, 2400, 400,
)  # fmt: skip
_HALF = Setup(
    "lorenz96/bocquet2010", "Bocquet (2010), figure 5; DAPPER mods/Lorenz96/bocquet2010_m40.py, release 1.7.1",
    Lorenz96(dt=0.05), lambda: jnp.zeros(40), 0.001, 1.5, 1, 1280, 400, Subsample(every=2),
)  # fmt: skip
_BOCQUET = "Bocquet (2016), figures 5 and 6; DAPPER mods/Lorenz96/bocquet2015loc.py"

# The error variance of the half-observed case is 1.5 in a release of DAPPER and 1.5^2 after it; scores are documented
# for both.
_ALL = [
    _L63,
    _L96,
    *(
        dataclasses.replace(
            _L96, name=f"lorenz96/sakov2008, every {k} steps", interval=k, cycles=400 // k + 800, burn_in=400 // k
        )
        for k in (4, 12)
    ),
    dataclasses.replace(
        _L96, name="lorenz96/bocquet2015, every 8 steps", source=_BOCQUET, interval=8, cycles=850, burn_in=50
    ),
    _HALF,
    dataclasses.replace(
        _HALF, name="lorenz96/bocquet2010, more noise", source=_HALF.source.replace("release 1.7.1", "now"), noise=2.25
    ),
    Setup(
        "lorenz-two-scale/wilks2005", "Wilks (2005); DAPPER mods/LorenzUV/wilks05.py",
        TwoScaleLorenz96(forcing=20.0, dt=0.005), _two_scale_start, 0.01, 0.1, 10, 1280, 120, Field("slow"),
    ),
    Setup(
        "kuramoto-sivashinsky/bocquet2019", "Bocquet and Farchi (2019), figure 4; DAPPER mods/KS/bocquet2019.py",
        _KS, _kuramoto_sivashinsky_start, 0.001, 1.0, 2, 1500, 300,
    ),
]  # fmt: skip

# Lengths of the last differ from the documented 20,000 observation times, of which 2,000 do not count: ten repetitions
# of that length were made there to draw a figure.
SETUPS = {setup.name: setup for setup in _ALL}
