"""The local filter: its tapers and places, its limit without localization, and gradients through its cycle."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm

import diffassim as da
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.ensemble import GaspariCohn, etkf, nearest_observations
from diffassim.ensemble.etkf import transformed_columns
from diffassim.grids import Sphere
from diffassim.grids.grid import Grid
from tests.cycling.test_ensemble import MODEL, STD, check_gradient, twin
from tests.ensemble.zoo import ensemble, observed, values


def gaspari_cohn(z):
    """Equation 4.10 as printed."""
    if z <= 1:
        return -(z**5) / 4 + z**4 / 2 + 5 / 8 * z**3 - 5 / 3 * z**2 + 1
    if z <= 2:
        return z**5 / 12 - z**4 / 2 + 5 / 8 * z**3 + 5 / 3 * z**2 - 5 * z + 4 - 2 / (3 * z)
    return 0.0


@pytest.mark.slow
def test_the_taper_is_the_published_function():
    r = np.linspace(0, 12, 97)
    expected = [gaspari_cohn(z) for z in r / (np.sqrt(10 / 3) * 2.5)]
    found = jax.jit(GaspariCohn(2.5))(jnp.asarray(r))
    np.testing.assert_allclose(found, expected, atol=1e-13)
    assert np.all(np.diff(found) <= 0)
    curvature = jax.grad(jax.grad(GaspariCohn(2.5)))(1e-9)
    np.testing.assert_allclose(curvature, -1 / 2.5**2, rtol=1e-6)  # that of exp(-r^2 / 2 radius^2)
    edges = jnp.array([0.0, 1.0, np.sqrt(10 / 3), 2 * np.sqrt(10 / 3), 50.0])
    assert np.isfinite(jax.jacfwd(lambda radius: GaspariCohn(radius)(edges))(1.0)).all()


def test_distances_go_around_periodic_axes_only():
    grid, shape = Grid((1.0, 2.0), (True, False)), (5, 4)
    a, b = jnp.array([[0.5, 0.0], [0.0, 0.0]]), jnp.array([[4.5, 6.0], [-1.0, 0.0]])
    np.testing.assert_allclose(grid.distance(a, b, shape), [37**0.5, 1.0])
    assert grid.points(shape).shape == (20, 2) and grid.points(shape)[5].tolist() == [1.0, 2.0]
    assert np.isfinite(jax.jacobian(lambda a: grid.distance(a, a, shape))(a)).all()


def brute_force(E, y, H, std, places, grid, taper):
    """The analysis of Hunt et al. (2007), point by point, in NumPy."""
    N, shape = E.shape[0], E.shape[1:]
    X, HE = E - E.mean(0), E @ H.T if E.ndim == 2 else np.stack([H(x) for x in E])
    Y, posterior = HE - HE.mean(0), np.array(E)
    for point, index in zip(np.asarray(grid.points(shape)), np.ndindex(*shape), strict=True):
        weight = np.asarray(taper(grid.distance(jnp.asarray(point)[None], places, shape))) / std**2
        P = np.linalg.inv((N - 1) * np.eye(N) + Y * weight @ Y.T)
        W = (P @ (Y * weight) @ (y - HE.mean(0)))[:, None] + sqrtm((N - 1) * P).real
        posterior[(slice(None), *index)] = E.mean(0)[index] + X[(slice(None), *index)] @ W
    return posterior


@pytest.mark.slow
def test_the_analysis_is_the_published_one_on_a_plane():
    periodic = (True, False)
    rng = np.random.default_rng(0)
    grid, E = Grid((1.0, 2.0), periodic), rng.normal(size=(4, 5, 6))
    places = jnp.asarray(rng.uniform(0, [4, 10], size=(7, 2)))
    H = da.observations.Interpolate(spacing=grid.spacing, periodic=periodic)
    y, std = rng.normal(size=7), rng.uniform(0.3, 1, size=7)
    obs = da.Observations(y[None], [0], H, da.covariances.Diagonal(std=std), where=places[None])
    method = da.LETKF(localization=GaspariCohn(1.3), grid=grid)
    expected = brute_force(E, y, lambda x: H(jnp.asarray(x), places), std, places, grid, GaspariCohn(1.3))
    np.testing.assert_allclose(method.analyze(None, E, obs)[0], expected, atol=1e-12)
    # Settings of the computation that change nothing, and one that does.
    changed = method.replace(batch=7, neighbors=7, places=places)
    np.testing.assert_allclose(changed.analyze(None, E, obs)[0], expected, atol=1e-12)
    assert np.abs(method.replace(neighbors=1).analyze(None, E, obs)[0] - expected).max() > 1e-3


@pytest.mark.parametrize("periodic", [(True, False), (True, True)])
@pytest.mark.slow
def test_searched_neighbors_are_those_of_all_pairs(periodic):
    rng = np.random.default_rng(1)
    grid, shape, taper = Grid((1.0, 2.0), periodic), (5, 6), GaspariCohn(1.0)
    E, places = rng.normal(size=(4, *shape)), rng.uniform(-3, [4, 10], size=(9, 2))
    H = da.observations.Interpolate(spacing=grid.spacing, periodic=periodic)
    y = np.where(np.arange(9) == 2, np.nan, rng.normal(size=9))
    obs = da.Observations(y[None], [0], H, STD, where=jnp.asarray(places)[None])
    method = da.LETKF(localization=taper, grid=grid, places=jnp.asarray(places))
    expected = method.analyze(None, E, obs)[0]
    apart = np.asarray(grid.distance(grid.points(shape)[:, None], jnp.asarray(places)[None], shape))
    found = nearest_observations(grid, shape, places, 8, mask=obs.mask[0])
    found = np.asarray(found)
    assert 2 not in found
    order = np.argsort(np.where(np.arange(9) == 2, np.inf, apart), axis=1)[:, :8]
    np.testing.assert_allclose(np.take_along_axis(apart, found, 1), np.take_along_axis(apart, order, 1))
    for nearest in (found, nearest_observations(grid, shape, places, 11)):  # eleven of nine: two are none
        np.testing.assert_allclose(method.replace(nearest=nearest).analyze(None, E, obs)[0], expected, atol=1e-12)

    def score(radius, nearest):
        return jnp.sum(method.replace(localization=GaspariCohn(radius), nearest=nearest).analyze(None, E, obs)[0] ** 2)

    gradients = [jax.grad(score)(1.0, nearest) for nearest in (None, found)]
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-10)
    none = nearest_observations(grid, shape, places, 3, mask=np.zeros(9, bool))
    assert np.all(none == 9)
    np.testing.assert_allclose(method.replace(nearest=none).analyze(None, E, obs)[0], E, atol=1e-13)


@pytest.mark.slow
def test_on_the_sphere():
    rng = np.random.default_rng(2)
    sphere = Sphere(np.array([-89.0, -30.0, 30.0, 89.0])[:, None], 360 / 7 * np.arange(7.0))
    a, b = np.deg2rad(sphere.points((4, 7))), np.deg2rad(np.array([[80.0, 350.0], [-35.0, 359.0], [0.0, -181.0]]))
    cosine = np.sin(a[:, None, 0]) * np.sin(b[:, 0]) + np.cos(a[:, None, 0]) * np.cos(b[:, 0]) * np.cos(
        a[:, None, 1] - b[:, 1]
    )
    places = jnp.rad2deg(b)
    distance = sphere.distance(sphere.points((4, 7))[:, None], places[None], (4, 7))
    np.testing.assert_allclose(distance, 6371 * np.arccos(cosine), rtol=1e-10)
    poles = jnp.array([[0.0, 0.0], [90.0, 10.0]])
    slopes = jax.jacobian(lambda p: sphere.distance(p, jnp.array([[0.0, 0.0], [-90.0, 50.0]]), (4, 7)))(poles)
    assert np.isfinite(slopes).all()

    E, y = rng.normal(size=(5, 4, 7)), rng.normal(size=3)
    indices = jnp.array([3, 12, 20])
    obs = da.Observations(y[None], [0], lambda x: x.ravel()[indices], STD)
    method = da.LETKF(localization=GaspariCohn(4000.0), grid=sphere, places=places)
    posterior = method.analyze(None, E, obs)[0]
    expected = brute_force(E, y, lambda x: x.ravel()[indices], 1.0, places, sphere, GaspariCohn(4000.0))
    np.testing.assert_allclose(posterior, expected, atol=1e-12)
    nearest = nearest_observations(sphere, (4, 7), places, 3)
    np.testing.assert_allclose(method.replace(nearest=nearest).analyze(None, E, obs)[0], expected, atol=1e-12)
    mesh = Sphere(*sphere.points((4, 7)).T)  # the same points, numbered
    flat = obs.replace(operator=lambda x: x[indices])
    numbered = method.replace(grid=mesh).analyze(None, E.reshape(5, 28), flat)[0]
    np.testing.assert_allclose(numbered.reshape(E.shape), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        (lambda: Sphere(np.array([95.0]), np.array([0.0])), da.DataError, r"\[-90, 90\] degrees, found 95"),
        (lambda: Sphere(np.zeros(3), np.zeros(4)), ShapeError, "must broadcast"),
        (lambda: Sphere(0.0, 0.0), ShapeError, "must broadcast"),
        (lambda: Sphere(np.zeros(3), np.array([0, np.nan, 0])), da.DataError, "longitude holds 1 entries"),
        (lambda: Sphere(np.zeros(3), np.zeros(3)).points((4,)), ShapeError, "points have shape"),
        (lambda: nearest_observations(Grid(), (4,), np.zeros((3, 2)), 1), ShapeError, r"expected \(m, 1\)"),
        (lambda: nearest_observations(Grid(), (4,), np.zeros((3, 1)), 0), ConfigurationError, "count"),
        (
            lambda: jax.jit(lambda p: nearest_observations(Grid(), (4,), p, 1))(np.zeros((3, 1))),
            ConfigurationError,
            "known outside",
        ),
        (
            lambda: da.LETKF(localization=GaspariCohn(1.0), nearest=jnp.zeros((3, 1), int)).analyze(
                None, ensemble(), observed(values())
            ),
            ShapeError,
            "the grid has 8 points",
        ),
    ],
)
def test_wrong_places_are_named(wrong, error, text):
    with pytest.raises(error, match=text):
        wrong()


@pytest.mark.slow
def test_missing_observations_take_no_place_among_the_neighbors():
    E, y = ensemble(), values()
    keep = np.array([1, 4, 6])
    masked = np.where(np.isin(np.arange(8), keep), y, np.nan)
    method = da.LETKF(localization=GaspariCohn(2.0), neighbors=2, batch=3)
    removed = observed(y[:, keep], operator=da.observations.Subset(jnp.asarray(keep)))
    first, second = (method.analyze(None, E, obs)[0] for obs in (observed(masked), removed))
    np.testing.assert_allclose(first, second, rtol=1e-12)


def test_new_places_are_not_traced_again():
    chex.clear_trace_counter()
    E, method = ensemble(), da.LETKF(localization=GaspariCohn(1.0))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def analysis(places, radius):
        obs = da.Observations(values()[:, :3], [0], da.observations.Interpolate(), STD, where=places)
        return method.replace(localization=GaspariCohn(radius)).analyze(None, E, obs)[0]

    first = analysis(jnp.array([[[0.2], [3.3], [6.1]]]), 1.0)
    assert not np.allclose(first, analysis(jnp.array([[[1.2], [3.0], [7.9]]]), 1.0))
    assert not np.allclose(first, analysis(jnp.array([[[0.2], [3.3], [6.1]]]), 2.0))


def test_new_neighbors_are_not_traced_again():
    chex.clear_trace_counter()
    E, shape = ensemble(), (8,)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def analysis(places, nearest):
        obs = da.Observations(values()[:, :3], [0], da.observations.Interpolate(), STD, where=places[None])
        return da.LETKF(localization=GaspariCohn(1.0), nearest=nearest).analyze(None, E, obs)[0]

    found = []
    for places in (jnp.array([[0.2], [3.3], [6.1]]), jnp.array([[1.2], [3.0], [7.9]])):
        found.append(analysis(places, nearest_observations(Grid(), shape, places, 2)))
    assert not np.allclose(*found)


@pytest.mark.slow
def test_with_infinite_radius_it_is_the_global_filter():
    E, key = ensemble(members=5), jax.random.key(0)
    obs = (observed(values(), 0.7), observed(values()[:, ::2], operator=da.observations.Subsample(2)))
    local = da.LETKF(1.1, True, GaspariCohn(jnp.inf)).analyze(key, E, obs)[0]
    np.testing.assert_allclose(local, da.ETKF(1.1, True).analyze(key, E, obs)[0], atol=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_fewer_observations_than_members(scale):
    """The roots of the observations' number are those of the members', and so are derivatives, where tapers end too."""
    rng = np.random.default_rng(0)
    N, m, places = 9, 4, 6
    S, d, X, dS = (jnp.asarray(rng.normal(size=(places, *s))) for s in ((N, m), (m,), (N, 2), (N, m)))
    S = scale * (S - S.mean(axis=1, keepdims=True))
    taper = jnp.asarray(rng.uniform(size=(places, m))).at[:, 1].set(0.0).at[2].set(0.0)
    rounding = 1e-11 + 1e-15 * scale**2
    mapped = [jax.jit(jax.vmap(f)) for f in (transformed_columns, etkf._in_members)]
    found, expected = (f(S, d, X, taper) for f in mapped)
    np.testing.assert_allclose(found, expected, rtol=0, atol=rounding)
    np.testing.assert_allclose(found[2], X[2], rtol=0, atol=1e-14)
    alone = transformed_columns(S[0], d[0], X[0], taper[0])
    np.testing.assert_allclose(alone, expected[0], rtol=0, atol=rounding)
    one = jnp.ones_like(taper)
    np.testing.assert_allclose(jax.vmap(transformed_columns)(S, d, X), mapped[1](S, d, X, one), rtol=0, atol=rounding)
    tangents = dS, d, X, jnp.ones_like(taper)
    a, b = (jax.jvp(f, (S, d, X, taper), tangents)[1] for f in mapped)
    assert np.isfinite(a).all()
    np.testing.assert_allclose(a, b, rtol=0, atol=(1e-13 + 1e-16 * scale**2) * np.abs(b).max())  # condition scale^2
    gradients = [
        jax.jit(jax.grad(lambda *x, f=f: jnp.sum(jnp.sin(f(*x))), argnums=(0, 1, 2, 3)))(S, d, X, taper) for f in mapped
    ]
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=(1e-13 + 1e-13 * scale**2) * np.abs(b).max())

    def second(f):  # by a factor of the tapers, of the derivative by the anomalies
        slope = jax.grad(lambda S, t: jnp.sum(jnp.sin(f(S, d[0], X[0], t * taper[0]))))
        return jax.jvp(lambda t: slope(S[0], t), (1.0,), (1.0,))[1]

    if scale == 1:
        np.testing.assert_allclose(second(transformed_columns), second(etkf._in_members), rtol=0, atol=1e-12)


@pytest.mark.parametrize("columns", [1, 6])
def test_gradients_with_few_observations_take_no_eigenvectors_of_the_members_size(columns):
    S, d, X, taper = jnp.ones((20, 3)), jnp.ones(3), jnp.ones((20, columns)), jnp.full(3, 0.5)
    loss = lambda *x: jnp.sum(transformed_columns(*x) ** 2)  # noqa: E731
    program = str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2, 3)))(S, d, X, taper))
    assert "eigh" in program and "f64[20,20]" not in program.replace("float64", "f64")


def test_far_from_all_observations_the_prior_stays():
    E = ensemble(sites=40)
    obs = observed(values()[:, :1], operator=da.observations.Subset(jnp.array([3])))
    posterior, _ = da.LETKF(localization=GaspariCohn(2.0)).analyze(None, E, obs)
    far = np.minimum(np.abs(np.arange(40) - 3), 40 - np.abs(np.arange(40) - 3)) > 2 * 2 * (10 / 3) ** 0.5
    np.testing.assert_allclose(posterior[:, far], E[:, far], rtol=1e-13)
    assert np.all(np.abs(posterior - E)[:, ~far].max(0) > 0)


@pytest.mark.slow
def test_operators_whose_places_are_unknown_need_them():
    E, method = ensemble(), da.LETKF(localization=GaspariCohn(1.0))
    known, _ = method.analyze(None, E, observed(values()))
    unknown = observed(values(), operator=lambda x: 1.0 * x)
    with pytest.raises(ConfigurationError, match="give `places`"):
        method.analyze(None, E, unknown)
    line = jnp.arange(8.0)[:, None]
    given, _ = method.replace(places=line).analyze(None, E, unknown)
    np.testing.assert_allclose(given, known, rtol=1e-13)
    mixed, _ = method.replace(places=(None, line)).analyze(None, E, (observed(values()), unknown))
    assert mixed.shape == E.shape
    with pytest.raises(ShapeError, match="does not fit values"):
        method.replace(places=line[:3]).analyze(None, E, unknown)
    with pytest.raises(ShapeError, match="1 streams of observations, but places for 2"):
        method.replace(places=(None, line)).analyze(None, E, unknown)


def test_what_cannot_be_localized_is_named():
    E, method = ensemble(), da.LETKF(localization=GaspariCohn(1.0))
    correlated = da.Observations(values(), [0], error=da.covariances.Dense.from_matrix(np.eye(8)))
    with pytest.raises(ConfigurationError, match="uncorrelated observation errors, found Dense"):
        method.analyze(None, E, correlated)
    method.analyze(None, E, correlated.replace(error=2.0 * da.covariances.Diagonal(std=1.0)))
    with pytest.raises(ConfigurationError, match="radius must be positive, but is 0"):
        GaspariCohn(0.0)
    with pytest.raises(ConfigurationError, match="without one use ETKF"):
        da.LETKF()
    with pytest.raises(ConfigurationError, match="batch=0"):
        da.LETKF(localization=GaspariCohn(1.0), batch=0)
    with pytest.raises(ShapeError, match="same 2 grid axes"):
        method.replace(grid=Grid(1.0, (True, True))).analyze(None, E, observed(values()))


@pytest.mark.parametrize("observed_every", [pytest.param(1, marks=pytest.mark.slow), 3], ids=["m > N", "local m < N"])
@pytest.mark.slow
def test_the_gradient_of_the_error_passes_through_many_cycles(observed_every):
    E, obs, truth = twin(list(range(1, 51)), members=8)
    operator = da.observations.Subsample(observed_every)
    obs = da.Observations(obs.values[:, ::observed_every], obs.steps, operator=operator, error=STD)

    def error(inflation, radius):
        method = da.LETKF(inflation, localization=GaspariCohn(radius))
        _, history = da.cycle(method, MODEL, E, obs)
        return jnp.mean(jnp.sqrt(jnp.mean((history.analysis.mean - truth[obs.steps]) ** 2, axis=1)))

    check_gradient(lambda inflation: error(inflation, 1.7), 1.05)
    check_gradient(lambda radius: error(1.05, radius), 1.7)
