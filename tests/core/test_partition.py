"""Pytrees apart: arrays, what is trained of them, and what is no array."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.core.errors import DataError
from diffassim.core.partition import Compilable, compilable, differentiable, joined, merged, partition
from diffassim.core.pytree import Pytree, untrained


class Scaled(Pytree):
    weight: object
    unit: object = untrained(default=10.0)


def test_parts_give_the_whole_again():
    whole = {"w": 1.0, "f": jnp.tanh, "name": "x", "key": jax.random.key(0), "places": np.arange(3)}
    arrays, rest = partition("it", whole)
    assert arrays["f"] is None and arrays["name"] is None and len(jax.tree.leaves(arrays)) == 3
    again = joined(arrays, rest)
    assert all(again[name] is whole[name] for name in whole)
    assert hash(rest) == hash(partition("it", whole)[1]) and rest == partition("it", whole)[1]
    assert partition("it", {"w": 1.0}) == ({"w": 1.0}, None)
    with pytest.raises(DataError, match=r"it\['a'\] is ndarray of <U1"):
        partition("it", {"a": np.array(["x"])})


def test_only_floating_point_numbers_move_and_none_that_are_declared_otherwise():
    whole = [Scaled(Scaled(jnp.ones(2), unit={"a": 1.0})), jnp.arange(2), 3, jax.random.key(0)]
    moving, still = differentiable(whole)
    assert len(jax.tree.leaves(moving)) == 1 and moving[0].weight.weight.shape == (2,)
    assert moving[0].unit is None and still[0].weight.unit == {"a": 1.0}
    assert jax.tree.structure(merged(moving, still)) == jax.tree.structure(whole)


def test_a_callable_with_functions_in_it_is_compiled():
    given = jax.tree_util.Partial(lambda f, w, x: f(w * x), jnp.sin, 2.0)
    made = compilable("network", given)
    assert isinstance(made, Compilable) and made.whole.args[0] is jnp.sin
    np.testing.assert_allclose(jax.jit(lambda net, x: net(x))(made, 0.5), np.sin(1.0), rtol=1e-12)
    for as_it_is in (jnp.sin, jax.tree_util.Partial(jnp.multiply, 2.0), None):
        assert compilable("network", as_it_is) is as_it_is
