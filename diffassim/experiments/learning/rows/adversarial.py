"""Row adversarial: how much skill the worst errors within R cost, with and without training against them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.pytree import Pytree
from diffassim.covariances import Diagonal
from diffassim.experiments.learning.bench import Row, Score, Settings, train
from diffassim.experiments.learning.lorenz96_runs import CENTER, SPREAD, N, model
from diffassim.experiments.learning.short_windows import DT, PRECISION, TIMES, draw, observe, untrained
from diffassim.observations import Observations
from diffassim.training import Adversarial, WindowSample
from diffassim.variational import GaussNewton, StrongConstraint4DVar, minimize

__all__ = ["ROW"]

WINDOWS, TEST = 20_000, 500
RADIUS = 1.0  # worst errors are as large as observation errors are, all together
ASCENT, TEST_ASCENT = 3, 20  # steps towards them in training, and for the test
KEPT, HALVED = 1.02, 0.5  # what clean skill may lose; what is to be left of the loss
SIZE, SIZE_FULL = (32, 3), (96, 6)
BATCH = 64
AGAINST = "network, trained against worst errors"


def sample(values: Any, truth: Any) -> WindowSample:
    """Return a window to assimilate, and the state at its end."""
    unit = jnp.ones((), PRECISION)
    seen = Observations(values, np.arange(TIMES), error=Diagonal(std=unit))
    return WindowSample(jnp.full(N, CENTER, PRECISION), seen, truth)


def error(network: Any, one: WindowSample, key: Any) -> Any:
    """Return the mean square error of the network's state at the end of the window, in units of the climate."""
    return jnp.mean(((network.state(one.window.values, one.window.mask) - one.future) / SPREAD) ** 2)


class FourDVarAnalysis(Pytree):
    """The state at the end of a window by 4D-Var with the climate as background."""

    def state(self, values: Any, mask: Any) -> Any:
        """Return the state from values and mask, shape (time, variable)."""
        seen = Observations(values, np.arange(TIMES), error=Diagonal(std=jnp.ones((), PRECISION)), mask=mask)
        spread = Diagonal(std=jnp.asarray(SPREAD, PRECISION))
        background = jnp.full(N, CENTER, PRECISION)
        cost = StrongConstraint4DVar(model(DT, PRECISION), background, spread, seen, steps=TIMES - 1)
        return cost.state(minimize(cost, GaussNewton(max_iterations=10)).control, TIMES - 1)


def clean(network: Any, windows: Any, key: jax.Array) -> Any:
    """Return the mean square error over windows with new observations: a loss."""
    values = observe(windows, key)
    return jnp.mean(jax.vmap(lambda y, x: error(network, sample(y, x), None))(values, windows[:, -1]))


def against(network: Any, windows: Any, key: jax.Array) -> Any:
    """Return the same, half of it at the worst errors: a loss."""
    keys = jax.random.split(key)
    samples = jax.vmap(sample)(observe(windows, keys[0]), windows[:, -1])
    return Adversarial(error, radius=RADIUS, steps=ASCENT).batch(network, samples, keys[1])


def skills(network: Any, values: Any, truth: Any, key: jax.Array) -> tuple[float, float]:
    """Return the root mean square errors with the observations as they are, and with the worst errors added."""
    adversary = Adversarial(error, radius=RADIUS, steps=TEST_ASCENT, rate=0.25)

    def both(one: tuple[Any, Any, Any]) -> tuple[Any, Any]:
        here = sample(*one[:2])
        return error(network, here, None), error(network, adversary.worst(network, here, one[2]), None)

    keys = jax.random.split(key, values.shape[0])
    found = jax.jit(lambda cases: jax.lax.map(both, cases, batch_size=50))((values, truth, keys))
    calm, worst = (float(SPREAD * jnp.sqrt(jnp.mean(squares))) for squares in found)
    return calm, worst


def run(settings: Settings) -> list[Score]:
    """Train without and with an adversary, and score both and 4D-Var, each under its own worst errors."""
    keys = jax.random.split(settings.key, 6)
    windows, test = draw(keys[0], WINDOWS), draw(keys[1], TEST)
    values = observe(test, keys[2])
    size = SIZE_FULL if settings.full else SIZE
    fresh = untrained(*size, settings.seed)
    common: dict[str, Any] = {"settings": settings, "updates": 4_000, "rate": 2e-3, "batch_size": BATCH}
    usual = train(clean, fresh, windows, name="the network", share=0.25, key=keys[3], **common).trained
    robust = train(against, fresh, windows, name="against worst errors", share=0.75, key=keys[4], **common).trained
    methods = {"network": usual, AGAINST: robust, "4D-Var with the known model": FourDVarAnalysis()}
    found = {}
    for name, method in methods.items():
        settings.tell(name)
        found[name] = skills(method, values, test[:, -1], keys[5])
    calm, worst = found["network"]
    aims = {AGAINST: (KEPT * calm, calm + HALVED * (worst - calm))}
    scores: list[Score] = []
    for name, (calm, worst) in found.items():
        kind = "classical" if isinstance(methods[name], FourDVarAnalysis) else "learned"
        limits = aims.get(name, (None, None))
        note = f"loss of skill {worst - calm:.3f}"
        scores.append(Score(name, calm, kind, aim=limits[0]))
        scores.append(Score(f"{name}: worst errors", worst, kind, aim=limits[1], note=note))
    return scores


ROW = Row(
    "adversarial", "analyses of Lorenz-96 from short windows under the worst errors within R", "root mean square error",
    f"loss of skill halved, clean skill within {KEPT - 1:.0%}", run,
)  # fmt: skip
