"""What every model has to fulfil."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim import models
from diffassim.core import tree
from diffassim.diagnostics import check_adjoint, check_gradient
from diffassim.models import Model, Parameter, Variable, rollout
from tests.models.zoo import MODELS

NAMES = [entry.name for entry in MODELS]
every_model = pytest.mark.parametrize("entry", MODELS, ids=NAMES)
KEY = jax.random.key(0)


def test_every_public_model_is_in_the_zoo():
    public = {thing for thing in vars(models).values() if isinstance(thing, type) and issubclass(thing, Model)}
    assert public - {Model, models.SpectralModel} <= {type(entry.model) for entry in MODELS}


def assert_close(a, b, rtol=1e-12):
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(b))
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=0, atol=rtol * scale), a, b)


def cost(entry, steps=4):
    """A function of a trajectory that no model conserves."""
    rows = jnp.asarray([0, 2, steps])

    def weighted_squares(leaf):
        return jnp.sum((1 + 0.5 * jnp.cos(jnp.arange(float(leaf.size)))) * jnp.square(leaf.ravel()))

    return lambda x, model=entry.model: sum(
        map(weighted_squares, jax.tree.leaves(rollout(model, x, steps, at=rows))), start=0.0
    )


@every_model
def test_a_step_keeps_structure_shape_and_dtype(entry):
    for dtype in (jnp.float32, jnp.float64):
        x = entry.example_state(dtype, KEY)
        y = jax.jit(lambda model, x: model.step(x, 0))(entry.model, x)
        assert jax.tree.structure(x) == jax.tree.structure(y)
        for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype == dtype
        assert bool(tree.all_finite(y))


@every_model
def test_single_precision_agrees_with_double(entry):
    x = entry.example_state(jnp.float32, KEY)
    exact = entry.model.step(jax.tree.map(lambda leaf: leaf.astype(jnp.float64), x), 0)
    assert_close(jax.jit(lambda x: entry.model.step(x, 0))(x), exact, rtol=2e-6)


@every_model
def test_the_metadata_fits_the_state_and_the_parameters_are_fields(entry):
    x = entry.example_state(jnp.float64, KEY)
    variables = entry.model.variables()
    described = jax.tree.leaves(variables, is_leaf=lambda v: isinstance(v, Variable))
    assert len(described) == len(jax.tree.leaves(x))
    for variable, leaf in zip(described, jax.tree.leaves(x), strict=True):
        assert isinstance(variable, Variable) and len(variable.dims) == leaf.ndim
        assert variable.name and variable.units and variable.long_name
    for name, parameter in entry.model.parameters.items():
        assert isinstance(parameter, Parameter) and parameter.long_name
        low, high = parameter.bounds
        assert low < high and np.all(np.asarray(getattr(entry.model, name)) >= low)
        assert np.all(np.asarray(getattr(entry.model, name)) <= high)


@every_model
def test_jit_and_vmap_agree_with_the_plain_step(entry):
    x = entry.example_state(jnp.float64, KEY)
    y = entry.model.step(x, 0)
    assert_close(jax.jit(lambda x: entry.model.step(x, 0))(x), y)
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), x)
    both = jax.jit(jax.vmap(lambda x: entry.model.step(x, 0)))(batch)
    assert_close(jax.tree.map(lambda leaf: leaf[0], both), y)


@every_model
def test_new_parameter_values_do_not_recompile(entry):
    traces = []

    @jax.jit
    def run(model, x):
        traces.append(0)
        return model.step(x, 0)

    x = entry.example_state(jnp.float64, KEY)
    run(entry.model, x)
    run(jax.tree.map(lambda leaf: 1.01 * leaf, entry.model), x)
    assert len(traces) == 1


@every_model
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_adjoint_of_a_rollout(entry, dtype):
    x = entry.example_state(jnp.dtype(dtype), KEY)
    report = check_adjoint(lambda x: rollout(entry.model, x, 5, at=jnp.asarray([2, 5])), x)
    assert report.passed, str(report)


@pytest.mark.parametrize("factor", [1.01, -1.0])
def test_a_wrong_adjoint_is_caught(factor):
    entry = MODELS[0]
    x = entry.example_state(jnp.float64, KEY)
    run = jax.jit(lambda x: rollout(entry.model, x, 5))
    assert not check_adjoint(run, x, adjoint=lambda w: factor * jax.vjp(run, x)[1](w)[0]).passed


@every_model
def test_gradient_with_respect_to_state_and_parameters(entry):
    x, function = entry.example_state(jnp.float64, KEY), cost(entry)
    report = check_gradient(function, x, largest_step=3e-4)
    assert report.passed and report.slopes, str(report)
    model = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), entry.model)
    report = check_gradient(lambda model: function(x, model), model, largest_step=1e-4)
    assert report.passed, str(report)


@pytest.mark.parametrize("entry", [e for e in MODELS if e.twice], ids=[e.name for e in MODELS if e.twice])
@pytest.mark.slow
def test_second_derivatives_are_symmetric_and_agree_between_modes(entry):
    x, function = entry.example_state(jnp.float64, KEY), cost(entry)
    u, v = (entry.example_state(jnp.float64, key) for key in jax.random.split(KEY))
    forward_over_reverse = jax.jit(lambda x, u: jax.jvp(jax.grad(function), (x,), (u,))[1])
    reverse_over_forward = jax.jit(jax.grad(lambda x, u: jax.jvp(function, (x,), (u,))[1]))
    Hu, Hv = forward_over_reverse(x, u), forward_over_reverse(x, v)
    np.testing.assert_allclose(tree.dot(v, Hu), tree.dot(u, Hv), rtol=1e-11)  # sums of terms of both signs
    assert_close(reverse_over_forward(x, u), Hu, rtol=1e-11)


@pytest.mark.parametrize("name", ["Lorenz63", "Lorenz96"])
@pytest.mark.slow
def test_reverse_over_reverse_agrees_with_forward_over_reverse(name):
    entry = next(e for e in MODELS if e.name == name)
    x, u, function = entry.example_state(jnp.float64, KEY), entry.example_state(jnp.float64, KEY), cost(entry, 3)
    Hu = jax.jit(lambda x, u: jax.jvp(jax.grad(function), (x,), (u,))[1])(x, u)
    again = jax.jit(jax.grad(lambda x, u: tree.dot(jax.grad(function)(x), u)))(x, u)
    assert_close(again, Hu, rtol=1e-11)  # sums of terms of both signs
