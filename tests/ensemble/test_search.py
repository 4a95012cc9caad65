"""What is searched outside of traced code gives what all pairs give, and is found by default."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.ensemble import EAKF, LETKF, LETKFN, LETPF, LNETF, GaspariCohn, RankHistogramFilter, SerialEnKF
from tests.ensemble.zoo import KEY

SITES, N = 160, 5
TAPER = GaspariCohn(1.5)
STILL = da.models.FunctionModel(lambda x, t: x)
STD = da.covariances.Diagonal(std=0.7)
METHODS = [c(1.1, localization=TAPER) for c in (LETPF, SerialEnKF)] + [
    pytest.param(c(1.1, localization=TAPER), marks=pytest.mark.slow)
    for c in (LETKF, LETKFN, LNETF, EAKF, RankHistogramFilter)
]
rng = np.random.default_rng(3)
MEMBERS = jnp.asarray(rng.normal(size=(N, SITES)))
VALUES = rng.normal(size=(3, SITES))
VALUES[0, 7] = np.nan
RECORD = da.Observations(VALUES, [1, 2, 3], error=STD)
PLACES = rng.uniform(0, SITES, size=(3, SITES, 1))
PLACES[1] = PLACES[0]  # two sets of places for three times
MOVING = RECORD.replace(operator=da.observations.Interpolate(), where=PLACES)
by_all_pairs = jax.jit(lambda method, ensemble, y: method.analyze(KEY, ensemble, y)[0])


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_the_search_is_the_default_and_changes_nothing(method):
    y = da.Observations(VALUES[:1], [0], error=STD)
    prepared, numbers = method.prepared(MEMBERS, (y,))
    assert numbers is None and all(leaf.shape[1] < 20 for leaf in jax.tree.leaves(prepared.nearest))
    found = method.analyze(KEY, MEMBERS, y)[0]
    np.testing.assert_allclose(found, by_all_pairs(method, MEMBERS, y), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", [LETKF(localization=TAPER, batch=32), EAKF(localization=TAPER)])
@pytest.mark.parametrize("record", [pytest.param(RECORD, marks=pytest.mark.slow), MOVING], ids=["fixed", "moving"])
def test_so_it_is_along_a_cycle(method, record):
    _, numbers = method.prepared(MEMBERS, (record,), [np.arange(3)[:, None]], [np.ones((3, 1), bool)])
    assert (numbers is None) if record is RECORD else numbers.tolist() == [0, 0, 1]
    found, _ = da.cycle(da.ensemble.EnKS(method, lag=1), STILL, MEMBERS, record)
    expected = MEMBERS
    for k in range(3):
        row = jax.tree.map(lambda leaf, k=k: leaf[k : k + 1], (record.values, record.mask, record.where))
        y = da.Observations(row[0], [0], record.operator, STD, mask=row[1], where=row[2])
        expected = by_all_pairs(method, expected, y)
    np.testing.assert_allclose(found.members[:, 0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_so_it_is_in_windows():
    method = da.AsynchronousFilter(LETKF(localization=TAPER))
    windows = da.split_windows(MOVING, steps=3, count=1)
    prepared, numbers = method.prepared(MEMBERS, (windows,))
    assert numbers is None and prepared.filter.nearest.shape[0] == SITES
    found, _ = da.cycle(method, STILL, MEMBERS, windows, steps=3)
    y = da.Observations(VALUES.reshape(1, -1), [0], MOVING.operator, STD, where=PLACES.reshape(1, -1, 1))
    np.testing.assert_allclose(found, by_all_pairs(method.filter, MEMBERS, y), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("method", [LETKF(localization=TAPER, batch=2), EAKF(localization=TAPER)])
def test_derivatives_are_those_of_all_pairs(method):
    y = da.Observations(VALUES[:1], [0], error=STD)
    prepared, _ = method.prepared(MEMBERS, (y,))

    def score(radius, scale, method):
        method = method.replace(localization=GaspariCohn(radius))
        return jnp.sum(method.analyze(None, scale * MEMBERS, y)[0] ** 2)

    found, expected = (jax.grad(score, (0, 1))(1.5, 1.0, which) for which in (prepared, method))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_where_it_does_not_pay_or_is_not_known_all_pairs_remain():
    y = da.Observations(VALUES[:1], [0], error=STD)
    for method in (
        LETKF(localization=GaspariCohn(30.0)),
        LETKF(localization=GaspariCohn(jnp.inf)),
        LETKF(localization=TAPER.__call__),
    ):
        assert method.prepared(MEMBERS, (y,))[0].nearest is None
    unknown = y.replace(operator=lambda x: 1.0 * x)
    assert LETKF(localization=TAPER).prepared(MEMBERS, (unknown,))[0].nearest is None
