"""Parameters in the state of a model, by path and within bounds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, DataError
from diffassim.core.paths import replace_at
from diffassim.covariances import Blocks, Diagonal, Zero
from diffassim.models import FunctionModel, Lorenz63, WithParameters
from diffassim.observations import Field

PARTS = {"of": Lorenz63(), "shift": jnp.zeros(3)}
NESTED = FunctionModel(lambda x, t, a: a["of"].step(x, t) + a["shift"], arguments=PARTS)
RHO, SHIFT = "arguments.of.rho", "arguments.shift"
MODEL = WithParameters(NESTED, (RHO, SHIFT), bounds={RHO: (20.0, 30.0), SHIFT: (-np.inf, 0.5)})
X = jnp.array([1.5, -1.5, 25.0])


def test_a_step_is_that_of_the_model_with_these_values():
    values = {RHO: 21.0, SHIFT: jnp.array([0.1, -4.0, 0.4])}
    state = MODEL.augmented(X, values)
    after = MODEL.step(state, 0)
    np.testing.assert_allclose(after["state"], replace_at(NESTED, values).step(X, 0), rtol=1e-12)
    found = MODEL.values(after)
    np.testing.assert_allclose(found[RHO], 21.0, rtol=1e-12)
    np.testing.assert_allclose(found[SHIFT], values[SHIFT], rtol=1e-12)
    own = MODEL.augmented(X)["parameters"]  # the model's own values are held as they are
    assert own[RHO] == 28.0 and not np.any(own[SHIFT])


def test_members_have_values_of_their_own_and_any_number_is_within_bounds():
    members = MODEL.augmented(jnp.stack([X, X]), {RHO: jnp.array([21.0, 29.9]), SHIFT: jnp.zeros((2, 3))})
    np.testing.assert_allclose(MODEL.values(members)[RHO], [21.0, 29.9], rtol=1e-12)
    far = jax.tree.map(lambda leaf: 1e3 * np.asarray(leaf) - 5e4, members)
    found = jax.jit(MODEL.values)(far)
    assert np.all(found[RHO] >= 20) and np.all(found[RHO] <= 30) and np.all(found[SHIFT] <= 0.5)
    names = jax.tree.leaves(MODEL.variables()["parameters"], is_leaf=lambda v: hasattr(v, "units"))
    assert [v.long_name for v in names] == ["relative Rayleigh number", SHIFT]


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: WithParameters(NESTED, ("arguments.of.roh",)), ConfigurationError, "it has arguments.of.rho"),
        (lambda: WithParameters(NESTED, ()), ConfigurationError, "name at least one path"),
        (lambda: WithParameters(NESTED, RHO, {SHIFT: (0, 1)}), ConfigurationError, "which is none of arguments.of.rho"),
        (lambda: WithParameters(NESTED, (RHO,), {RHO: (28, 30)}), DataError, "the value 28.0 does not lie inside"),
        (lambda: MODEL.augmented(X, {"rho": 3.0}), ConfigurationError, "'rho' is none of the parameters"),
        (lambda: MODEL.augmented(X, {RHO: 31.0}), DataError, "the value 31.0 does not lie inside"),
    ],
)
def test_bad_input_is_named(build, error, message):
    with pytest.raises(error, match=message):
        build()


@pytest.mark.slow
def test_a_filter_finds_a_parameter_within_its_bounds():
    inner = FunctionModel(lambda x, t, a: a["of"].step(x, t), 0.02, {"of": Lorenz63(dt=0.02)})
    model = WithParameters(inner, (RHO,), {RHO: (20.0, 29.0)})
    steps, draws = np.arange(10, 800, 10), np.random.default_rng(0)
    truth = da.rollout(Lorenz63(dt=0.02, rho=26.0), X, 800)
    y = da.Observations(truth[steps] + 0.5 * draws.normal(size=(79, 3)), steps, Field("state"), Diagonal(std=0.5))
    ensemble = model.augmented(X[None] + draws.normal(size=(30, 3)), {RHO: draws.uniform(21, 28, size=30)})
    Q = Blocks({"state": Zero(), "parameters": {RHO: Diagonal(std=0.05)}})
    found = model.values(da.cycle(da.ETKF(Q=Q), model, ensemble, y, key=jax.random.key(0))[0])[RHO]
    assert abs(float(found.mean()) - 26) < 3 * float(found.std()) < 2 and np.all((found > 20) & (found < 29))
