"""Serial and batch filters with localized covariances: what they agree with, and what the taper does."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.ensemble import EAKF, LETPF, GaspariCohn, LocalEnKF, SerialEnKF
from diffassim.grids import Sphere
from diffassim.grids.grid import Grid
from tests.cycling.test_ensemble import MODEL, check_gradient, twin
from tests.ensemble.zoo import KEY, ensemble, observed, values

TAPER = GaspariCohn(1.3)


@pytest.mark.parametrize("members", [4, 20])
def test_without_localization_the_members_are_those_of_the_square_root_filter(members):
    rng = np.random.default_rng(0)
    H, F = rng.normal(size=(5, 8)), rng.normal(size=(5, 5))
    error = da.covariances.Dense.from_matrix(F @ F.T / 5 + np.eye(5))
    obs = da.Observations(rng.normal(size=(1, 5)), [0], operator=da.observations.Linear(H), error=error)
    E = ensemble(members=members)
    expected, _ = da.EnSRF(1.1).analyze(None, E, obs)
    np.testing.assert_allclose(EAKF(1.1).analyze(None, E, obs)[0], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("method", [EAKF(1.1, True), SerialEnKF(1.1)], ids=lambda m: type(m).__name__)
def test_with_infinite_radius_it_is_the_global_filter(method):
    E = ensemble(members=5)
    obs = (observed(values(), 0.7), observed(values()[:, ::2], operator=da.observations.Subsample(2)))
    local = method.replace(localization=GaspariCohn(jnp.inf)).analyze(KEY, E, obs)[0]
    np.testing.assert_allclose(local, method.analyze(KEY, E, obs)[0], atol=1e-13)


@pytest.mark.slow
def test_with_infinite_radius_the_batch_filter_is_the_global_one():
    for members in (5, 20):
        E = ensemble(members=members)
        local = LocalEnKF(1.1, localization=GaspariCohn(jnp.inf)).analyze(KEY, E, observed(values()))[0]
        np.testing.assert_allclose(local, da.EnKF(1.1).analyze(KEY, E, observed(values()))[0], rtol=1e-11, atol=1e-12)


def serial_by_hand(E, y, H, std, places, grid, taper):
    """The adjustment filter of Anderson (2001, 2003) in NumPy; H is evaluated anew before each value."""
    N, shape = E.shape[0], E.shape[1:]
    points = grid.points(shape)
    E = np.array(E)
    for j in range(len(y)):
        h = np.array([H(x)[j] for x in E])
        prior, error = np.var(h, ddof=1), std[j] ** 2
        analysed = 1 / (1 / prior + 1 / error)
        center = analysed * (h.mean() / prior + y[j] / error)
        increments = center + np.sqrt(analysed / prior) * (h - h.mean()) - h
        rho = np.asarray(taper(grid.distance(places[j][None], points, shape))).reshape(shape)
        slope = np.tensordot(h - h.mean(), E - E.mean(0), 1) / (N - 1) / prior
        E = E + increments.reshape((-1,) + (1,) * len(shape)) * (rho * slope)[None]
    return E


@pytest.mark.parametrize("where", ["plane", "sphere"])
def test_the_adjustment_filter_is_the_published_one(where):
    rng = np.random.default_rng(3)
    if where == "plane":
        grid, shape = Grid((1.0, 2.0), (True, False)), (5, 6)
    else:
        grid, shape = Sphere(np.array([-80.0, -30.0, 30.0, 80.0])[:, None], 72 * np.arange(5.0), 2.0), (4, 5)
    E, chosen = rng.normal(size=(6, *shape)), np.array([3, 4, 11, 17])
    places = grid.points(shape)[chosen]
    y, std = rng.normal(size=4), rng.uniform(0.3, 1, size=4)
    error = da.covariances.Diagonal(std=std)
    obs = da.Observations(y[None], [0], lambda x: x.ravel()[chosen], error)
    method = EAKF(localization=TAPER, grid=grid, places=places)
    expected = serial_by_hand(E, y, lambda x: x.ravel()[chosen], std, places, grid, TAPER)
    np.testing.assert_allclose(method.analyze(None, E, obs)[0], expected, atol=1e-12)


@pytest.mark.slow
def test_the_batch_filter_has_the_localized_gain():
    rng = np.random.default_rng(4)
    E, y, places = rng.normal(size=(9, 8)), rng.normal(size=3), jnp.array([[0.4], [3.0], [6.7]])
    H = da.observations.Interpolate()
    obs = da.Observations(y[None], [0], H, da.covariances.Diagonal(std=0.7), where=places[None])
    posterior, _ = LocalEnKF(localization=TAPER).analyze(KEY, E, obs)
    X, h = E - E.mean(0), np.stack([H(x, places) for x in jnp.asarray(E)])
    Y, points = h - h.mean(0), np.arange(8.0)
    apart = lambda a, b: np.abs((a[:, None] - b[None] + 4) % 8 - 4)  # noqa: E731
    at = np.asarray(places).ravel()
    P_xy, P_yy = (A.T @ Y / 8 * np.asarray(TAPER(apart(p, at))) for A, p in ((X, points), (Y, at)))
    mean = E.mean(0) + P_xy @ np.linalg.solve(P_yy + 0.49 * np.eye(3), y - h.mean(0))
    np.testing.assert_allclose(posterior.mean(0), mean, atol=1e-12)
    one = obs.replace(values=obs.values[:, :1], mask=obs.mask[:, :1], where=places[None, :1])
    serial, batch = (m.analyze(KEY, E, one)[0] for m in (SerialEnKF(localization=TAPER), LocalEnKF(localization=TAPER)))
    np.testing.assert_allclose(serial.mean(0), batch.mean(0), atol=1e-12)
    assert np.abs(serial - batch).max() > 0.01  # other draws


@pytest.mark.parametrize("method", [EAKF(), LocalEnKF(localization=TAPER)], ids=lambda m: type(m).__name__)
def test_new_places_and_radii_are_not_traced_again(method):
    chex.clear_trace_counter()
    E = ensemble()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def analysis(places, radius):
        obs = da.Observations(
            values()[:, :3], [0], da.observations.Interpolate(), da.covariances.Diagonal(std=1.0), where=places
        )
        return method.replace(localization=GaspariCohn(radius)).analyze(KEY, E, obs)[0]

    first = analysis(jnp.array([[[0.2], [3.3], [6.1]]]), 1.0)
    assert not np.allclose(first, analysis(jnp.array([[[1.2], [3.0], [7.9]]]), 1.0))
    assert not np.allclose(first, analysis(jnp.array([[[0.2], [3.3], [6.1]]]), 2.0))


@pytest.mark.parametrize("method", [EAKF, SerialEnKF, LocalEnKF])
def test_far_from_all_observations_the_prior_stays(method):
    E = ensemble(sites=40)
    obs = observed(values()[:, :1], operator=da.observations.Subset(jnp.array([3])))
    posterior, _ = method(localization=GaspariCohn(2.0)).analyze(KEY, E, obs)
    far = np.minimum(np.abs(np.arange(40) - 3), 40 - np.abs(np.arange(40) - 3)) > 2 * 2 * (10 / 3) ** 0.5
    np.testing.assert_allclose(posterior[:, far], E[:, far], rtol=1e-13)
    assert np.all(np.abs(posterior - E)[:, ~far].max(0) > 0)


@pytest.mark.parametrize("method", [EAKF, LocalEnKF])
def test_a_missing_value_may_have_no_place(method):
    y, places = values()[:, :3], jnp.array([[0.5], [jnp.nan], [6.0]])
    obs = observed(y, mask=np.arange(3) != 1, operator=lambda x: x[jnp.array([0, 3, 6])])

    @jax.jit
    @jax.value_and_grad
    def score(radius, places):
        local = method(localization=GaspariCohn(radius), places=places)
        return jnp.sum(local.analyze(KEY, ensemble(), obs)[0] ** 2)

    chex.assert_trees_all_close(score(1.4, places), score(1.4, jnp.nan_to_num(places, nan=3.0)), rtol=1e-14)


def test_what_cannot_be_localized_is_named():
    E, correlated = ensemble(), da.Observations(values(), [0], error=da.covariances.Dense.from_matrix(np.eye(8)))
    for method in (EAKF, SerialEnKF, LocalEnKF):
        name = method.__name__
        with pytest.raises(ConfigurationError, match=f"{name}: a local analysis needs uncorrelated"):
            method(localization=TAPER).analyze(KEY, E, correlated)
        with pytest.raises(ConfigurationError, match="give `places`"):
            method(localization=TAPER).analyze(KEY, E, observed(values(), operator=lambda x: 1.0 * x))
        with pytest.raises(ShapeError, match=f"{name}: all leaves of the state need the same 2 grid axes"):
            method(localization=TAPER, grid=Grid(1.0, (True, True))).analyze(KEY, E, observed(values()))
        with pytest.raises(ConfigurationError, match=f"{name}: localization must be a taper"):
            method(localization=4.0).analyze(KEY, E, observed(values()))
    with pytest.raises(ConfigurationError, match="without one use EnKF"):
        LocalEnKF()
    EAKF().analyze(None, E, correlated)  # without localization it may be correlated


@pytest.mark.parametrize("method", [EAKF, LocalEnKF])
@pytest.mark.slow
def test_the_gradient_of_a_score_to_the_radius_passes_through_cycles(method):
    """Three values of twelve and eight members: fewer observations than members at every point."""
    E, obs, truth = twin(list(range(1, 9)), members=8)
    operator = da.observations.Subsample(4)
    obs = da.Observations(obs.values[:, ::4], obs.steps, operator=operator, error=obs.error)

    def error(radius):
        _, history = da.cycle(method(1.05, localization=GaspariCohn(radius)), MODEL, E, obs, key=KEY)
        return jnp.mean(jnp.sqrt(jnp.mean((history.analysis.mean - truth[obs.steps]) ** 2, axis=1)))

    check_gradient(error, 1.7)


@pytest.mark.parametrize("method", [EAKF, LocalEnKF, LETPF])
def test_companions_on_the_same_grid_are_moved_with_the_members(method):
    E = ensemble()
    local = method(localization=TAPER)
    posterior, companions, _ = local.analyze_with(KEY, E, jnp.stack([2 * E, E + 1], axis=1), observed(values()))
    expected = jnp.stack([2 * posterior, posterior + 1], axis=1)
    np.testing.assert_allclose(companions, expected, rtol=1e-12, atol=1e-12)
