"""The one loop: rows, run-time rows, limits, memory."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.models import FunctionModel

X0 = jnp.asarray(np.random.default_rng(0).normal(size=12) * 3.6 + 2.3)
MODEL = da.models.Lorenz96()


def by_hand(steps):
    rows = [X0]
    for _ in range(steps):
        rows.append(jax.jit(MODEL.step)(rows[-1], 0))
    return np.stack(rows)


@pytest.mark.parametrize("steps", [0, 1, 7, 12])
@pytest.mark.parametrize("segment", [None, 1, 5, 100])
def test_rows_are_the_steps_one_by_one(steps, segment):
    np.testing.assert_allclose(da.rollout(MODEL, X0, steps, segment=segment), by_hand(steps), rtol=0, atol=1e-13 * 10)


@pytest.mark.parametrize("at", [[0], [7], [3, 0, 7, 3], [], list(range(8))])
def test_selected_rows(at):
    rows = da.rollout(MODEL, X0, 7, at=jnp.asarray(at, int))
    np.testing.assert_allclose(rows, by_hand(7)[at], rtol=0, atol=1e-12)


def test_rows_outside_of_the_window_are_zero():
    np.testing.assert_array_equal(da.rollout(MODEL, X0, 3, at=jnp.asarray([-1, 4])), 0)


def test_other_rows_and_another_limit_do_not_compile_again():
    run = jax.jit(lambda at, limit: da.rollout(MODEL, X0, 12, at=at, limit=limit))
    run(jnp.asarray([1, 5]), 12)
    rows = run(jnp.asarray([2, 4]), 4)
    assert run._cache_size() == 1
    np.testing.assert_allclose(rows, by_hand(12)[[2, 4]], rtol=0, atol=1e-12)


def test_the_step_number_starts_where_it_is_told():
    count = FunctionModel(lambda x, t: x + t)
    assert da.rollout(count, jnp.asarray(0, jnp.int32), 3, start=10).tolist() == [0, 10, 21, 33]


@pytest.mark.parametrize("segment", [None, 12])
def test_a_limit_skips_steps_with_and_without_checkpoints(segment):
    def total(x, limit):
        return jnp.sum(da.rollout(MODEL, x, 12, at=jnp.asarray([4]), limit=limit, segment=segment) ** 2)

    np.testing.assert_allclose(jax.grad(total)(X0, 4), jax.grad(total)(X0, None), rtol=1e-13)
    counted = da.rollout(FunctionModel(lambda x, t: x + 1), jnp.zeros(()), 12, limit=4, segment=segment)
    assert counted[4] == 4 and counted[12] == 0, "steps beyond the segment of the limit were computed"


@pytest.mark.parametrize("steps", [16, 17])
@pytest.mark.slow
def test_checkpoints_do_not_change_the_gradient(steps):
    def total(x, segment):
        return jnp.sum(da.rollout(MODEL, x, steps, at=jnp.asarray([5, steps]), segment=segment) ** 2)

    plain = jax.grad(total)(X0, 10**6)
    for segment in (None, 1, 3):
        np.testing.assert_allclose(jax.grad(total)(X0, segment), plain, rtol=1e-11)


def test_adjoint_memory_grows_with_the_square_root():
    n, steps = 4000, 10_000
    x = jnp.zeros(n)

    def cost(x):
        return jnp.sum(da.rollout(da.models.Lorenz96(), x, steps, at=jnp.asarray([steps])) ** 2)

    memory = jax.jit(jax.grad(cost)).lower(x).compile().memory_analysis().temp_size_in_bytes
    assert memory < 5 * steps**0.5 * n * 8


def test_a_step_that_changes_the_state_is_named():
    with pytest.raises(da.ShapeError, match=r"must return a state like the one it was given"):
        da.rollout(FunctionModel(lambda x, t: x[1:]), X0, 2)
    with pytest.raises(da.ShapeError, match="FunctionModel"):
        da.rollout(FunctionModel(lambda x, t: x.astype(jnp.float32)), X0, 2)


def test_bad_rows_and_negative_steps_are_named():
    with pytest.raises(da.ConfigurationError, match="steps must be at least 0, found -1"):
        da.rollout(MODEL, X0, -1)
    with pytest.raises(da.ConfigurationError, match="at must be a list of integers"):
        da.rollout(MODEL, X0, 2, at=jnp.asarray([0.5]))


@pytest.mark.parametrize("segment", [None, 2, 7])
def test_forcing_is_added_after_each_step(segment):
    model = da.models.FunctionModel(lambda x, t: 0.9 * x + jnp.sin(x))
    forcing = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3)))

    def by_hand(x, forcing):
        rows = [x]
        for q in forcing:
            rows.append(model.step(rows[-1], 0) + q)
        return jnp.stack(rows)

    def total(run):
        return lambda x, q: jnp.sum(run(x, q) ** 3)

    def run(x, q):
        return da.rollout(model, x, 7, forcing=q, segment=segment)

    x = jnp.ones(3)
    np.testing.assert_allclose(run(x, forcing), by_hand(x, forcing), rtol=1e-13)
    found, expected = (jax.grad(total(f), argnums=(0, 1))(x, forcing) for f in (run, by_hand))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11)
    with pytest.raises(da.ShapeError, match=r"forcing has shape \(6, 3\), but 7 steps of a state of shape \(3,\)"):
        run(x, forcing[:6])


def gradient_bytes(cost, x):
    return jax.jit(jax.value_and_grad(cost)).lower(x).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(("n", "steps", "rows"), [(400, 120, 4), (2000, 1000, 1)])
@pytest.mark.slow
def test_the_adjoint_stays_within_its_memory_and_is_the_same(n, steps, rows):
    x = jnp.asarray(np.random.default_rng(0).normal(size=n))
    at = jnp.linspace(steps // rows, steps, rows).astype(int)

    def cost(memory):
        return lambda x: jnp.sum(da.rollout(da.models.Lorenz96(dt=0.01), x, steps, at=at, memory=memory) ** 2)

    state, needed = 8 * n, []
    reference = jax.jit(jax.value_and_grad(cost(10**9)))(x)
    for states in (10 * steps, steps // 2 + 30, 2 * math.ceil(steps**0.5) + 30, 50 + rows):
        memory = states * state
        needed.append(gradient_bytes(cost(memory), x))
        assert needed[-1] <= memory
        value, gradient = jax.jit(jax.value_and_grad(cost(memory)))(x)
        np.testing.assert_allclose(value, reference[0], rtol=1e-13)
        np.testing.assert_allclose(gradient, reference[1], rtol=0, atol=1e-12 * np.abs(reference[1]).max())
    assert needed == sorted(needed, reverse=True) and needed[-1] < 0.15 * needed[0]
    with pytest.raises(da.ConfigurationError, match=rf"memory = {10 * state} bytes are too few .*; the least is about"):
        cost(10 * state)(x)


def test_ten_thousand_steps_in_little_memory_and_programs_that_do_not_grow_with_the_steps():
    model = FunctionModel(lambda x, t: x + 0.01 * jnp.sin(x) * jnp.roll(x, 1))
    x = jnp.linspace(-1, 1, 64)

    def cost(steps, memory):
        return lambda x: jnp.sum(da.rollout(model, x, steps, at=jnp.asarray([steps]), memory=memory) ** 2)

    least = 50 * x.size * 8
    slope = jax.jit(jax.grad(cost(10_000, least)))
    assert slope.lower(x).compile().memory_analysis().temp_size_in_bytes <= least
    np.testing.assert_allclose(slope(x), jax.grad(cost(10_000, 10**9))(x), rtol=1e-11)

    def lines(steps, states):
        return str(jax.make_jaxpr(jax.grad(cost(steps, states * x.size * 8)))(x)).count("\n")

    assert lines(100_000, 800) < 1.05 * lines(1000, 100)


def test_memory_and_segment_exclude_each_other():
    with pytest.raises(da.ConfigurationError, match="give `memory` or `segment`, not both"):
        da.rollout(MODEL, X0, 3, segment=1, memory=10**6)
    np.testing.assert_allclose(da.rollout(MODEL, X0, 7, memory=20_000), by_hand(7), rtol=0, atol=1e-12)
