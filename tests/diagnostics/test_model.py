"""What is wrong with a model is named, down to the operation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import diffassim as da
from diffassim.diagnostics import check_model
from diffassim.models import FunctionModel


@jax.custom_vjp
def backward_only(x):
    return 0.9 * x


backward_only.defvjp(lambda x: (backward_only(x), None), lambda _, g: (0.9 * g,))


def roots(x, t):
    return jax.lax.scan(lambda c, _: (jnp.sqrt(c - 0.5), None), x, None, length=5)[0]


def cooled(x, t):
    return x + jnp.where(x > 0, jnp.sqrt(x), 0.0)


@pytest.mark.parametrize(
    ("step", "x", "words"),
    [
        (lambda x, t: x + jnp.linalg.norm(x), jnp.zeros(3), ("adjoint of step 0", "`sqrt`", "test_model.py")),
        (lambda x, t: jnp.log(x), jnp.array([0.5]), ("not finite after step 1", "`log`", "-0.693")),
        (cooled, jnp.array([-1.0, 1.0]), ("adjoint", "`sqrt` at test_model.py", "(cooled)")),
        (roots, jnp.array([0.9]), ("step 0", "scan (turn 2) > sqrt")),
        (lambda x, t: x[:1], jnp.ones(2), ("shape and dtype",)),
        (lambda x, t: {"x": x}, jnp.ones(2), ("structure",)),
        (lambda x, t: jax.lax.while_loop(lambda c: c[0] < 3, lambda c: c + 1, x), jnp.zeros(1), ("reverse-mode",)),
        (lambda x, t: x + jnp.round(x), jnp.array([0.4999999999]), ("differences",)),
        (lambda x, t: x * jax.lax.stop_gradient(x), jnp.array([2.0]), ("differences",)),
    ],
)  # fmt: skip
def test_problems_are_named(step, x, words):
    report = check_model(FunctionModel(step), x, steps=2)
    assert not report.passed
    assert all(word in str(report) for word in words), str(report)


def test_a_sound_model_passes():
    report = check_model(da.models.Lorenz96(), 8 + jnp.sin(jnp.arange(40.0)), steps=2)
    assert report.passed, str(report)
    assert not report.remarks


def test_a_model_without_forward_mode_is_sound_and_says_who_can_use_it():
    report = check_model(FunctionModel(lambda x, t: backward_only(x)), jnp.ones(2))
    assert report.passed
    assert "LBFGS" in report.remarks[0]


def test_leaves_that_are_not_floating_are_left_out():
    model = FunctionModel(lambda s, t: {"x": 0.5 * s["x"], "n": s["n"] + 1})
    report = check_model(model, {"x": jnp.ones(2), "n": jnp.asarray(0)})
    assert report.passed, str(report)
    assert "int" in report.remarks[0]


def test_bad_input_is_named():
    with pytest.raises(da.ConfigurationError, match="FunctionModel"):
        check_model(lambda x, t: x, jnp.ones(1))
    with pytest.raises(da.ConfigurationError, match="steps"):
        check_model(da.models.Lorenz63(), jnp.ones(3), steps=0)
