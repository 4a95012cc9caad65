"""Every cost of the package on a small problem: add a line, and all sweeps over costs test it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import diffassim as da
from diffassim.core.pytree import Pytree
from diffassim.covariances import (
    Blocks,
    Dense,
    Diagonal,
    Diffusion,
    Ensemble,
    ExplicitDiffusion,
    Gaussian,
    Kronecker,
    LocalRoot,
    LowRank,
    Matern,
    MeasuredSpectrum,
    Zero,
    ZonallyHomogeneous,
)
from diffassim.grids import Grid
from diffassim.models import FunctionModel, Lorenz63, Lorenz96
from diffassim.observations import Biased, Field, Function, Huber, Identity, Linear, Subsample, Subset, VariationalQC


class Entry(NamedTuple):
    """A cost, and the public name of `diffassim.variational` that made it."""

    name: str
    made_by: str
    cost: Any


RNG = np.random.default_rng(0)
N = 8
CIRCLE = Grid(1.0, True)
X_B = 2.3 + 3.6 * RNG.normal(size=N)
STEPS = np.array([0, 2, 3])
VALUES = X_B + RNG.normal(size=(3, N))
GAPPY = np.where(RNG.uniform(size=(3, N)) < 0.4, np.nan, VALUES)
LORENZ96 = Lorenz96(dt=0.03)


def spd(n, seed=0):
    F = np.random.default_rng(seed).normal(size=(n, n))
    return F @ F.T / n + np.eye(n)


EVERYTHING, WHITE = Identity(), Diagonal(std=0.8)


def observed(values=VALUES, steps=STEPS, operator=EVERYTHING, error=WHITE):
    return da.Observations(values, steps, operator=operator, error=error)


def _swirl(x, t, rate):
    # Curved, and quick to compile: the models have sweeps of their own.
    return x + 0.1 * jnp.sin(x) * jnp.roll(x, 1) - rate * x


SWIRL = FunctionModel(_swirl, arguments=0.1)


def four_d_var(B, observations, model=SWIRL, background=X_B, **options):
    return da.StrongConstraint4DVar(model, background, B, observations, **options)


def weak(Q, observations, model=SWIRL, background=X_B, B=Diagonal(std=0.9), kind=da.WeakConstraint4DVar, **options):  # noqa: B008
    return kind(model, background, B, Q, observations, **options)


def _swing(x, t, length):
    return {"angle": x["angle"] + 0.1 * x["speed"], "speed": x["speed"] - 0.1 * jnp.sin(x["angle"]) / length}


class Coupled(Pytree):
    """A state of slow and fast variables."""

    slow: Any
    fast: Any


def _coupled(x, t):
    slow = x.slow + 0.1 * (jnp.mean(x.fast, axis=1) - jnp.sin(x.slow))
    return Coupled(slow, x.fast + 0.2 * jnp.tanh(x.slow)[:, None] * jnp.cos(x.fast))


def _pytree_state():
    x_b = Coupled(jnp.asarray(X_B[:4]), jnp.asarray(0.3 * RNG.normal(size=(4, 3))))
    streams = (
        observed(VALUES[:2, :4], STEPS[:2], Field("slow")),
        observed(0.3 * RNG.normal(size=(1, 4, 3)), [3], Field("fast"), Diagonal(std=0.1)),
    )
    B = Blocks(Coupled(Dense.from_matrix(spd(4)), Diagonal(std=0.2)))
    return four_d_var(B, streams, FunctionModel(_coupled), x_b)


def _offset(x):
    return 1.0


COSTS = [
    Entry("3D-Var", "ThreeDVar", da.ThreeDVar(X_B, Dense.from_matrix(spd(N)), observed(VALUES[:1], [0]))),
    Entry("3D-Var nonlinear H", "ThreeDVar", da.ThreeDVar(
        X_B, Gaussian(1.3, 0.9, CIRCLE), observed(np.tanh(VALUES[:2]), [0, 0], Function(jnp.tanh))
    )),
    Entry("3D-Var on a plane", "ThreeDVar", da.ThreeDVar(
        X_B.reshape(2, 4),
        Kronecker(Dense.from_matrix(spd(2)), Matern(1.0, 1.5, CIRCLE))
        + 0.5 * ZonallyHomogeneous.from_samples(np.random.default_rng(5).normal(size=(30, 2, 4))),
        observed(VALUES[:1].reshape(1, 2, 4), [0]),
    )),
    Entry("4D-Var", "StrongConstraint4DVar", four_d_var(
        Diffusion(1.1, 1.5, CIRCLE, order=2), observed(), LORENZ96
    )),
    Entry("4D-Var missing values", "StrongConstraint4DVar", four_d_var(Diagonal(std=0.9), observed(GAPPY))),
    Entry("4D-Var correlated R", "StrongConstraint4DVar", four_d_var(
        MeasuredSpectrum.from_samples(np.random.default_rng(4).normal(size=(20, N)), CIRCLE),
        observed(GAPPY, error=0.5 * Dense.from_matrix(spd(N, 1))),
    )),
    Entry("4D-Var several streams", "StrongConstraint4DVar", four_d_var(Diagonal(std=np.linspace(0.5, 1.5, N)), (
        observed(VALUES[:, ::2], STEPS, Subsample(every=2)),
        observed(VALUES[:2, :3] ** 2, [1, 4], lambda x: x[:3] ** 2, Diagonal(std=5.0)),
        da.Observations(VALUES[:2, :2], [3, 3], Subset(), Diagonal(std=1.0), where=jnp.array([[0, 5], [1, 7]])),
    ))),
    Entry("4D-Var parameters and state", "StrongConstraint4DVar", four_d_var(
        Diagonal(std=0.9), observed(), parameters={"arguments": Diagonal(std=0.1)}
    )),
    Entry("4D-Var bounded parameters alone", "StrongConstraint4DVar", four_d_var(
        None, da.Observations(RNG.normal(size=(2, 3)), [2, 4], error=Diagonal(std=2.0)), Lorenz63(dt=0.02),
        np.array([1.5, -1.5, 25.0]), parameters={"rho": Diagonal(std=2.0), "sigma": Diagonal(std=1.0)},
    )),
    Entry("4D-Var weights as parameters", "StrongConstraint4DVar", four_d_var(
        Zero(), observed(),
        FunctionModel(lambda x, t, w: x + 0.1 * jnp.tanh(w["last"][0] @ x), arguments={"last": [spd(N, 2) / 5]}),
        parameters={"arguments.last.0": da.variational.Bounded(Diagonal(std=0.3), lower=-2.0, upper=1.5)},
    )),
    Entry("4D-Var hybrid", "StrongConstraint4DVar", four_d_var(
        0.6 * Gaussian(1.2, 1.0, CIRCLE) + 0.4 * Ensemble(X_B + RNG.normal(size=(4, N)), Matern(1.0, 2.0, CIRCLE)),
        observed(VALUES[:, ::2] , STEPS, Linear(jnp.asarray(RNG.normal(size=(4, N))))),
    )),
    Entry("4D-Var pytree state", "StrongConstraint4DVar", _pytree_state()),
    Entry("4D-Var dict state, one part known", "StrongConstraint4DVar", four_d_var(
        Blocks({"angle": Diagonal(std=0.2), "speed": Zero()}), observed(VALUES[:, 0], STEPS, Field("angle")),
        FunctionModel(_swing, arguments=1.5), {"angle": 0.7, "speed": 1.0},
    )),
    Entry("4D-Var shorter horizon", "StrongConstraint4DVar", four_d_var(
        ExplicitDiffusion(0.9, 0.8, CIRCLE) + 0.3 * LocalRoot(np.random.default_rng(8).normal(size=(N, 3))), observed(),
        horizon=jnp.asarray(2), segment=1
    )),
    Entry("4D-Var Huber", "StrongConstraint4DVar", four_d_var(
        LowRank(spd(N, 3)[:2], Diagonal(std=0.9)), observed(GAPPY).replace(loss=Huber(1.1))
    )),
    Entry("4D-Var variational quality control", "StrongConstraint4DVar", four_d_var(
        Diagonal(std=0.9), observed(GAPPY).replace(loss=VariationalQC(0.05, 4.0))
    )),
    Entry("3D-Var FGAT between steps, biased", "ThreeDVarFGAT", da.ThreeDVarFGAT(
        SWIRL, X_B, Diffusion(1.1, 1.5, CIRCLE, order=2), (
            observed(GAPPY, operator=jnp.tanh).replace(fraction=[0.3, 0.1, 0.6]),  # at 0 there is no derivative
            observed(VALUES[:2], [1, 1], Biased(jnp.sin, (_offset, jnp.cos)), Diagonal(std=0.3)).replace(
                fraction=RNG.uniform(0.1, 0.9, size=(2, N)),
                parameters={"coefficients": Diagonal(std=np.array([0.5, 0.3]))},
            ),
        ), parameters={"arguments": Diagonal(std=0.1)}, horizon=jnp.asarray(3),
    )),
    Entry("4DEnVar", "FourDEnVar", da.FourDEnVar.from_model(
        SWIRL, X_B, X_B + RNG.normal(size=(4, N)), observed(GAPPY, operator=jnp.tanh)
    )),
    Entry("4DEnVar localized", "FourDEnVar", da.FourDEnVar.from_model(
        SWIRL, X_B, X_B + RNG.normal(size=(3, N)), observed(GAPPY), Matern(1.0, 1.5, CIRCLE)
    )),
    Entry("weak 4D-Var", "WeakConstraint4DVar", weak(Matern(0.3, 1.5, CIRCLE), observed(GAPPY))),
    Entry("weak 4D-Var, blocks and an incomplete one", "WeakConstraint4DVar", weak(
        Dense.from_matrix(0.1 * spd(N, 3)), observed(VALUES, [0, 2, 5]), every=2, segment=2, horizon=jnp.asarray(4)
    )),
    Entry("weak 4D-Var, one part exact, parameters", "WeakConstraint4DVar", weak(
        Blocks({"angle": Zero(), "speed": Diagonal(std=0.1)}), observed(VALUES[:, 0], STEPS, Field("angle")),
        FunctionModel(_swing, arguments=1.5), {"angle": 0.7, "speed": 1.0}, None,
        parameters={"arguments": Diagonal(std=0.1)},
    )),
    Entry("weak 4D-Var in states", "StateWeakConstraint4DVar", weak(
        Matern(0.3, 1.5, CIRCLE), observed(GAPPY), kind=da.StateWeakConstraint4DVar
    )),
    Entry("weak 4D-Var in states, an incomplete one, parameters", "StateWeakConstraint4DVar", weak(
        Diagonal(std=0.4), observed(VALUES, [0, 2, 5]), every=2, horizon=jnp.asarray(4),
        parameters={"arguments": Diagonal(std=0.1)}, kind=da.StateWeakConstraint4DVar,
        guess=VALUES[:2] + 0.1,
    )),
]  # fmt: skip


def example_control(cost, seed=0):
    """Return a control vector away from the background."""
    draws = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * draws.normal(size=leaf.shape), leaf.dtype), cost.control())
