"""Acoustic waves: Green's function, plane waves, energy, reciprocity, boundaries, sources."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

import diffassim as da
from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.grids.grid import Grid
from diffassim.models import AcousticState, AcousticWaves, PointSources, Ricker, Sampled
from diffassim.models.numerics.point_sources import point_weights
from diffassim.models.numerics.staggered import divergence, face_weights, gradient

OPEN = (False, False)


def seismograms(model, shape, steps, places, start=None):
    """Return the pressure at places after each step, shape (steps + 1, places)."""

    def body(x, t):
        following = model.step(x, t)
        return following, model.pressure_at(following, places)

    x = model.at_rest(shape) if start is None else start
    _, rows = jax.lax.scan(body, x, jnp.arange(steps))
    return jnp.concatenate([model.pressure_at(x, places)[None], rows])


def line_source(r, c, times, ricker):
    """Return the exact pressure in a homogeneous plane: the history's derivative convolved with Green's function.

    2 pi G = 1 / sqrt(t^2 - r^2 / c^2) after the arrival; t = r/c cosh(s) takes the singularity away.
    """

    @jax.jit
    def at(t):
        last = jnp.arccosh(jnp.maximum(t * c / r, 1.0))
        s = jnp.linspace(0.0, 1.0, 2001) * last
        return jnp.trapezoid(jax.vmap(jax.grad(lambda t: ricker(t)))(t - r / c * jnp.cosh(s)), s) / (2 * jnp.pi)

    return np.asarray(jax.lax.map(at, jnp.asarray(times)))


def test_the_quadrature_of_the_exact_solution_is_exact():
    ricker, r, c, t = Ricker(frequency=3.0, time=0.5, strength=2.0), 0.7, 1.3, 1.1
    rate = jax.grad(lambda t: ricker(t))
    exact, _ = quad(lambda s: float(rate(jnp.asarray(t - r / c * np.cosh(s)))), 0, np.arccosh(t * c / r), epsabs=1e-12)
    np.testing.assert_allclose(line_source(r, c, [t], ricker), [exact / (2 * np.pi)], rtol=1e-6)


@pytest.mark.slow
def test_a_line_source_converges_to_greens_function_with_second_order():
    """Source and receiver lie between the points; waves of the peak frequency span 12, 18 and 27 points."""
    c, frequency = 2.0, 2.0
    ricker = Ricker(frequency=frequency, time=0.6)
    source, receivers = np.array([1.013, 1.287]), np.array([[2.041, 2.052], [1.513, 0.937]])
    end = 1.6
    errors = []
    for points in (12, 18, 27):
        h = c / frequency / points
        n = round(3.0 / h)
        steps = round(end / (0.5 * h / c))
        dt = end / steps
        # The layer's share of the domain is the same at every resolution.
        model = AcousticWaves(c, PointSources(source, ricker), Grid((h, h), OPEN), dt=dt, layer=n // 6)
        found = np.asarray(jax.jit(lambda m, n=n, k=steps: seismograms(m, (n, n), k, receivers))(model))
        times = dt * np.arange(steps + 1)
        exact = np.stack([line_source(np.hypot(*(p - source)), c, times, ricker) for p in receivers], axis=1)
        errors.append(np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2)))
    orders = np.log(np.divide(errors[:-1], errors[1:])) / np.log(1.5)
    assert errors[0] < 0.04 and errors[-1] < 0.009, errors  # relative to the root mean square of the signal
    assert np.all(np.abs(orders - 2) < 0.2), (orders, errors)


def plane_wave(model, n, mode, shape_axis):
    """Return a wave of the periodic grid that the scheme only moves on, its frequency, and its exact frequency."""
    c, h, dt = model.velocity, model.grid.spacing[0], model.dt
    k = 2 * np.pi * mode / (n * h)
    symbol = 2 * (9 / 8 * np.sin(k * h / 2) - 1 / 24 * np.sin(3 * k * h / 2)) / h
    omega = 2 / dt * np.arcsin(c * dt * symbol / 2)

    def state(step):
        center, face, t = (np.arange(n) + 0.5) * h, np.arange(n) * h, step * dt
        p = np.cos(k * center - omega * t)
        u = np.cos(k * face - omega * (t - dt / 2)) / c
        zero = np.zeros((n, n))
        lines = [np.broadcast_to(f if shape_axis == -1 else f[:, None], (n, n)) for f in (p, u)]
        p, u = (jnp.asarray(f) for f in lines)
        return AcousticState(zero, p, zero, u) if shape_axis == -1 else AcousticState(p, zero, u, zero)

    return state, omega, c * k


@pytest.mark.parametrize("axis", [-2, -1])
def test_a_plane_wave_moves_with_the_speed_of_the_scheme(axis):
    n = 24
    model = AcousticWaves(1.5, grid=Grid((0.5, 0.5), (True, True)), dt=0.1)
    state, omega, exact = plane_wave(model, n, 3, axis)
    x = jax.tree.map(jnp.asarray, state(0))
    end = jax.tree.map(lambda leaf: leaf[0], da.rollout(model, x, 50, at=[50]))
    for found, wanted in zip(end, state(50), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert abs(omega / exact - 1) < 3e-3  # eight points a wave


def test_the_speed_of_plane_waves_has_fourth_order_in_space_and_second_in_time():
    def error(h, dt):
        n = round(12 / h)
        _, omega, exact = plane_wave(AcousticWaves(1.0, grid=Grid((h, h), (True, True)), dt=dt), n, 3, -1)
        return abs(omega / exact - 1)

    space = [error(h, 1e-5) for h in (0.5, 0.25, 0.125)]
    time = [error(0.0625, dt) for dt in (0.03, 0.015)]
    assert np.all(np.abs(np.log2(np.divide(space[:-1], space[1:])) - 4) < 0.1), space
    assert abs(np.log2(time[0] / time[1]) - 2) < 0.1, time


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["periodic", "walls", "free"])
@pytest.mark.parametrize("axis", [-2, -1])
def test_divergence_is_minus_the_transpose_of_the_gradient(ends, axis):
    p, u = jax.random.normal(jax.random.key(1), (2, 6, 7))
    weights = face_weights(p.shape[axis], ends).reshape((-1, 1) if axis == -2 else (1, -1))
    left, right = jnp.sum(p * divergence(u, axis, ends)), -jnp.sum(weights * u * gradient(p, axis, ends))
    np.testing.assert_allclose(left, right, rtol=1e-12)
    for function in (gradient, divergence):  # the hand-written transpose is the derived one
        by_hand = jax.vjp(lambda f, g=function: g(f, axis, ends), p)[1](u)[0]
        matrix = jax.jacfwd(lambda f, g=function: g(f, axis, ends))(p)
        np.testing.assert_allclose(by_hand, jnp.einsum("ijkl,ij->kl", matrix, u), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("boundary", ["periodic", "walls", "free"])
def test_energy_is_conserved_to_rounding(boundary):
    key = jax.random.key(2)
    grid = Grid((1.0, 1.2), (boundary == "periodic",) * 2)
    c = 1.5 + 0.5 * jax.random.uniform(key, (9, 11))
    model = AcousticWaves(c, grid=grid, dt=0.25, free_surface=boundary == "free")
    x = AcousticState(*jax.random.normal(key, (4, 9, 11)))
    rows = da.rollout(model, x, 400, at=[0, 1, 200, 400])
    np.testing.assert_allclose(model.energy(rows), model.energy(x), rtol=1e-12)
    assert model.energy(x) > 0


@pytest.mark.parametrize(
    ("free", "layer", "places"),
    [
        (True, 0, [[4.3, 5.8], [15.1, 21.6]]),  # between the cells
        (False, 0, [[4.3, 5.8], [15.1, 21.6]]),
        (True, 5, [[1.5, 5.5], [15.5, 21.5]]),  # on cells, where the kernel has no tail that could reach the layer
        (False, 5, [[5.5, 5.5], [15.5, 21.5]]),
    ],
)
def test_source_and_receiver_are_exchangeable_to_rounding(free, layer, places):
    shape, places = (24, 30), np.array(places)
    c = 2.0 + 0.6 * jax.random.uniform(jax.random.key(3), shape)
    model = AcousticWaves(c, None, Grid((1.0, 1.0), OPEN), dt=0.2, layer=layer, free_surface=free)
    history = Ricker(frequency=0.4, time=2.5)

    @jax.jit
    def record(source, receiver):
        return seismograms(model.replace(sources=PointSources(source, history)), shape, 200, receiver[None])

    there, back = record(*jnp.asarray(places)), record(*jnp.asarray(places[::-1]))
    np.testing.assert_allclose(there, back, atol=1e-12 * float(jnp.max(jnp.abs(there))))
    assert float(jnp.max(jnp.abs(there))) > 1e-3


@pytest.mark.slow
def test_the_layer_reflects_less_than_a_thousandth_and_little_of_grazing_waves():
    """Against a domain so large that nothing comes back in time; the first receiver looks along the layer."""
    history, h, dt, steps, far, layer = Ricker(frequency=0.8, time=1.8), 0.25, 0.06, 220, 100, 10

    def cell(*index):
        return (np.array(index) + 0.5) * h

    @jax.jit
    def record(model, receivers, size):
        return seismograms(model, size.shape, steps, receivers)

    source = cell(14, 14)
    receivers = np.stack([cell(12, 74), cell(19, 48), cell(26, 20), cell(11, 40)])
    layered = AcousticWaves(2.0, PointSources(source, history), Grid((h, h), OPEN), dt=dt, layer=layer)
    exact = layered.replace(sources=PointSources(source + far * h, history), layer=0)
    wanted = record(exact, receivers + far * h, jnp.zeros((40 + 2 * far, 90 + 2 * far)))
    scale = jnp.max(jnp.abs(wanted), axis=0)

    def reflected(model):
        found = record(model, receivers, jnp.zeros((40, 90)))
        return np.asarray(jnp.max(jnp.abs(found - wanted), axis=0) / scale)

    assert np.all(reflected(layered) < [5e-3, 1e-3, 1e-3, 1e-3]), reflected(layered)
    assert np.all(reflected(layered.replace(layer=0)) > 0.3)


@pytest.mark.slow
@pytest.mark.parametrize(("free", "sign"), [(True, -1.0), (False, 1.0)])
def test_a_boundary_is_a_mirror(free, sign):
    """Source and mirror image in a domain of twice the size; the boundary between them has no order to lose."""
    n, m, steps, history = 30, 40, 120, Ricker(frequency=0.25, time=4.0)
    source = np.array([3.7, 20.2])
    half = AcousticWaves(1.0, PointSources(source, history), Grid((1.0, 1.0), OPEN), dt=0.4, free_surface=free)
    both = PointSources(
        np.array([[n + 3.7, 20.2], [n - 3.7, 20.2]]), Ricker(0.25, time=4.0, strength=jnp.array([1.0, sign]))
    )
    whole = half.replace(sources=both, free_surface=False)
    receivers = np.array([[5.5, 30.5], [0.5, 8.5]])
    a = seismograms(half, (n, m), steps, receivers)
    b = seismograms(whole, (2 * n, m), steps, receivers + np.array([n, 0.0]))
    np.testing.assert_allclose(a, b, atol=1e-12)
    assert float(jnp.max(jnp.abs(a))) > 1e-2


@pytest.mark.slow
def test_a_number_and_a_constant_field_are_the_same_medium():
    source = PointSources(np.array([5.5, 5.5]), Ricker(frequency=0.3, time=3.0))
    number = AcousticWaves(1.0, source, dt=0.4, damping=2.0, layer=2)
    field = number.replace(velocity=jnp.ones((11, 12)))
    a, b = (da.rollout(m, m.at_rest((11, 12)), 30, at=[30]).pressure for m in (number, field))
    np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.slow
def test_sources_add_up_and_a_source_on_a_cell_acts_in_that_cell_alone():
    history, shape = Ricker(frequency=0.3, time=3.0), (11, 12)
    places = np.array([[5.2, 4.1], [7.8, 8.3]])
    each = [AcousticWaves(1.0, PointSources(p, history), dt=0.4) for p in places]
    both = AcousticWaves(1.0, PointSources(places, history), dt=0.4)
    one, other, sum_ = (da.rollout(m, m.at_rest(shape), 20, at=[20]).pressure for m in (*each, both))
    np.testing.assert_allclose(one + other, sum_, atol=1e-12)
    on_cell = AcousticWaves(1.0, PointSources(np.array([5.5, 4.5]), history), dt=0.4)
    p = on_cell.step(on_cell.at_rest(shape), 7).pressure
    np.testing.assert_allclose(p[5, 4], 0.4 * history(jnp.asarray(3.0)), rtol=1e-12)
    np.testing.assert_allclose(p.at[5, 4].set(0.0), 0.0, atol=1e-15)


@pytest.mark.slow
def test_a_sampled_history_agrees_with_the_function_it_samples():
    history = Ricker(frequency=0.3, time=3.0)
    times = np.linspace(0, 8, 801)
    sampled = Sampled(jnp.stack([history(jnp.asarray(t)) for t in times]), interval=0.01)
    model = AcousticWaves(1.0, PointSources(np.array([5.2, 4.1]), history), dt=0.4)
    a, b = (
        da.rollout(m, m.at_rest((11, 12)), 30, at=[30]).pressure
        for m in (model, model.replace(sources=model.sources.replace(history=sampled)))
    )
    np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.max(jnp.abs(a))))
    assert float(sampled(jnp.asarray(-0.1))) == float(sampled(jnp.asarray(8.1))) == 0


def test_the_kernel_interpolates_smooth_fields():
    places = jnp.array([9.3, 12.7])
    for points, bound in ((4, 2e-3), (6, 1e-4)):
        field = jnp.cos(2 * jnp.pi * (jnp.arange(24.0) + 0.5) / points)
        found = point_weights(places, 24, None) @ field
        np.testing.assert_allclose(found, jnp.cos(2 * jnp.pi * places / points), atol=bound)


@pytest.mark.slow
def test_place_and_time_of_a_source_are_differentiable():
    shape, receivers = (16, 18), np.array([[4.5, 12.5], [12.5, 4.5], [3.5, 3.5]])
    sources = PointSources(jnp.array([8.13, 9.4]), Ricker(frequency=jnp.array(0.25), time=jnp.array(3.0)))
    model = AcousticWaves(1.0, sources, dt=0.4)
    truth = seismograms(model, shape, 60, receivers)
    moved = sources.replace(places=jnp.array([8.6, 8.9]))
    report = da.diagnostics.check_gradient(
        lambda s: jnp.sum(jnp.square(seismograms(model.replace(sources=s), shape, 60, receivers) - truth)),
        moved, largest_step=1e-3,
    )  # fmt: skip
    assert report.passed and report.slopes, str(report)


def test_single_precision_stays_single():
    model = AcousticWaves(1.0, PointSources(np.array([5.2, 4.1]), Ricker(frequency=0.3, time=3.0)), dt=0.4, layer=2)
    exact = da.rollout(model, model.at_rest((11, 12)), 60, at=[60]).pressure
    found = da.rollout(model, model.at_rest((11, 12), jnp.float32), 60, at=[60]).pressure
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, atol=1e-5 * float(jnp.max(jnp.abs(exact))))


def test_steps_beyond_the_courant_limit_blow_up_and_are_refused():
    limit = 6 / 7 / np.sqrt(2)
    with pytest.raises(ConfigurationError, match=r"courant_number\(\) is 1.0"):
        AcousticWaves(1.0, dt=1.01 * limit)
    x = AcousticState(*jax.random.normal(jax.random.key(0), (4, 12, 12)))
    periodic = Grid(periodic=(True, True))
    inside = AcousticWaves(1.0, grid=periodic, dt=0.99 * limit)
    beyond = jax.jit(lambda dt: da.rollout(inside.replace(dt=dt), x, 400, at=[400]).pressure)
    assert float(jnp.max(jnp.abs(beyond(0.99 * limit)))) < 100 < float(jnp.max(jnp.abs(beyond(1.03 * limit))))


def test_bad_input_is_named():
    source = PointSources(np.array([5.0, 40.0]), Ricker(frequency=0.3))
    with pytest.raises(DataError, match=r"outside of the grid, 0 to \[11.0, 12.0\]"):
        AcousticWaves(1.0, source, dt=0.4).at_rest((11, 12))
    with pytest.raises(ShapeError, match="velocity of shape"):
        AcousticWaves(jnp.ones((3, 4)), dt=0.4).at_rest((11, 12))
    with pytest.raises(ShapeError, match="at least 4 cells"):
        AcousticWaves(1.0, dt=0.4).at_rest((3, 12))
    with pytest.raises(ShapeError, match="a layer of 6 cells"):
        AcousticWaves(1.0, dt=0.4, layer=6).at_rest((11, 12))
    with pytest.raises(ConfigurationError, match="velocity must be finite and positive"):
        AcousticWaves(-1.0)
    with pytest.raises(ConfigurationError, match="layer must not be negative"):
        AcousticWaves(1.0, dt=0.4, layer=-1)
    with pytest.raises(ConfigurationError, match="free surface needs"):
        AcousticWaves(1.0, grid=Grid(periodic=(True, True)), dt=0.4, free_surface=True)
    with pytest.raises(ConfigurationError, match="damping depends on velocity"):
        jax.jit(lambda c: AcousticWaves(c, dt=0.1, layer=2).damping)(1.0)
    with pytest.raises(ConfigurationError, match="history must be a function"):
        PointSources(np.array([5.0, 4.0]), 3.0)
    with pytest.raises(ConfigurationError, match=r"Ricker.frequency"):
        Ricker(frequency=0.0)
    with pytest.raises(ShapeError, match="2 places, but the history has values of shape"):
        PointSources(np.ones((2, 2)), Ricker(0.3, strength=jnp.ones(3))).strengths(jnp.asarray(0.0))
    with pytest.raises(ShapeError, match="at least two times"):
        Sampled(jnp.ones(1), interval=0.1)
