"""Checkpointed scans and bounded while loops against plain ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.core.loops import bounded_while, checkpointed_scan, segment_length


def body(carry, k):
    following = jnp.sin(carry) + 0.1 * k.astype(carry.dtype)
    return following, {"row": following, "k": k}


X = jnp.array([0.3, -1.0, 2.0])


def by_hand(length):
    rows, x = [], X
    for k in range(length):
        x, _ = body(x, jnp.asarray(k, jnp.int32))
        rows.append(x)
    return x, np.stack(rows)


@pytest.mark.parametrize(("length", "segment"), [(1, None), (7, None), (12, None), (12, 5), (12, 1), (12, 100)])
def test_scan_equals_the_loop(length, segment):
    last, rows = by_hand(length)
    end, outputs = checkpointed_scan(body, X, length, segment=segment)
    np.testing.assert_allclose(end, last, rtol=1e-14)
    np.testing.assert_allclose(outputs["row"], rows, rtol=1e-14)
    assert outputs["k"].tolist() == list(range(length))


@pytest.mark.parametrize("segment", [None, 5])
def test_collecting_equals_outputs(segment):
    def collect(total, outputs, first):
        assert first.dtype == jnp.int32
        return total + jnp.sum(outputs["row"], axis=0)

    end, total = checkpointed_scan(body, X, 12, segment=segment, collect=collect, collected=jnp.zeros(3))
    last, rows = by_hand(12)
    np.testing.assert_allclose(end, last, rtol=1e-14)
    np.testing.assert_allclose(total, rows.sum(axis=0), rtol=1e-13)


def test_derivatives_do_not_depend_on_the_checkpoints():
    def total(x, segment):
        end, outputs = checkpointed_scan(body, x, 12, segment=segment)
        return jnp.sum(end**2) + jnp.sum(outputs["row"])

    plain = jax.grad(total)(X, 100)
    for segment in (None, 1, 5):
        np.testing.assert_allclose(jax.grad(total)(X, segment), plain, rtol=1e-13)


def test_whole_segments_after_the_limit_are_skipped():
    run = jax.jit(lambda limit: checkpointed_scan(body, X, 12, segment=4, limit=limit))
    _, rows = by_hand(12)
    for limit, made in ((0, 0), (1, 4), (4, 4), (5, 8), (12, 12), (99, 12)):
        end, outputs = run(limit)
        np.testing.assert_allclose(end, rows[made - 1] if made else X, rtol=1e-14)
        np.testing.assert_allclose(outputs["row"][:made], rows[:made], rtol=1e-14)
        assert not np.any(outputs["row"][made:])
    assert run._cache_size() == 1


def test_segments_keep_memory_below_five_square_roots():
    for length in (*range(1, 300), 1000, 9973, 10_000):
        segment = segment_length(length)
        assert 1 <= segment <= length
        assert segment + -(-length // segment) <= 5 * length**0.5


@pytest.mark.parametrize("unrolled", [False, True])
def test_while_stops_at_the_condition_or_at_the_limit(unrolled):
    def count(until, limit):
        return int(bounded_while(lambda k: k < until, lambda k: k + 1, jnp.asarray(0), limit, unrolled))

    assert [count(3, 10), count(30, 10), count(0, 10), count(3, 0)] == [3, 10, 0, 0]


def test_only_the_unrolled_loop_can_be_differentiated_in_reverse():
    def newton(a, unrolled):  # the square root of a by Heron's iteration
        state = (a, jnp.asarray(jnp.inf))

        def halve(s):
            following = (s[0] + a / s[0]) / 2
            return following, jnp.abs(following - s[0])

        return bounded_while(lambda s: s[1] > 1e-12, halve, state, 30, unrolled)[0]

    np.testing.assert_allclose(newton(2.0, True), newton(2.0, False), rtol=1e-15)
    np.testing.assert_allclose(jax.grad(newton)(2.0, True), 0.5 / np.sqrt(2), rtol=1e-10)
    with pytest.raises(ValueError, match="while_loop"):
        jax.grad(newton)(2.0, False)
