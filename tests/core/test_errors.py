"""Checks on values: they run for plain calls, and pass over what is traced."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.core import errors
from diffassim.core.errors import (
    AssimilationError,
    ConfigurationError,
    DataError,
    ShapeError,
    concrete,
    require_finite,
    require_positive,
)


@pytest.mark.parametrize("error", [ConfigurationError, DataError, ShapeError])
def test_errors_can_be_caught_together_and_as_value_errors(error):
    assert issubclass(error, AssimilationError) and issubclass(error, ValueError)
    assert error.__doc__


def test_everything_public_exists():
    assert all(hasattr(errors, name) for name in errors.__all__)


@pytest.mark.parametrize("value", [2, 2.5, True, np.float32(1), np.ones(2), jnp.ones(2), [1.0, 2.0]])
def test_known_values_are_arrays(value):
    np.testing.assert_array_equal(concrete(value), np.asarray(value))


@pytest.mark.parametrize("value", [None, "text", object(), jax.ShapeDtypeStruct((2,), jnp.float32), {"a": 1.0}])
def test_what_is_no_array_is_unknown(value):
    assert concrete(value) is None


def test_traced_values_are_unknown_and_pass_all_checks():
    def seen(x):
        require_positive("x", x)
        require_finite("x", x)
        return jnp.asarray(0.0 if concrete(x) is None else 1.0) * x

    assert float(jax.jit(seen)(-1.0)) == float(jax.grad(seen)(-1.0)) == 0
    assert not np.any(jax.vmap(seen)(jnp.full(2, -1.0)))


@pytest.mark.parametrize(
    ("value", "worst"),
    [(0.0, "0.0"), (-1.0, "-1.0"), (np.nan, "nan"), (np.inf, "inf"), (np.array([1.0, -2.0]), "-2.0"), ({"a": 0}, "0")],
)
def test_what_must_be_positive(value, worst):
    with pytest.raises(ConfigurationError, match=f"B.std must be finite and positive, but holds {worst}. Do this"):
        require_positive("B.std", value, "Do this.")
    require_positive("B.std", {"a": 1.0, "b": np.array([2.0, 3.0]), "c": None})


def test_what_must_be_finite_is_named_by_its_place():
    with pytest.raises(DataError, match=r"x_b\['fast'\]\[1\] holds 2 non-finite value\(s\) of 3. Fill it"):
        require_finite("x_b", {"fast": (np.ones(2), np.array([np.nan, 1.0, np.inf]))}, "Fill it.")
    require_finite("x_b", {"a": np.ones(2), "n": np.array([1, 2]), "m": np.array([True])})
