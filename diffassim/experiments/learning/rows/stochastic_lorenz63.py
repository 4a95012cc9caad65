"""Row L11: windows of a stochastic Lorenz-63 system, with the true and with a wrong model."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffassim.covariances import Blocks, Diagonal, Zero
from diffassim.experiments.learning.bench import Row, Score, Settings
from diffassim.experiments.learning.rows.stochastic_smoother import Seen, train_smoother
from diffassim.models import Model
from diffassim.observations import Field, Observations
from diffassim.variational import GaussNewton, StrongConstraint4DVar, WeakConstraint4DVar, minimize

__all__ = ["ROW"]

DT, STEPS, SPIN_UP = 0.01, 300, 10_000
EVERY, VARIANCE = 20, 0.5  # steps between observations, and variance of their errors
NOISE, FORCING_NOISE = 0.08, 0.2  # of Y and Z in units of themselves, and of W
EXPONENT = 1.6
WRONG, WRONG_BETA = 0.85, 1.15  # factors of the given model's parameters
RED_TIME, RED_STD = 5.0, 0.5**0.5  # of what is added to the forcing that the wrong model is given
TRAINING, VALIDATION, TEST = 1000, 100, 200
ANALYSED = 300  # of the training windows, for the smoother that begins at 4D-Var's states
SPREAD, ERRORS = 0.15, (1.5, 3.0, 6.0)  # relative, of the parameters; tried for the error of the forcing
OBSERVED = np.arange(0, STEPS, EVERY)


class StochasticLorenz63(Model):
    r"""Lorenz-63 with a given forcing of X and noise in proportion to Y and Z, in steps of Euler and Maruyama.

    .. math:: dX = (\sigma (Y - X) + c\, \mathrm{sign}(W) |W|^p + e)\, dt,\quad
        dY = (X (\rho - Z) - Y)\, dt + a Y dB_Y,\quad dZ = (X Y - \beta Z)\, dt + a Z dB_Z

    The state holds the increments of the noise in the next step, and a slow error e of the forcing: with model errors
    of unit variance in `noise`, weak-constraint 4D-Var seeks both as what they are, the noise in proportion to Y and Z.

    Args:
        sigma: Prandtl number.
        rho: relative Rayleigh number.
        beta: geometric factor.
        forcing: W in each step, shape (step,).
        coupling: c.
        exponent: p.
        memory: share of the error e that is left after a step.
        noise: a.
        dt: time step.
    """

    sigma: Any
    rho: Any
    beta: Any
    forcing: Any
    coupling: Any = 1.0
    exponent: Any = EXPONENT
    memory: Any = 1 - DT / RED_TIME
    noise: Any = NOISE
    dt: Any = DT

    def step(self, state: Any, t: Any) -> Any:
        """Advance by dt."""
        x, y, z = state["x"]
        w = self.forcing[t]
        push = self.coupling * jnp.sign(w) * jnp.abs(w) ** self.exponent + state["error"]
        tendency = jnp.stack([self.sigma * (y - x) + push, x * (self.rho - z) - y, x * y - self.beta * z])
        drawn = self.noise * self.dt**0.5 * state["noise"] * state["x"][1:]
        moved = state["x"] + self.dt * tendency + jnp.concatenate([jnp.zeros(1, drawn.dtype), drawn])
        return {"x": moved, "noise": jnp.zeros_like(state["noise"]), "error": self.memory * state["error"]}


class Windows(NamedTuple):
    """Independent windows, with a leading axis: truth, parameters, forcing, observed values, and the wrong forcing."""

    truth: Any
    parameters: Any
    forcing: Any
    values: Any
    wrong_forcing: Any


@partial(jax.jit, static_argnums=1)
def draw(key: jax.Array, count: int) -> Windows:
    """Draw windows, each with parameters of its own."""
    keys = jax.random.split(key, 4)
    parameters = jnp.array([[10.0, 28.0, 8 / 3]]) * jax.random.uniform(keys[0], (count, 3), minval=0.8, maxval=1.2)

    def step(state: Any, k: Any) -> tuple[Any, Any]:
        x, w = state
        s, r, b = parameters.T
        dB = DT**0.5 * jax.random.normal(jax.random.fold_in(keys[1], k), (3, count))
        push = jnp.sign(w) * jnp.abs(w) ** EXPONENT
        dX = DT * (s * (x[1] - x[0]) + push)
        dY = DT * (x[0] * (r - x[2]) - x[1]) + NOISE * x[1] * dB[0]
        dZ = DT * (x[0] * x[1] - b * x[2]) + NOISE * x[2] * dB[1]
        dW = DT * (-0.05 * w + 0.1 * x[0]) + FORCING_NOISE * dB[2]
        return (x + jnp.stack([dX, dY, dZ]), w + dW), (x, w)

    start = (jnp.broadcast_to(jnp.array([[1.0], [1.0], [20.0]]), (3, count)), jnp.zeros(count))
    state, _ = lax.scan(lambda c, k: (step(c, k)[0], None), start, jnp.arange(SPIN_UP))
    _, (x, w) = lax.scan(step, state, SPIN_UP + jnp.arange(STEPS))
    truth, w = jnp.moveaxis(x, -1, 0), w.T
    values = truth[:, OBSERVED] + VARIANCE**0.5 * jax.random.normal(keys[2], (count, len(OBSERVED), 3))
    noise = jax.random.normal(keys[3], (STEPS + 1, count))

    def red(e: Any, n: Any) -> tuple[Any, Any]:
        return e * (1 - DT / RED_TIME) + RED_STD * (2 * DT / RED_TIME) ** 0.5 * n, e

    _, eta = lax.scan(red, RED_STD * noise[0], noise[1:])
    return Windows(truth, parameters, w, values, w + eta.T + 0.1 * truth[:, :, 0])


class Assumption(NamedTuple):
    """What an analysis takes for true: the spreads of the unknowns.

    Attributes:
        weak: whether noise and the error of the forcing are sought.
        error: standard deviation of the error of the forcing; 0 for none.
        parameters: relative standard deviation of sigma, rho and beta; 0 where they are known.
    """

    weak: bool
    error: float = 0.0
    parameters: float = 0.0


def given_model(windows: Windows, wrong: bool) -> StochasticLorenz63:
    """Return the models that the assimilation is given, with a leading axis of windows."""
    factors = jnp.array([WRONG, WRONG, WRONG_BETA]) if wrong else jnp.ones(3)
    parameters = jnp.moveaxis(windows.parameters * factors[None], -1, 0)
    count = windows.values.shape[0]
    forcing = windows.wrong_forcing if wrong else windows.forcing
    coupling, exponent = (WRONG, 1.0) if wrong else (1.0, EXPONENT)
    fixed = {"memory": 1 - DT / RED_TIME, "noise": NOISE, "dt": DT, "coupling": coupling, "exponent": exponent}
    values = dict(zip(("sigma", "rho", "beta"), parameters, strict=True)) | {"forcing": forcing}
    return StochasticLorenz63(**values, **{k: jnp.full(count, v) for k, v in fixed.items()})


def make_cost(model: StochasticLorenz63, values: Any, assumption: Assumption) -> Any:
    """Return the cost of one window; its background is the first observation."""
    first = {"x": values[0], "noise": jnp.zeros(2), "error": jnp.zeros(())}
    R = Diagonal(std=VARIANCE**0.5)
    obs = Observations(values[1:], OBSERVED[1:], Field("x"), R)
    unit: Any = Diagonal(std=1.0) if assumption.weak else Zero()
    error: Any = Zero()
    error_of_step: Any = Zero()
    if assumption.error:
        error = Diagonal(std=assumption.error)
        error_of_step = Diagonal(std=assumption.error * (2 * DT / RED_TIME) ** 0.5)
    B = Blocks({"x": R, "noise": unit, "error": error})
    priors = None
    if assumption.parameters:
        names = ("sigma", "rho", "beta")
        priors = {name: Diagonal(std=assumption.parameters * getattr(model, name)) for name in names}
    if not assumption.weak:
        return StrongConstraint4DVar(model, first, B, obs, steps=STEPS - 1, parameters=priors)
    Q = Blocks({"x": Zero(), "noise": unit, "error": error_of_step})
    return WeakConstraint4DVar(model, first, B, Q, obs, steps=STEPS - 1, parameters=priors)


@partial(jax.jit, static_argnums=2)
def analyse(models: Any, values: Any, assumption: Assumption) -> tuple[Any, Any]:
    """Return the analysed trajectories, shape (window, step, 3), and result codes.

    The window grows by one observation time after the other, each search starting where the last one ended: from the
    background alone, half of the windows end in another minimum.
    """
    short = GaussNewton(tolerance=0.1, growth=None, max_iterations=10)

    def one(model: Any, seen: Any) -> tuple[Any, Any]:
        cost = make_cost(model, seen, assumption)

        def grown(v: Any, horizon: Any) -> tuple[Any, None]:
            return minimize(cost.replace(horizon=horizon), short, start=v).control, None

        v, _ = lax.scan(grown, cost.control(), jnp.asarray(OBSERVED[1:]))
        found = minimize(cost, GaussNewton(tolerance=1e-2, max_iterations=40), start=v)
        return cost.trajectory(found.control)["x"], found.search.result

    return jax.vmap(one)(models, values)


def error(analysis: Any, truth: Any) -> float:
    """Return the root of the time mean for each component and window, averaged over components and windows."""
    return float(jnp.mean(jnp.sqrt(jnp.mean((analysis - truth) ** 2, axis=1))))


def seen_of(windows: Windows, analysis: Any = None) -> Seen:
    """Return what a smoother is given in S1: the wrong forcing, which holds a tenth of X, and the wrong parameters."""
    relative = (windows.parameters / jnp.array([[10.0, 28.0, 8 / 3]]) - 1) / 0.12  # known up to the wrong factors
    return Seen(windows.values, windows.wrong_forcing, relative, analysis)


def learned_scores(settings: Settings, windows: Windows, best: Assumption, analysis: Any) -> list[Score]:
    """Train a smoother on the observations alone, and one that begins at 4D-Var's states, and score them in S1."""
    training = draw(jax.random.fold_in(settings.key, 2), TRAINING)
    few = jax.tree.map(lambda leaf: leaf[:ANALYSED], training)
    settings.tell(f"4D-Var of {ANALYSED} training windows")
    analysed = seen_of(few, analyse(given_model(few, True), few.values, best)[0])
    scores = []
    for name, seen, truth, test, aim in (
        ("S1, learned smoother", seen_of(training), training.truth, seen_of(windows), 1.0),
        ("S1, smoother learned from 4D-Var on", analysed, few.truth, seen_of(windows, analysis), 0.60),
    ):
        smoother, updates = train_smoother(
            seen, truth, OBSERVED, VARIANCE**0.5, settings, name=name, share=0.5, updates=4000
        )  # fmt: skip
        single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), test)
        found = jax.jit(jax.vmap(lambda one: smoother(one, OBSERVED)))(single)  # noqa: B023
        scores.append(Score(name, error(found, windows.truth), "learned", 1.28, aim, f"{updates} updates"))
    return scores


def run(settings: Settings) -> list[Score]:
    """Score 4D-Var with the true model (S0) and with the wrong one (S1), and learned smoothers in S1."""
    validation, test = jax.random.split(settings.key)
    settings.tell("draws windows")
    tuning, windows = draw(validation, VALIDATION), draw(test, TEST)

    def scored(given: Windows, wrong: bool, assumption: Assumption) -> float:
        settings.tell(f"{'wrong' if wrong else 'true'} model, {assumption}")
        return error(analyse(given_model(given, wrong), given.values, assumption)[0], given.truth)

    candidates = [Assumption(True, error, SPREAD) for error in ERRORS]
    best = min(candidates, key=lambda assumption: scored(tuning, True, assumption))
    settings.tell(f"wrong model, {best}")
    joint = analyse(given_model(windows, True), windows.values, best)[0]
    return [
        Score("S0, strong 4D-Var", scored(windows, False, Assumption(False)), "classical", 0.73),
        Score("S0, weak 4D-Var", scored(windows, False, Assumption(True)), "classical", 0.569, 0.42,
              "published: flow matching; weak 4D-Var .64"),
        Score("S1, strong 4D-Var", scored(windows, True, Assumption(False)), "classical", 2.14),
        Score("S1, weak 4D-Var", scored(windows, True, Assumption(True)), "classical", 1.64),
        Score("S1, weak 4D-Var with parameters and error of the forcing", error(joint, windows.truth), "classical",
              1.28, 0.48, "published: flow matching"),
        *learned_scores(settings, windows, best, joint),
    ]  # fmt: skip


ROW = Row(
    "L11", "windows of a stochastic Lorenz-63 system with the true (S0) and a wrong (S1) model",
    "root mean square error", "benchmark of the 4DVarNet group (2026)", run,
)  # fmt: skip
