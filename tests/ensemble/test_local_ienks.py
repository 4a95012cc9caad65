"""The iterative smoother with local analyses: its limits, domains that move, and the search of what is near."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.ensemble import GaspariCohn, LocalIEnKS

N, n = 7, 40
STD = da.covariances.Diagonal(std=1.0)
LORENZ = da.models.Lorenz96(dt=0.05)
SHIFT = da.models.FunctionModel(lambda x, t: jnp.roll(x, 1))
KEY = jax.random.key(0)
START = da.rollout(LORENZ, 8 + jax.random.normal(KEY, (n,)), 200, at=[200])[0]
E = START[None] + 0.5 * jax.random.normal(jax.random.key(1), (N, n))
VALUES = np.random.default_rng(2).normal(2, 2, size=(4, n))


def observed(rows, steps, **fields):
    return da.Observations(rows, steps, error=STD, **fields)


@pytest.mark.parametrize("options", [{}, {"bundle": 1e-4}, {"finite_size": 1.0}])
def test_without_a_taper_it_is_the_global_smoother(options):
    y = observed(VALUES[:3, ::2], [0, 1, 3], operator=da.observations.Subsample(2))
    ours = LocalIEnKS(localization=lambda r: jnp.ones_like(r), **options).analyze(None, LORENZ, E, y, 0, 3, [0, 3])
    other = da.IEnKS(**options).analyze(None, LORENZ, E, y, 0, 3, [0, 3])
    np.testing.assert_allclose(ours[1], other[1], atol=1e-9)
    assert int(ours[2].iterations) == int(other[2].iterations) > 2


@pytest.mark.ci
def test_domains_move_with_the_flow():
    # What is seen at step 2 was two points to the left: the LETKF of the values moved back.
    taper = GaspariCohn(3.0)
    moving = LocalIEnKS(localization=taper, velocity=1.0, batch=16, max_iterations=1)
    _, found, info = moving.analyze(None, SHIFT, E, observed(VALUES[:1], [2]), 0, 2, [0, 2])
    expected, _ = da.LETKF(localization=taper).analyze(None, E, observed(np.roll(VALUES[:1], -2, axis=1), [0]))
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-12)
    np.testing.assert_allclose(found[:, 1], jnp.roll(expected, 2, axis=1), atol=1e-12)
    assert info.result == da.Result.MAX_ITERATIONS and info.iterations == 1  # further ones see the joint trajectory
    staying = moving.replace(velocity=0.0).analyze(None, SHIFT, E, observed(VALUES[:1], [2]), 0, 2, [0, 2])[1]
    assert np.abs(staying - found).max() > 0.1
    # Between two steps: the place of the value's own time.
    y = observed(VALUES[:1], [1]).replace(fraction=jnp.array([1.0 - 1e-12]))
    between = moving.analyze(None, SHIFT, E, y, 0, 2, [0, 2])[1]
    np.testing.assert_allclose(between, found, atol=1e-9)


@pytest.mark.ci
def test_what_is_near_is_searched_once_and_changes_nothing():
    record = observed(VALUES, [1, 2, 4, 5])
    windows = da.split_windows(record, 3, 2)
    method = LocalIEnKS(localization=GaspariCohn(1.5), velocity=0.3, max_iterations=4)
    wide = jnp.concatenate([E] * 3, axis=1)
    rows = [da.split_windows(observed(np.tile(VALUES, (1, 3)), steps), 3, 2) for steps in ([1, 2, 4, 5], [1, 2, 4, 6])]
    (prepared, which), (other, numbers) = (method.prepared(wide, (windows,)) for windows in rows)
    assert prepared.nearest.shape[0] == 3 * n and prepared.nearest.shape[1] < 40 and which is None
    assert other.nearest.shape[0] == 2 and numbers.tolist() == [0, 1]  # steps (1, 2) and (1, 3): other places
    assert method.prepared(E, (windows,)) == (method, None)  # few values
    for windows in rows:
        _, history = da.cycle(method, LORENZ, wide, windows, steps=3, members=True)
        first = jax.tree.map(lambda leaf: leaf[0], windows)
        _, plain, _ = method.analyze(None, LORENZ, wide, first, 0, 3, [0, 3])
        np.testing.assert_allclose(history.members[0], np.swapaxes(plain, 0, 1), atol=1e-9)


@pytest.mark.slow
def test_gradients_pass():
    def score(theta):
        y = observed(VALUES[:2] * theta["y"], [1, 2])
        method = LocalIEnKS(localization=GaspariCohn(theta["radius"]), velocity=theta["velocity"], max_iterations=3)
        return jnp.mean(method.analyze(None, LORENZ, E, y, 0, 2, [0, 2])[1] ** 2)

    theta = {"y": 1.0, "radius": 4.0, "velocity": 0.25}
    gradient, h = jax.grad(score)(theta), 1e-5
    for name, value in theta.items():
        ends = [score(theta | {name: value + s * h}) for s in (1, -1)]
        np.testing.assert_allclose(gradient[name], (ends[0] - ends[1]) / (2 * h), rtol=1e-5, err_msg=name)


def test_bad_input_is_named():
    with pytest.raises(da.ConfigurationError, match=r"localization must be a taper .* without one use IEnKS"):
        LocalIEnKS()
    with pytest.raises(da.DataError, match="LocalIEnKS: velocity holds 1 non-finite"):
        LocalIEnKS(localization=GaspariCohn(1.0), velocity=np.nan)
    blind = LocalIEnKS(localization=GaspariCohn(1.0))
    with pytest.raises(da.ConfigurationError, match="give `places`"):
        blind.analyze(None, LORENZ, E, observed(VALUES[:1, :1], [0], operator=lambda x: x[:1]), 0, 1, [0])
