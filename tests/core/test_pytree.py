"""Pytree dataclasses: fields, statics, checks that run for users only."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from diffassim.core.pytree import Pytree, static


class Pair(Pytree):
    x: float
    y: float = 2.0
    size: int = static(default=3)


class Checked(Pytree):
    value: float

    def __post_init__(self) -> None:
        if not isinstance(self.value, jax.Array | float):
            raise TypeError(f"value must be a number, found {type(self.value).__name__}")


def test_static_fields_are_no_leaves():
    assert jax.tree.leaves(Pair(1.0)) == [1.0, 2.0]
    assert jax.tree.structure(Pair(1.0)) != jax.tree.structure(Pair(1.0, size=4))


def test_replace_keeps_the_rest_and_refuses_unknown_names():
    assert Pair(1.0).replace(y=5.0, size=7).__dict__ == {"x": 1.0, "y": 5.0, "size": 7}
    with pytest.raises(TypeError, match="z"):
        Pair(1.0).replace(z=1.0)


def test_objects_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Pair(1.0).x = 3.0


def test_constructor_checks_run_for_users_but_not_when_jax_rebuilds():
    with pytest.raises(TypeError, match="str"):
        Checked("text")
    rebuilt = jax.tree.map(lambda _: "placeholder", Checked(1.0))
    assert rebuilt.value == "placeholder"


def test_grad_returns_the_same_class():
    gradient = jax.grad(lambda p: p.x * p.y)(Pair(3.0, 4.0))
    assert isinstance(gradient, Pair) and (float(gradient.x), float(gradient.y)) == (4.0, 3.0)


def test_new_values_do_not_recompile_but_new_statics_do():
    traces = []

    @jax.jit
    def total(p):
        traces.append(p.size)
        return p.x + p.y

    total(Pair(1.0)), total(Pair(5.0, 6.0)), total(Pair(1.0, size=4))
    assert traces == [3, 4]


def test_key_paths_name_the_fields():
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(Pair(jnp.ones(2)))]
    assert paths == [".x", ".y"]
