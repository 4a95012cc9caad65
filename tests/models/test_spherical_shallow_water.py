"""Shallow water on the sphere through dinosaur: exact flows, conservation, adjoints."""

from __future__ import annotations

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError
from diffassim.diagnostics import check_adjoint, check_gradient
from diffassim.models import LibraryModel, Variable
from diffassim.models.library import library_rules
from diffassim.models.spherical_shallow_water import (
    ShallowWaterState,
    gaussian_grid,
    perturbed_jet,
    spherical_shallow_water,
)

RADIUS, ROTATION, GRAVITY = 6.37122e6, 7.292e-5, 9.80616
installed = importlib.util.find_spec("dinosaur") is not None
needs_dinosaur = pytest.mark.skipif(not installed, reason="dinosaur, of the extra sphere, is not installed")


def solid_rotation(speed):
    """Return the balanced flow of Williamson et al. (1992), case 2, and the sine of the latitudes."""
    latitude = np.radians(np.asarray(gaussian_grid().latitude))
    height = 10_000 - (RADIUS * ROTATION * speed + speed**2 / 2) * np.sin(latitude) ** 2 / GRAVITY
    fields = (speed * np.cos(latitude), 0 * latitude, height)
    return ShallowWaterState(*(jnp.asarray(np.broadcast_to(f, (32, 64))) for f in fields)), latitude


@needs_dinosaur
def test_a_balanced_flow_stays():
    # The library's Earth has a day of 24 hours and another radius in the last digits: that, and no more, it may move.
    x, _ = solid_rotation(20.0)
    model = spherical_shallow_water(damping=1e12, substeps=6)
    end = jax.jit(lambda x: da.rollout(model, x, 12, at=[12]))(x)  # a day
    assert float(jnp.abs(end.u[0] - x.u).max()) < 0.15
    assert float(jnp.abs(end.v[0]).max()) < 0.15
    assert float(jnp.abs(end.height[0] - x.height).max()) < 10.0


@needs_dinosaur
def test_mass_is_conserved_and_damping_takes_energy():
    x = perturbed_jet(jax.random.key(1))
    assert x.u.shape == (32, 64) and float(x.u.max()) > 60
    _, weights = np.polynomial.legendre.leggauss(32)  # of latitudes
    area = lambda f: jnp.sum(weights[:, None] * f) / 128  # noqa: E731
    energy = lambda x: area(0.5 * x.height * (x.u**2 + x.v**2) + 0.5 * GRAVITY * (x.height - 1e4) ** 2)  # noqa: E731
    ends = []
    for damping in (3600.0, 1e12):
        model = spherical_shallow_water(damping=damping)
        ends.append(jax.tree.map(lambda f: f[0], da.rollout(model, x, 20, at=[20])))
        np.testing.assert_allclose(area(ends[-1].height), area(x.height), rtol=1e-12)
    assert float(energy(ends[0])) < 0.99 * float(energy(x))
    np.testing.assert_allclose(energy(ends[1]), energy(x), rtol=2e-2)


@needs_dinosaur
def test_what_the_truncation_carries_returns_from_the_library():
    model, x = spherical_shallow_water(), perturbed_jet(jax.random.key(0))
    with library_rules():
        again = model.decode(model.encode(x, model.arguments), model.arguments)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(x), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)
    longer = spherical_shallow_water(substeps=3)
    for a, b in zip(
        jax.tree.leaves(longer.step(x, 0)),
        jax.tree.leaves(da.rollout(model, x, 3, at=[3])), strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(a, b[0], rtol=0, atol=1e-9)


@needs_dinosaur
@pytest.mark.slow
def test_derivatives_pass_through_the_library():
    model, x = spherical_shallow_water(), perturbed_jet(jax.random.key(0))
    report = check_adjoint(lambda x: da.rollout(model, x, 2, at=[2]), x)
    assert report.passed, str(report)

    def cost(x):
        end = da.rollout(model, x, 2, at=[2])
        return jnp.mean((end.height / 100) ** 2) + jnp.mean(end.u**2 + end.u * end.v)

    report = check_gradient(cost, x, largest_step=1e-2)
    assert report.passed, str(report)


@needs_dinosaur
def test_primitive_equations_are_a_library_model():
    from dinosaur import (
        coordinate_systems,
        primitive_equations,
        primitive_equations_states,
        sigma_coordinates,
        spherical_harmonic,
        time_integration,
        units,
    )

    with library_rules():
        coordinates = coordinate_systems.CoordinateSystem(
            spherical_harmonic.Grid.T21(), sigma_coordinates.SigmaCoordinates.equidistant(4)
        )
        specs = units.SimUnits.from_si()
        start, features = primitive_equations_states.isothermal_rest_atmosphere(coordinates, specs)
        state = start(jax.random.PRNGKey(0))
        equation = primitive_equations.PrimitiveEquations(
            features["ref_temperatures"], coordinates.horizontal.to_modal(features["orography"]), coordinates, specs
        )
        dt = float(specs.nondimensionalize(1200 * units.scales.units.s))
        step = time_integration.imex_rk_sil3(equation, dt)
    metadata = jax.tree.map(lambda leaf: Variable("coefficients", ("level", "m", "l"), "1", "coefficients"), state)
    model = LibraryModel(step, dt=1200.0, metadata=metadata, units="s")
    end = da.rollout(model, state, 3, at=[3])
    assert jax.tree.structure(end) == jax.tree.structure(state)
    assert float(jnp.abs(end.vorticity).max()) < 1e-6  # an atmosphere at rest, over flat ground
    with library_rules():
        reference = jax.jit(lambda s: step(step(step(s))))(state)
    np.testing.assert_allclose(end.temperature_variation[0], reference.temperature_variation, rtol=0, atol=1e-12)


@needs_dinosaur
def test_bad_input_is_named():
    with pytest.raises(ConfigurationError, match=r"one of \(21, 31, 42, 85\), found 20"):
        spherical_shallow_water(20)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    from diffassim.models import spherical_shallow_water as module

    module._core.cache_clear()
    with pytest.raises(ConfigurationError, match=r"pip install 'diffassim\[sphere\]'"):
        spherical_shallow_water()
