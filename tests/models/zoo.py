"""Every model of the package with an example state: add a line, and all sweeps over models test it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import diffassim as da
from diffassim.core.fourier import Split
from diffassim.grids.grid import Grid
from diffassim.models import (
    GR4J,
    AcousticState,
    AcousticWaves,
    AdamsBashforth3,
    AdamsBashforthState,
    AdvectionDiffusion,
    CatchmentForcing,
    CatchmentState,
    ExternalModel,
    FunctionModel,
    InParts,
    KuramotoSivashinsky,
    LibraryModel,
    LinearAdvection,
    Lorenz63,
    Lorenz96,
    Model,
    NavierStokes,
    PointSources,
    ReducedGravityQG,
    Ricker,
    TwoLayerQG,
    TwoScaleLorenz96,
    TwoScaleState,
    Variable,
    WithParameters,
)
from tests.models import numpy_lorenz96


class Entry(NamedTuple):
    """A model, a function (dtype, key) -> state near its attractor, and whether it has second derivatives."""

    name: str
    model: Model
    example_state: Callable[[Any, jax.Array], Any]
    twice: bool = True


def _lorenz63(dtype: Any, key: jax.Array) -> jax.Array:
    return jnp.asarray([1.5, -1.5, 25.5], dtype) + jax.random.normal(key, 3, dtype)


def _line(n: int, mean: float, std: float) -> Callable[[Any, jax.Array], jax.Array]:
    return lambda dtype, key: mean + std * jax.random.normal(key, n, dtype)


def _two_scale(dtype: Any, key: jax.Array) -> TwoScaleState:
    slow, fast = jax.random.split(key)
    return TwoScaleState(
        2.5 + 4.0 * jax.random.normal(slow, 8, dtype), 0.1 + 0.3 * jax.random.normal(fast, (8, 5), dtype)
    )


def _with_forcing(dtype: Any, key: jax.Array) -> dict[str, Any]:
    state = 2.3 + 3.6 * jax.random.normal(key, 9, dtype)
    return {"state": state, "parameters": {"forcing": jnp.asarray(7.5, dtype)}}


def _catchment(dtype: Any, key: jax.Array) -> CatchmentState:
    """Well inside of all thresholds, so that derivatives exist in every direction."""
    draws = iter(jax.random.uniform(key, 5, dtype, 0.8, 1.2))
    water = jnp.linspace(1.0, 3.0, 4, dtype=dtype)
    return CatchmentState(
        150 * next(draws), 40 * next(draws), 60 * next(draws), next(draws) * water,
        next(draws) * jnp.concatenate([water, water]), jnp.asarray(2.0, dtype),
    )  # fmt: skip


# Rain on a warm day, sleet, a dry day, snow: none of them at a threshold of the model.
WEATHER = CatchmentForcing(
    jnp.array([12.0, 9.0, 0.5, 6.0, 8.0]), jnp.array([2.0, 1.5, 4.0, 0.5, 2.0]), jnp.array([9.0, 1.5, 7.0, -5.0, 5.0])
)


def _plume(dtype: Any, key: jax.Array) -> jax.Array:
    """Positive, without equal neighbors: the limiter has no derivative where both differences vanish."""
    return jax.random.uniform(key, (5, 6), dtype, 0.5, 1.5)


def _vortices(dtype: Any, key: jax.Array) -> jax.Array:
    return 2.0 * jax.random.normal(key, (8, 8), dtype)


def _eddies(dtype: Any, key: jax.Array) -> jax.Array:
    return jax.random.normal(key, (14, 14), dtype)


# Parameters of similar size, in which derivatives are taken along one direction.
GYRE = ReducedGravityQG(froude=1.0, rossby=1.0, drag=0.5, viscosity=0.1, hyperviscosity=1e-5, dt=1e-4)


def _layers(dtype: Any, key: jax.Array) -> jax.Array:
    return jax.random.normal(key, (2, 8, 8), dtype)


# In units of the deformation radius and the flow.
LAYERS = TwoLayerQG(
    length=6.0, beta=0.5, deformation_radius=1.0, thickness_ratio=0.5, upper_flow=1.0, drag=0.3, filter_strength=2.0,
    dt=0.05,
)  # fmt: skip


def _with_tendencies(dtype: Any, key: jax.Array) -> AdamsBashforthState:
    model, x = Lorenz63(), _lorenz63(dtype, key)
    return AdamsBashforthState(x, model.tendency(x), 0.9 * model.tendency(x), jnp.asarray(2.0, dtype))


# Winds that turn around, an open axis and a periodic one, emissions of two sectors in two records.
REGION = AdvectionDiffusion(
    wind=(
        0.4 * jnp.sin(1.0 + jnp.arange(36.0)).reshape(2, 3, 6)[:, [0, 1, 2, 0, 1, 2]],
        0.3 * jnp.cos(1.0 + jnp.arange(30.0)).reshape(5, 6),
    ),
    diffusivity=(0.02, 0.03), emissions=jnp.array([[1.0, 2.0], [2.0, 0.5]]),
    patterns=jnp.stack([jnp.eye(5, 6), jnp.ones((5, 6))]), decay=0.1, inflow=0.7,
    grid=Grid(spacing=(1.0, 1.5), periodic=(False, True)), dt=0.4, hold=2,
)  # fmt: skip


def _waves(dtype: Any, key: jax.Array) -> AcousticState:
    return AcousticState(*jax.random.normal(key, (4, 7, 8), dtype))


# Two sources between the cells, a free surface above, a layer at the other ends.
BASIN = AcousticWaves(
    2.0 + 0.3 * jnp.sin(jnp.arange(56.0)).reshape(7, 8),
    PointSources(jnp.array([[2.2, 3.6], [3.1, 4.4]]), Ricker(0.9, time=0.3, strength=jnp.array([2.0, 3.0]))),
    Grid((1.0, 1.3), (False, False)), dt=0.2, damping=3.0, layer=2, free_surface=True,
)  # fmt: skip


def _pendulum(x: Any, t: Any, length: Any) -> Any:
    return {"angle": x["angle"] + 0.1 * x["speed"], "speed": x["speed"] - 0.1 * jnp.sin(x["angle"]) / length}


# A library that works on another scale, two steps at a time.
COUPLED = LibraryModel(
    lambda s, a: s + 0.1 * a * jnp.sin(jnp.roll(s, 1)), metadata=Variable("x", ("space",), "m", "state"), arguments=1.3,
    encode=lambda x, _: 2.0 * x, decode=lambda s, _: 0.5 * s, substeps=2, units="s",
)  # fmt: skip


CALLED_BACK = ExternalModel(
    numpy_lorenz96.step, dt=0.05, tangent=numpy_lorenz96.tangent, adjoint=numpy_lorenz96.adjoint
)


class Pendulum(FunctionModel):
    """A function as model, with the metadata of its state of two parts."""

    def variables(self) -> Any:
        return {"angle": Variable("angle", (), "rad", "angle"), "speed": Variable("speed", (), "rad s-1", "speed")}


def _swinging(dtype: Any, key: jax.Array) -> Any:
    angle, speed = jax.random.uniform(key, 2, dtype, 0.5, 1.5)
    return {"angle": angle, "speed": speed}


MODELS = [
    Entry("Lorenz63", Lorenz63(), _lorenz63),
    Entry("Lorenz96", Lorenz96(), _line(12, 2.3, 3.6)),
    Entry("Lorenz96 with a forcing field", Lorenz96(forcing=jnp.linspace(7.0, 9.0, 9)), _line(9, 2.3, 3.6)),
    Entry("Lorenz96 smaller than its stencil", Lorenz96(), _line(4, 2.3, 3.6)),
    Entry("Lorenz96 large", Lorenz96(), _line(300, 2.3, 3.6)),  # compiled in separate kernels
    Entry(
        "Lorenz96 in parts",
        InParts(Lorenz96(), da.device_mesh(1), "device", -1, reach=(8, 4), size=24),
        _line(24, 2.3, 3.6),
    ),
    Entry("WithParameters", WithParameters(Lorenz96(), ("forcing",), {"forcing": (2.0, 15.0)}), _with_forcing),
    Entry("TwoScaleLorenz96", TwoScaleLorenz96(), _two_scale),
    Entry("LinearAdvection", LinearAdvection(velocity=0.3), _line(10, 0.0, 1.0)),
    Entry("AdvectionDiffusion", REGION, _plume),
    Entry("AdvectionDiffusion of first order", REGION.replace(order=1), _plume),
    Entry("KuramotoSivashinsky", KuramotoSivashinsky(length=22.0), _line(12, 0.0, 1.3)),
    Entry(
        "KuramotoSivashinsky in parts",
        KuramotoSivashinsky(length=22.0, split=Split(da.device_mesh(1), "device", -1)),
        _line(12, 0.0, 1.3),
    ),
    Entry("NavierStokes", NavierStokes(drag=0.1, force=1.0, wavenumber=2, dt=0.1), _vortices),
    Entry("ReducedGravityQG", GYRE, _eddies),
    Entry("TwoLayerQG", LAYERS, _layers),
    Entry("TwoLayerQG in parts", LAYERS.replace(split=Split(da.device_mesh(1), "device", -2)), _layers),
    Entry("AcousticWaves", BASIN, _waves),
    Entry("AcousticWaves on a periodic grid", AcousticWaves(1.5, grid=Grid(periodic=(True, True)), dt=0.3), _waves),
    Entry("AcousticWaves between walls", AcousticWaves(1.5, dt=0.3), _waves),
    Entry("AdamsBashforth3", AdamsBashforth3(Lorenz63()), _with_tendencies),
    Entry("GR4J", GR4J(x2=0.8, x4=2.6, days=4, forcing=WEATHER), _catchment),
    Entry("LibraryModel", COUPLED, _line(6, 0.0, 1.0)),
    Entry("ExternalModel", CALLED_BACK, _line(5, 2.3, 3.6), twice=False),
    Entry("FunctionModel", FunctionModel(lambda x, t: x + 0.1 * jnp.sin(x)), _line(5, 0.0, 1.0)),
    Entry("FunctionModel with arguments", Pendulum(_pendulum, arguments=1.5), _swinging),
    Entry("LinearAdvection on an odd grid", LinearAdvection(velocity=-1.7), _line(9, 0.0, 1.0)),
]
