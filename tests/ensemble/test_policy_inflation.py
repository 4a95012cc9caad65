"""Inflation by a policy: what zeros are, what an action does, bounds, sizes, cycles and their gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.ensemble import AdaptiveInflation, GaspariCohn, PolicyInflation, PriorInflation
from diffassim.ensemble.policy_inflation import FEATURES
from tests.ensemble.zoo import KEY, ensemble, observed, values

LOCAL = da.LETKF(localization=GaspariCohn(1.2))
MODEL = da.models.FunctionModel(lambda x, t: 1.02 * x)


class Fixed(da.core.pytree.Pytree):
    """The same action always."""

    action: jax.Array

    def __call__(self, features):
        return self.action.astype(features.dtype)


def fixed(*action):
    return Fixed(jnp.asarray(action))


def record(rows=4, **options):
    mask = np.ones((rows, 1), bool)
    mask[1] = False
    data = 2 * values(rows=rows)
    return da.Observations(data, np.arange(1, rows + 1), mask=mask, error=da.covariances.Diagonal(std=0.8), **options)


@pytest.mark.slow
@pytest.mark.parametrize("method", [da.ETKF(rotation=True), LOCAL, da.EnKFN(1.1)], ids=lambda m: type(m).__name__)
def test_zeros_are_the_adaptive_scheme_bit_by_bit(method):
    one, _ = da.cycle(AdaptiveInflation(method, shape=30.0), MODEL, ensemble(), record(), key=KEY)
    for policy in (None, fixed(*np.zeros(PolicyInflation(method).actions))):
        two, _ = da.cycle(PolicyInflation(method, policy, shape=30.0), MODEL, ensemble(), record(), key=KEY)
        assert np.array_equal(one.members, two.members) and one.factor == two.factor != 1
        assert two.analyses == 3 and two.bounded == 0  # one time is without observations


@pytest.mark.slow
def test_an_action_is_inflation_speed_and_radius():
    E, y = ensemble(), observed(values())
    found, info = PolicyInflation(LOCAL, fixed(0.6, -1.0, np.log(2.0))).analyze(KEY, E, y)
    expected, _ = da.LETKF(localization=GaspariCohn(2.4)).analyze(KEY, PriorInflation(np.exp(0.3)).before(E), y)
    np.testing.assert_allclose(found.members, expected, rtol=1e-12)
    plain, _ = PolicyInflation(LOCAL).analyze(KEY, E, y)
    slower, _ = AdaptiveInflation(LOCAL, shape=2 + 98 * np.e).analyze(KEY, E, y)
    np.testing.assert_allclose(found.factor, slower.factor, rtol=1e-12)
    assert abs(found.factor - 1) < abs(plain.factor - 1)
    np.testing.assert_allclose(found.contraction, info.analysis_spread / info.background_spread, rtol=1e-12)


@pytest.mark.slow
def test_the_exponent_is_one_of_the_adaptive_factor():
    E, y = ensemble(), observed(values())
    belief = PolicyInflation(da.ETKF()).init(E).replace(factor=jnp.asarray(1.3))
    found, _ = PolicyInflation(da.ETKF(), exponent=1.5).analyze(None, belief, y)
    expected, _ = da.ETKF().analyze(None, PriorInflation(1.3**0.75).before(E), y)
    np.testing.assert_allclose(found.members, expected, rtol=1e-12)
    plain, _ = PolicyInflation(da.ETKF()).analyze(None, belief, y)
    assert found.factor == plain.factor


@pytest.mark.slow
def test_bounds_hold_and_are_counted():
    E, y = ensemble(), observed(values())
    method = PolicyInflation(LOCAL, fixed(9.0, 0.0, 9.0), factors=(0.5, 3.0), radii=(0.5, 2.0))
    found, _ = method.analyze(KEY, E, y)
    expected, _ = da.LETKF(localization=GaspariCohn(2.4)).analyze(KEY, PriorInflation(3**0.5).before(E), y)
    np.testing.assert_allclose(found.members, expected, rtol=1e-12)
    assert found.bounded == 1 and method.analyze(KEY, found, y)[0].bounded == 2
    wild = PolicyInflation(da.ETKF(), fixed(jnp.nan, 0.0))
    lost, info = jax.jit(lambda E: wild.analyze(KEY, E, y))(E)
    assert info.result == da.Result.DIVERGED and not np.isfinite(lost.members).all()


@pytest.mark.slow
def test_features_do_not_depend_on_the_sizes_and_tell_what_they_say():
    E, data = ensemble(), values()
    method = PolicyInflation(da.ETKF())
    belief = method.init(E).replace(factor=jnp.asarray(1.3), analyses=jnp.asarray(100), level=jnp.asarray(0.1))
    mask = np.arange(8) % 2 == 0
    once = method.features(KEY, belief, observed(data, mask=mask[None]))
    wide = np.tile(mask, 5)[None]
    five = method.features(KEY, belief.replace(members=jnp.tile(E, (1, 5))), observed(np.tile(data, 5), mask=wide))
    np.testing.assert_allclose(once, five, rtol=1e-12)
    v = np.var(np.asarray(E), 0, ddof=1)[mask].mean() / 0.64
    q = np.mean(((data[0] - np.mean(E, 0)) / 0.8)[mask] ** 2)
    excess = np.arcsinh((q - 1 - 1.3 * v) / (1 + 1.3 * v))
    level = 0.1 + (np.log(1.3) - 0.1) / 32
    expected = [np.log(1.3), level, np.log(v + 1e-3), excess, excess / 2, excess / 8, excess / 32, 0.0, 0.5, 5**-0.5]
    assert len(FEATURES) == len(expected)
    np.testing.assert_allclose(once, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.slow
def test_what_lies_within_the_largest_radius_is_found_before_the_cycle():
    n = 300
    E = ensemble(sites=n)
    obs = da.Observations(values(rows=2, sites=n), [1, 2], error=da.covariances.Diagonal(std=0.8))
    wide = PolicyInflation(da.LETKF(localization=GaspariCohn(3.0)), fixed(0.0, 0.0, 9.0), radii=(0.4, 2.0))
    prepared, _ = wide.prepared(wide.init(E), (obs,))
    assert prepared.filter.nearest is not None and prepared.filter.localization.radius == 3.0
    found, _ = da.cycle(wide, MODEL, E, obs)
    plain = AdaptiveInflation(da.LETKF(localization=GaspariCohn(6.0)))
    expected, _ = da.cycle(plain, MODEL, E, obs)
    np.testing.assert_allclose(found.members, expected.members, rtol=1e-12)


@pytest.mark.slow
def test_a_cycle_goes_on_with_the_same_bits_and_is_differentiable():
    method = PolicyInflation(LOCAL, Fixed(jnp.array([0.1, 0.2, 0.3])))
    times = da.analysis_times(record())
    last, _ = da.cycle(method, MODEL, ensemble(), times)
    middle, first = da.cycle(method, MODEL, ensemble(), times[:2])
    end, _ = da.cycle(method, MODEL, middle, times[2:], start=first.step[-1])
    for a, b in zip(jax.tree.leaves(end), jax.tree.leaves(last), strict=True):
        assert np.array_equal(a, b)

    class Linear(da.core.pytree.Pytree):
        weights: jax.Array

        def __call__(self, features):
            return jnp.tanh(self.weights @ features)

    start = 0.05 * jax.random.normal(KEY, (3, len(FEATURES)))
    direction = jax.random.normal(jax.random.key(1), start.shape)

    def loss(s):
        steered = PolicyInflation(LOCAL, Linear(start + s * direction), shape=100.0 + 30 * s)
        end, history = da.cycle(steered, MODEL, ensemble() * (1 + s), record())
        return (
            jnp.sum(jnp.sin(history.analysis.mean)) + end.factor + jnp.sum(end.averages) + end.level + end.contraction
        )

    gradient, loss, h = jax.jit(jax.grad(loss)), jax.jit(loss), 1e-5
    np.testing.assert_allclose(gradient(0.0), (loss(h) - loss(-h)) / (2 * h), rtol=1e-6)
    many = jax.jit(jax.vmap(lambda a: da.cycle(PolicyInflation(LOCAL, Fixed(a)), MODEL, ensemble(), times)[0].members))
    found = many(jnp.stack([jnp.array([0.1, 0.2, 0.3]), jnp.zeros(3)]))
    np.testing.assert_allclose(found[0], last.members, rtol=1e-9)


@pytest.mark.slow
def test_single_precision_stays_single():
    E, y = ensemble(dtype=np.float32), observed(values(dtype=np.float32), np.float32(0.8))
    found, info = PolicyInflation(LOCAL, fixed(0.1, 0.1, 0.1)).analyze(None, E, y)
    kinds = {leaf.dtype.name for leaf in jax.tree.leaves((found, info)) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert kinds == {"float32"}


def test_what_cannot_be_is_named():
    for options, match in (
        ({"policy": 3.0}, "policy must be a function"),
        ({"shape": 1.0}, "above 2"),
        ({"exponent": 0.0}, "exponent must be finite and positive"),
        ({"factors": (2.0, 1.0)}, "least and the largest"),
        ({"radii": (0.0, 1.0)}, "must be finite and positive"),
        ({"factors": 2.0}, "least and the largest"),
    ):
        with pytest.raises(ConfigurationError, match=match):
            PolicyInflation(da.ETKF(), **options)
    with pytest.raises(ConfigurationError, match="must be an ensemble filter"):
        PolicyInflation(da.EKF())
    y = observed(values())
    with pytest.raises(ShapeError, match=r"needs actions of 3 components .*radius.* trained for another filter"):
        PolicyInflation(LOCAL, fixed(0.0, 0.0)).analyze(None, ensemble(), y)
    with pytest.raises(ShapeError, match="trained for another set"):
        PolicyInflation(da.ETKF(), lambda features: jnp.zeros((2, 4)) @ features).analyze(None, ensemble(), y)
    method = PolicyInflation(da.ETKF())
    with pytest.raises(ConfigurationError, match="factor must be finite and positive"):
        method.init(method.init(ensemble()).replace(factor=jnp.asarray(-1.0)))
    with pytest.raises(ShapeError, match="at least two members"):
        method.init(ensemble(members=1))
