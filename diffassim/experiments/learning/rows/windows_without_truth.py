"""Row L6: the middle of short windows of Lorenz-96 by networks that have never seen a truth, and by 4D-Var."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffassim.core.pytree import Pytree
from diffassim.core.results import Result
from diffassim.covariances import Diagonal
from diffassim.cycling import cycle
from diffassim.ensemble import EnKFN
from diffassim.experiments.learning.bench import Row, Score, Settings, train
from diffassim.experiments.learning.lorenz96_runs import CENTER, SPREAD, N, model, runs
from diffassim.experiments.learning.short_windows import WindowNetwork, residual_net
from diffassim.learned import LearnedMinimizer, LearnedStart, Network, control_of
from diffassim.learned.networks import PeriodicResidualNet
from diffassim.observations import Observations
from diffassim.variational import GaussNewton, StrongConstraint4DVar, minimize

__all__ = ["ROW"]

DT = 0.01
HALF = 25  # steps on each side of the state that is scored
STEPS = 2 * HALF
SHARE = 0.25  # of the variables are observed at every step, others each time
CHAINS, LENGTH = 128, 3000  # training records, and steps of each
BATCH = 32  # windows of an update
SPIN_UP = 1000
TEST, APART = 400, 60  # test windows, and steps from one to the next
PRECISION = jnp.float32
REFINEMENTS, MEMORY = 8, 8  # learned steps after the first state, and numbers that they remember at every variable
STEEP, PACE = 20.0, 2e-3  # size of the cost's gradient; rate of its descent before any training
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


class Refinement(Pytree):
    """A step of the state by what it and the cost's gradient are around every variable: of a learned minimizer.

    Args:
        network: of the line, to a step, the logarithm of a rate of descent, and what is remembered.
        rate: of the descent along the gradient that the network's rate multiplies.
    """

    network: Any
    rate: Any

    def __call__(self, v: Any, gradient: Any, memory: Any) -> tuple[Any, Any]:
        """Return the change of the control vector, and the memory."""
        x, slope = v["state"], gradient["state"]
        seen = jnp.stack([x, slope / STEEP, jnp.arcsinh(slope)], axis=1)
        out = self.network(jnp.concatenate([seen, memory], axis=1))
        return {"state": 0.1 * out[:, 0] - self.rate * jnp.exp(out[:, 1]) * slope}, memory + out[:, 2:]


class Refined(NamedTuple):
    """A smoother, and learned steps from its state on that see the gradient of the known model's cost."""

    smoother: Smoother
    refinement: Refinement

    @property
    def minimizer(self) -> LearnedMinimizer:
        """The learned steps, with the search that goes on from there."""
        return LearnedMinimizer(self.refinement, REFINEMENTS, jnp.zeros((N, MEMORY), PRECISION), SEARCH)

    def first(self, cost: StrongConstraint4DVar) -> Any:
        """Return the control vector of the smoother's state."""
        return control_of(cost, self.smoother(cost.observations))


def untrained(settings: Settings) -> Refined:
    """Return both networks before any training."""
    width, depth = (128, 6) if settings.full else (64, 4)
    net = PeriodicResidualNet(
        3 + MEMORY, 2 + MEMORY, 32, 2, radius=3, rngs=nnx.Rngs(settings.seed + 1), dtype=PRECISION
    )  # fmt: skip
    refinement = Refinement(Network.from_nnx(net), jnp.asarray(PACE, PRECISION))
    return Refined(Smoother(residual_net(STEPS + 1, width, depth, settings.seed)), refinement)


def loss(networks: Refined, records: Any, key: jax.Array) -> Any:
    """Return the mean cost, which 4D-Var minimizes, of all states that are found for a random window of each record."""
    firsts = jax.random.randint(key, records.shape[:1], 0, records.shape[1] - STEPS)

    def one(record: Any, first: Any) -> Any:
        cost = cost_of(jax.lax.dynamic_slice_in_dim(record, first, STEPS + 1))
        return jnp.mean(networks.minimizer.proposed_steps(cost, networks.first(cost))[1])

    return jnp.mean(jax.vmap(one)(records, firsts)) / (SHARE * N * (STEPS + 1))


@jax.jit
def middles(values: Any, method: Any) -> tuple[Any, Any, Any]:
    """Return the analysed state in the middle of each window, the cost that is left, and how many gradients it took.

    A `Smoother` or `Refined` is taken by itself, a minimizer searches.
    """

    def one(y: Any) -> tuple[Any, Any, Any]:
        cost, work = cost_of(y), jnp.zeros((), values.dtype)
        if isinstance(method, Smoother):
            control = control_of(cost, method(cost.observations))
        elif isinstance(method, Refined):
            control, costs = method.minimizer.learned_steps(cost, method.first(cost))
            work = work + costs.size
        else:
            found = minimize(cost, method)
            control, work = found.control, found.search.work
        return cost.trajectory(control)[HALF], cost(control), work

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


def run(settings: Settings) -> Iterator[Score]:
    """Train the networks on observations alone, and score them, 4D-Var from where they lead, and 4D-Var by itself."""
    keys = jax.random.split(settings.key, 6)
    records = observe(truths(keys[0], CHAINS, LENGTH), keys[1])
    found = train(
        loss, untrained(settings), records, settings=settings, name="the networks", updates=8000,
        rate=2e-3, batch_size=BATCH, key=keys[2],
    )  # fmt: skip
    networks = found.trained
    windows = truths(keys[3], TEST // 10, 10 * APART).reshape(TEST, APART, N)[:, : STEPS + 1]
    values = observe(windows, keys[4])
    rows = [
        ("network, trained without truth", networks.smoother, "learned", 0.41, 0.30),
        (f"the same and {REFINEMENTS} learned steps by the gradient", networks, "learned", 0.41, 0.30),
        ("4D-Var from there", LearnedStart(networks.smoother, networks.minimizer), "learned", None, 0.26),
        ("4D-Var from the mean", SEARCH, "classical", 0.50, 0.26),
    ]
    for name, method, kind, published, aim in rows:
        settings.tell(name)
        states, costs, work = middles(values, method)
        errors = np.sqrt(np.mean((np.asarray(states) - np.asarray(windows[:, HALF])) ** 2, axis=1))
        note = f"median {np.median(errors):.3f}, {int(np.sum(errors > 1))} of {TEST} windows above 1, "
        note += f"mean cost {float(jnp.mean(costs)):.1f}, {float(jnp.mean(work)):.0f} gradients through the known model"
        if isinstance(method, Smoother | Refined):
            note += f", {int(found.state.step)} updates"
        yield Score(name, float(np.sqrt(np.mean(errors**2))), kind, published, aim, note)
    settings.tell("forcings")
    yield forcing_score(keys[5])
    settings.tell("cycles")
    yield cycled_score(jax.random.fold_in(settings.key, 6))


ROW = Row(
    "L6", "middle of windows of Lorenz-96, a random quarter observed, without truth", "root mean square error",
    "Zinchenko and Greenberg (2024)", run,
)  # fmt: skip
