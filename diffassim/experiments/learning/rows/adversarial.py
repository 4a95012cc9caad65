"""Row adversarial: how much skill the worst errors within R cost, with and without training against them.

Three things are measured: what training buys at several weights of the worst case, what no analysis can be better than
where dynamics are linear (`worst_case_bound`), and whether the worst errors are the worst: more steps from several
starts, and errors that were made against another network.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.pytree import Pytree
from diffassim.covariances import Diagonal
from diffassim.experiments.learning.bench import Row, Score, Settings, train
from diffassim.experiments.learning.lorenz96_runs import CENTER, SPREAD, N, model
from diffassim.experiments.learning.short_windows import DT, PRECISION, TIMES, draw, observe, rmse, untrained
from diffassim.experiments.learning.worst_case_bound import SEEN, games_of, least_worst, linear_windows
from diffassim.observations import Observations
from diffassim.training import Adversarial, WindowSample
from diffassim.variational import GaussNewton, StrongConstraint4DVar, minimize

__all__ = ["ROW"]

WINDOWS, TEST, CHOICE = 20_000, 500, 200  # to learn from, to be tested on, to choose the weight by
RADIUS = 1.0  # worst errors are as large as observation errors are, all together
ASCENT, STEEP = 2, 4.0  # steps towards them in training, so long that each goes to the edge of the ball
TEST_ASCENT, TEST_STEEP = 20, 1.0  # and for the test
LONG, LONG_STEEP, STARTS, PART = 100, 0.1, 4, 100  # is there worse: steps, their length, starts, and windows
SHARES = (0.05, 0.1, 0.25)  # of the worst case in the loss; the clean loss is a tenth of it
KEPT, HALVED = 1.02, 0.5  # what clean skill may lose; what is to be left of the loss
SIZE, SIZE_FULL = (32, 3), (96, 6)
BATCH, UPDATES, FURTHER = 64, 5_000, 800  # updates without an adversary, and with each share of it
LINEAR = 100  # windows of the bound
USUAL, CHOSEN, CLASSICAL = "network", "network, share chosen on other windows", "4D-Var with the known model"


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

    def __call__(self, values: Any) -> Any:
        """Return the state from values, NaN where nothing is observed."""
        return self.state(values, ~jnp.isnan(values))

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


def against(network: Any, windows: Any, key: jax.Array, share: Any) -> tuple[Any, dict[str, Any], Any]:
    """Return the same, a share of it at the worst errors, and hand the share on: a loss with a carry."""
    keys = jax.random.split(key)
    samples = jax.vmap(sample)(observe(windows, keys[0]), windows[:, -1])
    adversary = Adversarial(error, radius=RADIUS, steps=ASCENT, rate=STEEP, share=share)
    return adversary.batch(network, samples, keys[1]), {}, share


@functools.partial(jax.jit, static_argnames=("steps", "rate", "starts"))
def attacked(
    network: Any, values: Any, windows: Any, key: jax.Array, *, steps: int = TEST_ASCENT, rate: float = TEST_STEEP,
    starts: int = 1,
) -> Any:  # fmt: skip
    """Return observations with the worst errors that were found, the best of several starts of the ascent."""
    adversary = Adversarial(error, radius=RADIUS, steps=steps, rate=rate)

    def worst(case: tuple[Any, Any, Any]) -> Any:
        here = sample(*case[:2])
        found = jax.vmap(lambda k: adversary.worst(network, here, k).window.values)(jax.random.split(case[2], starts))
        found = jnp.where(jnp.isnan(case[0]), jnp.nan, found)  # `Observations` keep gaps in their mask
        harm = jax.vmap(lambda moved: error(network, sample(moved, case[1]), None))(found)
        return found[jnp.argmax(harm)]

    cases = (values, windows[:, -1], jax.random.split(key, values.shape[0]))
    return jax.lax.map(worst, cases, batch_size=50)


def skills(network: Any, values: Any, windows: Any, key: jax.Array) -> tuple[float, float]:
    """Return the root mean square errors with the observations as they are, and with the worst errors added."""
    return rmse(network, values, windows), rmse(network, attacked(network, values, windows, key), windows)


def trained(settings: Settings, keys: jax.Array) -> tuple[Any, dict[float, Any]]:
    """Return a network, and those by the share of the worst case in their loss, each of which goes on from the last."""
    windows = draw(keys[0], WINDOWS)
    fresh = untrained(*(SIZE_FULL if settings.full else SIZE), settings.seed)
    common: dict[str, Any] = {"settings": settings, "batch_size": BATCH}
    usual = start = train(
        clean, fresh, windows, name="the network", updates=UPDATES, rate=2e-3, share=0.4, key=keys[3], **common
    ).trained  # fmt: skip
    found: dict[float, Any] = {}
    for share in SHARES:
        start = found[share] = train(
            against, start, windows, name=f"against worst errors, {share:.0%}", updates=FURTHER, rate=1e-3,
            share=0.6 / len(SHARES), key=keys[4], carry=jnp.asarray(share, PRECISION), **common,
        ).trained  # fmt: skip
    return usual, found


def chosen(usual: Any, found: dict[float, Any], key: jax.Array) -> float:
    """Return the share that loses least to the worst errors among those that keep clean skill, by other windows."""
    keys = jax.random.split(key, 3)
    windows = draw(keys[0], CHOICE)
    values = observe(windows, keys[1])
    limit = KEPT * rmse(usual, values, windows)
    kept = [share for share, network in found.items() if rmse(network, values, windows) <= limit]
    worst = {share: skills(found[share], values, windows, keys[2])[1] for share in kept}
    return min(worst, key=worst.__getitem__) if worst else min(found)


def run(settings: Settings) -> list[Score]:
    """Train without and with an adversary, score these and 4D-Var under their own worst errors, and bound all."""
    keys, more = jax.random.split(settings.key, 6), jax.random.split(settings.key, 2)
    usual, found = trained(settings, keys)
    settings.tell("chooses the share")
    best = chosen(usual, found, more[0])
    test = draw(keys[1], TEST)
    values = observe(test, keys[2])
    methods = {USUAL: usual, **{f"network, {share:.0%} at worst errors": one for share, one in found.items()}}
    methods[CLASSICAL] = FourDVarAnalysis()
    errors = {}
    for name, method in methods.items():
        settings.tell(name)
        errors[name] = skills(method, values, test, keys[5])
    calm, worst = errors[USUAL]
    limits = (KEPT * calm, calm + HALVED * (worst - calm))
    scores = []
    for name, (clean_error, worst_error) in errors.items():
        kind = "classical" if name == CLASSICAL else "learned"
        note = f"loss of skill {worst_error - clean_error:.3f}"
        scores += [Score(name, clean_error, kind), Score(f"{name}: worst errors", worst_error, kind, note=note)]
    settings.tell("looks for worse errors")
    clean_error, worst_error = errors[f"network, {best:.0%} at worst errors"]
    note = f"{best:.0%}; {worse(usual, found[best], values[:PART], test[:PART], keys[5])}"
    scores += [
        Score(CHOSEN, clean_error, aim=limits[0]),
        Score(f"{CHOSEN}: worst errors", worst_error, aim=limits[1], note=note),
    ]
    settings.tell("what cannot be done better")
    return scores + bounds(more[1], limits[0])


def worse(usual: Any, network: Any, values: Any, windows: Any, key: jax.Array) -> str:
    """Return in words whether there are worse errors than those of the test."""
    more = attacked(network, values, windows, key, steps=LONG, rate=LONG_STEEP, starts=STARTS)
    found = {
        "errors as in the test": attacked(network, values, windows, key),
        f"{LONG} steps from {STARTS} starts": more,
        "errors made against the network without adversary": attacked(usual, values, windows, key),
    }
    texts = [f"{name} {rmse(network, moved, windows):.3f}" for name, moved in found.items()]
    return f"on {len(values)} windows: {', '.join(texts)}"


def bounds(key: jax.Array, clean_error: float) -> list[Score]:
    """Return below which error under worst errors no analysis with such a clean error is, in linear windows."""
    scores = []
    for name, flow in (("climate", False), ("climate and the flow before", True)):
        games = games_of(*linear_windows(key, LINEAR, flow), RADIUS * SEEN**0.5)
        least = float(jnp.mean(games.trace)) ** 0.5
        limit = max(clean_error, least)
        note = f"clean {limit:.3f}; the best clean error is {least:.3f}, and loses {KEPT - 1:.0%} for "
        note += f"{least_worst(games, KEPT * least):.3f} instead of {least_worst(games, least):.3f}"
        scores.append(
            Score(
                f"any analysis, linear, knows {name}: worst errors", least_worst(games, limit), "classical", note=note
            )
        )
    return scores


ROW = Row(
    "adversarial", "analyses of Lorenz-96 from short windows under the worst errors within R", "root mean square error",
    f"loss of skill halved, clean skill within {KEPT - 1:.0%}", run,
)  # fmt: skip
