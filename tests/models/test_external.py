"""Models called back from compiled code are the models they stand for, as far as they have derivatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.diagnostics import check_model
from diffassim.models import EnsembleTangent, ExternalModel, Lorenz96, WithParameters, rollout
from tests.models.numpy_lorenz96 import adjoint, step, tangent

OURS = Lorenz96()
RNG = np.random.default_rng(0)
N = 8
X = 8.0 + jnp.asarray(RNG.normal(size=N))
W = jnp.asarray(RNG.normal(size=N))
WHOLE = ExternalModel(step, dt=0.05, tangent=tangent, adjoint=adjoint, batched=True)
PLAIN = ExternalModel(step, dt=0.05)


def score(model, x, steps=3):
    return jnp.vdot(W, rollout(model, x, steps)[-1] ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("batched", [False, True])
def test_members_of_an_etkf_cycle_are_those_of_the_model_in_jax(batched):
    y = da.Observations(RNG.normal(8.0, 1.0, (3, N)), [2, 4, 6], error=da.covariances.Diagonal(std=1.0))
    members = X[None] + jnp.asarray(RNG.normal(size=(6, N)))
    found, _ = da.cycle(da.ETKF(), PLAIN.replace(batched=batched), members, y)
    np.testing.assert_allclose(found, da.cycle(da.ETKF(), OURS, members, y)[0], rtol=0, atol=1e-12)


def test_all_members_come_in_one_call():
    shapes = []

    def counting(x, t):
        shapes.append(x.shape)
        return 2 * x

    both = jax.jit(jax.vmap(jax.vmap(lambda x: ExternalModel(counting, batched=True).step(x, 0))))
    assert jnp.array_equal(both(jnp.ones((3, 4, 2))), 2 * jnp.ones((3, 4, 2)))
    assert shapes == [(12, 2)]


@pytest.mark.parametrize("batched", [False, True])
def test_members_may_be_at_different_times(batched):
    model = ExternalModel(lambda x, t: x + t, batched=batched)
    found = jax.vmap(model.step, (None, 0))(jnp.zeros(2), jnp.array([3, 1, 3]))
    assert found.tolist() == [[3.0, 3.0], [1.0, 1.0], [3.0, 3.0]]


def test_given_derivatives_are_those_of_autodiff():
    expected = jax.grad(lambda x: score(OURS, x))(X)
    for model in (WHOLE, ExternalModel(step, adjoint=adjoint)):
        np.testing.assert_allclose(jax.grad(lambda x, m=model: score(m, x))(X), expected, rtol=1e-12)
    along = [jax.jvp(lambda x, m=m: rollout(m, x, 3)[-1], (X,), (W,))[1] for m in (WHOLE, OURS)]
    np.testing.assert_allclose(*along, rtol=1e-12)
    tangent_only = ExternalModel(step, tangent=tangent)
    np.testing.assert_allclose(jax.jvp(lambda x: rollout(tangent_only, x, 3)[-1], (X,), (W,))[1], along[1], rtol=1e-12)


@pytest.mark.slow
def test_single_precision_stays_single():
    x = X.astype(jnp.float32)
    assert WHOLE.step(x, 0).dtype == jnp.float32
    found = jax.grad(lambda x: jnp.sum(WHOLE.step(x, 0) ** 2))(x)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, jax.grad(lambda x: jnp.sum(OURS.step(x, 0) ** 2))(x), rtol=1e-5)


def test_differences_along_all_directions_are_the_jacobian():
    model = PLAIN.replace(linearization=EnsembleTangent(1e-4 * jnp.eye(N)))
    expected = jax.grad(lambda x: score(OURS, x))(X)
    np.testing.assert_allclose(jax.grad(lambda x: score(model, x))(X), expected, rtol=1e-6)  # of second order in 1e-4
    assert check_model(model, X).passed


def test_differences_of_a_linear_model_are_exact_in_their_span_and_zero_across():
    A, P = RNG.normal(size=(N, N)), RNG.normal(size=(3, N))
    model = ExternalModel(lambda x, t: A @ x, linearization=EnsembleTangent(jnp.asarray(P)))
    jacobian = jax.jacobian(lambda x: model.step(x, 0))(X)
    np.testing.assert_allclose(jacobian, A @ np.linalg.pinv(P) @ P, rtol=0, atol=1e-11)


@pytest.mark.slow
@pytest.mark.long
def test_4dvar_finds_the_same_minimum():
    y = da.Observations(RNG.normal(8.0, 1.0, (2, N)), [2, 4], error=da.covariances.Diagonal(std=1.0))
    B = da.covariances.Diagonal(std=1.0)
    expected = da.minimize(da.StrongConstraint4DVar(OURS, X, B, y)).state
    cost = da.StrongConstraint4DVar(WHOLE, X, B, y)
    np.testing.assert_allclose(da.minimize(cost).state, expected, atol=1e-7)
    with pytest.raises(ConfigurationError, match="second derivatives"):
        jax.grad(lambda x: da.minimize(cost.replace(background=x)).state.sum())(X)
    with pytest.raises(ConfigurationError, match="LBFGS"):
        da.minimize(cost.replace(model=ExternalModel(step, adjoint=adjoint)))


def test_without_derivatives_methods_that_need_them_say_what_does_without():
    y = da.Observations(jnp.ones((1, N)), [1], error=da.covariances.Diagonal(std=1.0))
    cost = da.StrongConstraint4DVar(PLAIN, X, da.covariances.Diagonal(std=1.0), y)
    for method in (da.GaussNewton(), da.LBFGS()):
        with pytest.raises(ConfigurationError, match="ETKF"):
            da.minimize(cost, method)
    with pytest.raises(ConfigurationError, match="ETKF"):
        da.cycle(da.EKF(), PLAIN, da.gaussian.Gaussian(X, jnp.eye(N)), y)
    with pytest.raises(ConfigurationError, match="only the tangent"):
        jax.grad(lambda x: score(ExternalModel(step, tangent=tangent), x))(X)
    with pytest.raises(ConfigurationError, match="second derivative"):
        jax.hessian(lambda x: jnp.sum(WHOLE.step(x, 0)))(X)


def test_arguments_differ_between_members_and_have_no_derivative():
    model = ExternalModel(lambda x, t, rate: rate * x, arguments=jnp.asarray(2.0))
    assert model.step(X, 0).tolist() == (2 * X).tolist()
    augmented = {"state": jnp.ones((2, 3)), "parameters": {"arguments": jnp.array([3.0, 5.0])}}
    stepped = jax.vmap(lambda x: WithParameters(model, ("arguments",)).step(x, 0))(augmented)
    assert stepped["state"].tolist() == [[3.0] * 3, [5.0] * 3]
    with pytest.raises(ConfigurationError, match="arguments"):
        jax.grad(lambda m: jnp.sum(m.step(X, 0)))(model)


def test_states_may_be_pytrees_and_functions_may_overwrite_what_they_get():
    def swap(x, t):
        x["a"] *= 2
        return {"a": x["b"], "b": x["a"]}

    x = {"a": jnp.ones(()), "b": jnp.full((), 3.0)}
    found = rollout(ExternalModel(swap).checked(x), x, 2)
    assert found["a"].tolist() == [1.0, 3.0, 2.0] and found["b"].tolist() == [3.0, 2.0, 6.0]


def test_what_a_function_may_not_return():
    for wrong in (lambda x, t: x[:3], lambda x, t: None, lambda x, t: {"x": x}):
        with pytest.raises(ShapeError, match="function must return"):
            ExternalModel(wrong).checked(X)
    with pytest.raises(DataError, match="complex"):
        ExternalModel(lambda x, t: x + 1j).checked(X)
    with pytest.raises(DataError, match="not finite"):
        ExternalModel(lambda x, t: x * np.nan).checked(X)
    noise = np.random.default_rng(0)
    with pytest.raises(ConfigurationError, match="different results"):
        ExternalModel(lambda x, t: x + noise.normal(size=N)).checked(X)
    with pytest.raises(ConfigurationError, match="two equal members"):
        ExternalModel(lambda x, t: x * np.arange(1.0, 1 + len(x))[:, None], batched=True).checked(X)


def test_settings_that_cannot_be():
    with pytest.raises(ConfigurationError, match="function must be"):
        ExternalModel(3.0)
    with pytest.raises(ConfigurationError, match="not both"):
        ExternalModel(step, tangent=tangent, linearization=EnsembleTangent(jnp.eye(N)))
    with pytest.raises(ConfigurationError, match="EnsembleTangent"):
        ExternalModel(step, linearization=jnp.eye(N))
    with pytest.raises(ShapeError, match="perturbations"):
        PLAIN.replace(linearization=EnsembleTangent(jnp.eye(N + 1))).step(X, 0)
    with pytest.raises(ConfigurationError, match="floating-point"):
        jax.grad(lambda x: WHOLE.step({"x": x, "n": jnp.ones(N, int)}, 0)["x"].sum())(X)


def test_a_callback_of_another_kind_is_refused_by_name():
    def raw(x, t):
        return jax.pure_callback(lambda x: 2 * x, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    y = da.Observations(jnp.ones((1, N)), [1], error=da.covariances.Diagonal(std=1.0))
    cost = da.StrongConstraint4DVar(da.models.FunctionModel(raw), X, da.covariances.Diagonal(std=1.0), y)
    with pytest.raises(ConfigurationError, match="pure_callback"):
        da.minimize(cost)
