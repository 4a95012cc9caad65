"""Parts of pytrees by path, and numbers within bounds."""

from __future__ import annotations

import collections
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.core.bounds import declared_bounds, increment_within, moved_within, require_within
from diffassim.core.errors import ConfigurationError, DataError
from diffassim.core.paths import has_path, paths_of, replace_at, value_at
from diffassim.core.pytree import Pytree, static
from diffassim.models import Lorenz63

Pair = collections.namedtuple("Pair", ["left", "right"])


class Gauge(Pytree):
    """Derives a field from another, so that a copy must be built by its constructor."""

    width: Any
    area: Any = None
    name: str = static(default="weir")

    def __post_init__(self) -> None:
        self._set(area=2 * self.width)


TREE = {
    "gauges": [Gauge(1.0), Gauge(2.0)],
    "pair": Pair(3.0, {"a.b": 4.0, "a": {"b": 5.0, "c": 6.0}}),
    "odd": {7: (8.0, None)},
}


def test_every_leaf_is_reached_and_replaced_alone():
    paths = paths_of(TREE)
    assert len(paths) == len(jax.tree.leaves(TREE)) == 9 and "odd.7.0" in paths
    for path in paths:
        changed = replace_at(TREE, {path: -1.0})
        assert jax.tree.structure(changed) == jax.tree.structure(TREE)
        same = [a == b for a, b in zip(jax.tree.leaves(changed), jax.tree.leaves(TREE), strict=True)]
        twice = path == "pair.right.a.b"  # two leaves have this text
        assert same.count(False) == (0 if ".area" in path else 2 if ".width" in path else 1), path
        if not twice and ".area" not in path:
            assert value_at(changed, path) == -1.0


def test_a_key_with_dots_is_the_longer_reading():
    assert value_at(TREE, "pair.right.a.b") == 4.0 and value_at(TREE, "pair.right.a.c") == 6.0
    changed = replace_at(TREE, {"pair.right.a.b": 0.0, "pair.right.a.c": 1.0})
    assert changed["pair"] == Pair(3.0, {"a.b": 0.0, "a": {"b": 5.0, "c": 1.0}})


def test_objects_are_built_anew_and_parts_replaced_whole():
    changed = replace_at(TREE, {"gauges.1.width": 5.0, "pair.right.a": {"z": 0.0}})
    assert (changed["gauges"][1].area, changed["gauges"][0].area, changed["gauges"][1].name) == (10.0, 2.0, "weir")
    assert changed["pair"].right["a"] == {"z": 0.0} and TREE["gauges"][1].width == 2.0


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["gauges.1.widht"], "dict has no parameter 'gauges.1.widht'; it has gauges.1.width"),
        (["gauges.2"], "has no parameter 'gauges.2'; it has "),
        (["odd.7.1"], "has no parameter 'odd.7.1'"),  # nothing is there
        (["gauges.0.name"], "has no parameter 'gauges.0.name'"),  # static
        ([""], "has no parameter ''"),
        (["pair", "pair.left"], "'pair.left' is a part of 'pair'; give one of them"),
        ([3], "a path is a text like 'network.last.0', found 3"),
    ],
)
def test_wrong_paths_are_named(paths, message):
    with pytest.raises(ConfigurationError, match=message):
        replace_at(TREE, dict.fromkeys(paths, 0.0))


def test_whether_there_is_a_path():
    assert has_path(TREE, "pair") and not has_path(TREE, "pai") and not has_path(TREE, "pair.left.x")


BOUNDS = [(-math.inf, math.inf), (1.0, math.inf), (-math.inf, 4.0), (1.0, 4.0)]


@pytest.mark.parametrize(("lower", "upper"), BOUNDS)
def test_numbers_stay_within_bounds_and_keep_their_unit(lower, upper):
    p, d = jnp.broadcast_to(jnp.array([1.5, 2.0, 3.7]), (9, 3)), jnp.linspace(-20, 20, 9)[:, None]
    moved = moved_within(p, d, lower, upper)
    assert np.all(moved >= lower) and np.all(moved <= upper) and np.all(np.diff(moved, axis=0) >= 0)
    small = jnp.full((9, 3), 1e-6)
    np.testing.assert_allclose((moved_within(p, small, lower, upper) - p) / small, 1, rtol=1e-5)
    back = increment_within(p, moved_within(p, d / 10, lower, upper), lower, upper)
    np.testing.assert_allclose(back, jnp.broadcast_to(d / 10, back.shape), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(moved_within(p, 0 * p, lower, upper), p, rtol=1e-15)


def test_bounds_are_declared_on_the_way():
    assert declared_bounds([Lorenz63()], "0.rho") == (0.0, math.inf)
    assert declared_bounds([Lorenz63()], "0.dt") == (-math.inf, math.inf)


def test_a_value_on_its_bound_is_named():
    require_within("p", {"a": 1.0}, (0.0, 2.0))
    with pytest.raises(DataError, match=r"p: the value 2.0 does not lie inside of the bounds 0.0 to 2.0"):
        require_within("p", {"a": 1.0, "b": 2.0}, (0.0, 2.0))
    with pytest.raises(ConfigurationError, match="must lie below"):
        require_within("p", 1.0, (2.0, 0.0))
