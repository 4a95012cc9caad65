"""Row L6: the middle of short windows of Lorenz-96 by a network that has never seen a truth, and by 4D-Var."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.results import Result
from diffassim.covariances import Diagonal
from diffassim.cycling import cycle
from diffassim.ensemble import EnKFN
from diffassim.experiments.learning.bench import Row, Score, Settings, train
from diffassim.experiments.learning.lorenz96_runs import CENTER, SPREAD, N, model, runs
from diffassim.experiments.learning.short_windows import WindowNetwork, residual_net
from diffassim.learned import LearnedStart, control_of
from diffassim.observations import Observations
from diffassim.variational import GaussNewton, StrongConstraint4DVar, minimize

__all__ = ["ROW"]

DT = 0.01
HALF = 25  # steps on each side of the state that is scored
STEPS = 2 * HALF
SHARE = 0.25  # of the variables are observed at every step, others each time
CHAINS, LENGTH = 128, 3000  # training records, and steps of each
SPIN_UP = 1000
TEST, APART = 400, 60  # test windows, and steps from one to the next
PRECISION = jnp.float32
SEARCH = GaussNewton(max_iterations=60)
# Forcings to be found; where the search begins, and its spread.
FORCINGS, SUPPOSED, DOUBT = (4.0, 6.0, 8.0, 10.0, 12.0), 8.0, 4.0
RECORDS, RECORD_STEPS = 20, 200  # in which each is looked for
CYCLES, CYCLED, BURN_IN = 4, 5000, 1000  # records that are cycled, steps of each, and of those that do not count
MEMBERS = 40  # of the filter, which chooses its inflation itself


def truths(key: jax.Array, chains: int, steps: int, forcing: float = 8.0) -> Any:
    """Return trajectories on the attractor, shape (chain, step, variable)."""
    return runs(key, chains, SPIN_UP + np.arange(steps), DT, PRECISION, forcing)


def observe(states: Any, key: jax.Array) -> Any:
    """Return noisy values of a random quarter of the variables of every state, and NaN for the others."""
    keys = jax.random.split(key)
    values = states + jax.random.normal(keys[0], states.shape, states.dtype)
    return jnp.where(jax.random.uniform(keys[1], states.shape) < SHARE, values, jnp.nan)


class Smoother(WindowNetwork):
    """The state at the start of a window, from the streams of its cost: a learned start."""

    def __call__(self, streams: Any) -> Any:
        """Return the state."""
        return self.state(streams[0].values, streams[0].mask)


def cost_of(values: Any, parameters: Any = None) -> StrongConstraint4DVar:
    """Return the cost of a window: the climate as background, and the model with F = 8 or unknown parameters."""
    center, spread = (jnp.asarray(number, values.dtype) for number in (CENTER, SPREAD))
    steps = np.arange(values.shape[0])
    observations = Observations(values, steps, error=Diagonal(std=jnp.ones((), values.dtype)))
    return StrongConstraint4DVar(
        model(DT, PRECISION, SUPPOSED), jnp.broadcast_to(center, (N,)), Diagonal(std=spread), observations,
        steps=int(steps[-1]), parameters=parameters,
    )  # fmt: skip


def loss(smoother: Smoother, records: Any, key: jax.Array) -> Any:
    """Return the mean cost of the network's states for a random window of each record: what 4D-Var minimizes."""
    firsts = jax.random.randint(key, records.shape[:1], 0, records.shape[1] - STEPS)

    def one(record: Any, first: Any) -> Any:
        cost = cost_of(jax.lax.dynamic_slice_in_dim(record, first, STEPS + 1))
        return cost(control_of(cost, smoother(cost.observations)))

    return jnp.mean(jax.vmap(one)(records, firsts)) / (SHARE * N * (STEPS + 1))


@jax.jit
def middles(values: Any, method: Any) -> tuple[Any, Any]:
    """Return the analysed state in the middle of each window and the cost that is left; None: the network alone."""

    def one(y: Any) -> tuple[Any, Any]:
        cost = cost_of(y)
        if isinstance(method, Smoother):
            control = control_of(cost, method(cost.observations))
        else:
            control = minimize(cost, method).control
        return cost.trajectory(control)[HALF], cost(control)

    return jax.lax.map(one, values, batch_size=50)


@jax.jit
def forcings(values: Any) -> tuple[Any, Any]:
    """Return the forcing that 4D-Var finds together with the state for each record, and the codes of the searches."""
    unknown = {"forcing": Diagonal(std=jnp.asarray(DOUBT, PRECISION))}

    def one(y: Any) -> tuple[Any, Any]:
        solution = minimize(cost_of(y, unknown), SEARCH)
        return solution.model.forcing, solution.result

    return jax.lax.map(one, values, batch_size=RECORDS)


def forcing_score(key: jax.Array) -> Score:
    """Return the largest error of the mean estimate of a forcing, in per cent of it.

    Searches say themselves where they ended in another minimum; these do not count, and are counted.
    """
    errors, others = {}, 0
    for k, forcing in enumerate(FORCINGS):
        keys = jax.random.split(jax.random.fold_in(key, k))
        records = observe(truths(keys[0], RECORDS, RECORD_STEPS + 1, forcing), keys[1])
        found, codes = (np.asarray(part) for part in forcings(records))
        sound = codes == Result.CONVERGED
        others += int(np.sum(~sound))
        errors[forcing] = 100 * (float(np.mean(found[sound])) / forcing - 1) if sound.any() else np.nan
    note = ", ".join(f"F = {forcing:g}: {error:+.2f}" for forcing, error in errors.items())
    note += f"; {others} of {RECORDS * len(FORCINGS)} records left out, whose searches did not end at a sound minimum"
    worst = float(np.max(np.abs(list(errors.values()))))
    return Score("forcing by 4D-Var, largest error in per cent", worst, "classical", 1.9, 0.5, note)


def cycled_score(key: jax.Array) -> Score:
    """Return the error of an ensemble filter that goes from step to step, with states of the climate as members."""
    keys = jax.random.split(key, 3)
    states = truths(keys[0], CYCLES, CYCLED)
    members = runs(keys[1], CYCLES * MEMBERS, np.array([SPIN_UP]), DT, PRECISION, SUPPOSED)
    forward, one = model(DT, PRECISION, SUPPOSED), Diagonal(std=jnp.ones((), PRECISION))

    @jax.jit
    def run(values: Any, ensemble: Any) -> Any:
        record = Observations(values, np.arange(CYCLED), error=one)
        return cycle(EnKFN(), forward, ensemble, record)[1].analysis.mean

    observed = observe(states, keys[2])
    ensembles = members.reshape(CYCLES, MEMBERS, N)
    means = jnp.stack([run(values, ensemble) for values, ensemble in zip(observed, ensembles, strict=True)])
    errors = np.sqrt(np.mean(np.asarray(means - states) ** 2, axis=2))[:, BURN_IN:].mean(axis=1)
    note = f"{CYCLES} runs of {CYCLED - BURN_IN} analyses, largest {errors.max():.3f}"
    return Score(f"cycled EnKF-N, N = {MEMBERS}", float(errors.mean()), "classical", None, 0.19, note)


def run(settings: Settings) -> list[Score]:
    """Train the network on observations alone, and score it, 4D-Var from where it leads, and 4D-Var by itself."""
    keys = jax.random.split(settings.key, 6)
    records = observe(truths(keys[0], CHAINS, LENGTH), keys[1])
    width, depth = (128, 6) if settings.full else (64, 4)
    net = residual_net(STEPS + 1, width, depth, settings.seed)
    found = train(
        loss, Smoother(net), records, settings=settings, name="the smoother", updates=8000,
        rate=2e-3, batch_size=CHAINS, key=keys[2],
    )  # fmt: skip
    smoother = found.trained
    windows = truths(keys[3], TEST // 10, 10 * APART).reshape(TEST, APART, N)[:, : STEPS + 1]
    values = observe(windows, keys[4])
    rows = [
        ("network, trained without truth", smoother, "learned", 0.41, 0.30),
        ("4D-Var from where the network leads", LearnedStart(smoother, SEARCH), "learned", None, 0.26),
        ("4D-Var from the mean", SEARCH, "classical", 0.50, 0.26),
    ]
    scores = []
    for name, method, kind, published, aim in rows:
        settings.tell(name)
        states, costs = middles(values, method)
        errors = np.sqrt(np.mean((np.asarray(states) - np.asarray(windows[:, HALF])) ** 2, axis=1))
        note = f"median {np.median(errors):.3f}, {int(np.sum(errors > 1))} of {TEST} windows above 1, "
        note += f"mean cost {float(jnp.mean(costs)):.1f}"
        if method is smoother:
            note += f", {int(found.state.step)} updates"
        scores.append(Score(name, float(np.sqrt(np.mean(errors**2))), kind, published, aim, note))
    settings.tell("forcings")
    scores.append(forcing_score(keys[5]))
    settings.tell("cycles")
    return [*scores, cycled_score(jax.random.fold_in(settings.key, 6))]


ROW = Row(
    "L6", "middle of windows of Lorenz-96, a random quarter observed, without truth", "root mean square error",
    "Zinchenko and Greenberg (2024)", run,
)  # fmt: skip
