"""The shallow-water equations on the sphere, by the spectral core of the library dinosaur (extra `sphere`)."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree
from diffassim.grids.sphere import Sphere
from diffassim.models.base import Variable
from diffassim.models.library import LibraryModel, library_rules

__all__ = ["ShallowWaterState", "gaussian_grid", "perturbed_jet", "spectral_grid", "spherical_shallow_water"]

TRUNCATIONS = (21, 31, 42, 85)


class ShallowWaterState(Pytree):
    """Fields on the Gaussian grid, shape (..., latitude, longitude), from south to north and from Greenwich eastward.

    Args:
        u: eastward wind, m/s.
        v: northward wind, m/s.
        height: depth of the fluid, m.
    """

    u: Float[Array, "... lat lon"]
    v: Float[Array, "... lat lon"]
    height: Float[Array, "... lat lon"]


VARIABLES = ShallowWaterState(
    Variable("u", ("latitude", "longitude"), "m s-1", "eastward wind"),
    Variable("v", ("latitude", "longitude"), "m s-1", "northward wind"),
    Variable("height", ("latitude", "longitude"), "m", "depth of the fluid"),
)  # fmt: skip


def spherical_shallow_water(
    truncation: int = 21, dt: float = 1200.0, mean_height: Any = 10_000.0, damping: Any = 6 * 3600.0, substeps: int = 1
) -> LibraryModel:
    r"""Return one layer of fluid on the rotating Earth, without orography, as a model of fields with units.

    Vorticity, divergence and geopotential in spherical harmonics with triangular truncation; gravity waves are stepped
    implicitly and the rest explicitly (SIL3); after each step the harmonics of degree l are damped by biharmonic
    diffusion, those of the largest degree L with a time scale of \(\tau\):
    \(\exp(-\tfrac{\Delta t}{\tau} (\tfrac{l (l + 1)}{L (L + 1)})^2)\).

    State: `ShallowWaterState`. What the truncation cannot represent leaves it with the first step.

    Args:
        truncation: largest degree kept without loss: 21, 31, 42 or 85.
        dt: length of one step, s.
        mean_height: depth of the fluid at rest, about which gravity waves are implicit, m; an argument of the model,
            differentiable, like the next one.
        damping: \(\tau\), s.
        substeps: steps of the library in one of the model.

    Returns:
        A `LibraryModel` with `arguments` 'mean_height', 'damping' and 'dt' (of a step of the library); its `dt` is dt
        times substeps.

    Raises:
        ConfigurationError: if dinosaur is not installed, or the truncation is not one of these.

    Source: dinosaur (Kochkov et al., 2024, appendix A of its supplement); Whitaker and Kar (2013) for the steps.
    """
    core = _core(truncation)
    return LibraryModel(
        core.step, dt=dt * substeps, metadata=VARIABLES,
        arguments={"mean_height": mean_height, "damping": damping, "dt": dt},
        encode=core.encode, decode=core.decode, substeps=substeps, units="s",
    )  # fmt: skip


def gaussian_grid(truncation: int = 21) -> Sphere:
    """Return the grid of the model's fields, for local filters.

    Args:
        truncation: of the model.

    Returns:
        Places in degrees, distances in km.
    """
    longitude, sine = _core(truncation).grid.nodal_axes
    return Sphere(np.degrees(np.arcsin(sine))[:, None], np.degrees(longitude))


def spectral_grid(truncation: int = 21) -> Any:
    """Return the library's `Grid` of a truncation, which transforms between fields (longitude, latitude) and modes."""
    return _core(truncation).grid


def perturbed_jet(key: Any, truncation: int = 21) -> ShallowWaterState:
    """Return a balanced zonal jet with a small bump in its height, which the jet's instability makes grow.

    Args:
        key: draws the latitude of the bump inside of the jet.
        truncation: of the model; at 21 and 31 the jet is wider than it should be.

    Returns:
        The state, with a mean height of 10 km.

    Source: Galewsky, Scott and Polvani (2004), section 2; the random latitude is the library's.
    """
    from dinosaur import shallow_water_states

    core = _core(truncation)
    with library_rules():
        draw, _ = shallow_water_states.barotropic_instability_tc(core.coordinates, core.units)
        return core.decode(draw(key), {"mean_height": 10_000.0})


class _Core(NamedTuple):
    """The library's objects of one truncation, and the functions that a model is made of."""

    grid: Any
    coordinates: Any
    units: Any
    step: Any
    encode: Any
    decode: Any


@functools.lru_cache(maxsize=8)  # the same functions for the same truncation: they are part of the programs' key
def _core(truncation: int) -> _Core:
    if importlib.util.find_spec("dinosaur") is None:
        raise ConfigurationError(
            "the shallow-water model on the sphere needs the library dinosaur: pip install 'diffassim[sphere]'"
        )
    if truncation not in TRUNCATIONS:
        raise ConfigurationError(
            f"spherical_shallow_water: truncation must be one of {TRUNCATIONS}, found {truncation}"
        )
    from dinosaur import (
        coordinate_systems,
        layer_coordinates,
        shallow_water,
        spherical_harmonic,
        time_integration,
        units,
    )

    grid = getattr(spherical_harmonic.Grid, f"T{truncation}")()
    coordinates = coordinate_systems.CoordinateSystem(grid, layer_coordinates.LayerCoordinates(1))
    specs = units.SimUnits.from_si()
    scale = {name: float(specs.nondimensionalize(1.0 * _unit(name))) for name in ("m", "s")}
    speed, gravity = scale["m"] / scale["s"], float(specs.g)

    def step(state: Any, arguments: Any) -> Any:
        dt, tau = (arguments[name] * scale["s"] for name in ("dt", "damping"))
        potential = jnp.reshape(arguments["mean_height"] * (scale["m"] * gravity), (1,))
        equation = shallow_water.ShallowWaterEquations(coordinates, specs, None, potential)
        damp = time_integration.horizontal_diffusion_step_filter(grid, dt, tau, order=2)
        return damp(state, time_integration.imex_rk_sil3(equation, dt)(state))

    def encode(x: ShallowWaterState, arguments: Any) -> Any:
        u, v, height = (jnp.swapaxes(field, -1, -2)[..., None, :, :] for field in (x.u, x.v, x.height))
        vorticity, divergence = spherical_harmonic.uv_nodal_to_vor_div_modal(grid, u * speed, v * speed)
        potential = grid.clip_wavenumbers(grid.to_modal((height - arguments["mean_height"]) * (scale["m"] * gravity)))
        return shallow_water.State(vorticity, divergence, potential)

    def decode(state: Any, arguments: Any) -> ShallowWaterState:
        # Winds have one degree more than what they are the gradients of: unclipped, `encode` gets the state back.
        rotation, divergence = grid.clip_wavenumbers((state.vorticity, state.divergence))
        u, v = spherical_harmonic.vor_div_to_uv_nodal(grid, rotation, divergence, clip=False)
        height = (
            grid.to_nodal(grid.clip_wavenumbers(state.potential)) / (scale["m"] * gravity) + arguments["mean_height"]
        )
        fields = (jnp.swapaxes(field[..., 0, :, :], -1, -2) for field in (u / speed, v / speed, height))
        return ShallowWaterState(*fields)

    return _Core(grid, coordinates, specs, step, encode, decode)


def _unit(name: str) -> Any:
    from dinosaur import scales

    return getattr(scales.units, name)
