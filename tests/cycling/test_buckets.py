"""Changing numbers of moving observations in padded buckets: no influence of padding, one program for all."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.cycling import bucket_size

N = 12
MODEL = da.models.FunctionModel(lambda x, t: x + 0.1 * jnp.sin(jnp.roll(x, 1)))
H = da.observations.Interpolate(spacing=(1.0,))
B, DENSE = da.covariances.Diagonal(std=1.0), da.covariances.Dense(np.eye(1))
X_B = jnp.sin(jnp.arange(float(N)))


def reports(count, seed):
    rng = np.random.default_rng(seed)
    return {
        "values": rng.normal(size=count),
        "times": np.where(rng.uniform(size=count) < 0.3, 0.1 * rng.integers(0, 6, count), rng.uniform(0, 0.6, count)),
        "where": rng.uniform(0, N, size=(count, 1)),
        "std": rng.uniform(0.5, 1.5, count),
    }


def one_by_one(r):
    """The same reports as so many rows of one place."""
    return da.Observations.from_times(
        r["values"][:, None], r["times"], 0.1, operator=H, where=r["where"][:, None],
        error=da.covariances.Diagonal(std=r["std"][:, None]),
    )  # fmt: skip


def cost(streams):
    return da.StrongConstraint4DVar(MODEL, X_B, B, streams, steps=8)


def test_reports_in_rows_are_the_reports_one_by_one():
    r = reports(30, 0)
    sorted_in, number = da.observations_from_reports(**r, dt=0.1, operator=H)
    assert sorted_in.values.shape == (bucket_size(11), bucket_size(7)) and int(sorted_in.count()) == 30
    assert np.array_equal(np.sort(number[number >= 0]), np.arange(30))
    np.testing.assert_array_equal(sorted_in.values[number >= 0], r["values"][number[number >= 0]])
    single, v = one_by_one(r), {"state": jnp.cos(jnp.arange(float(N)))}
    padded = da.pad_observations(single, times=40, places=3)
    assert padded.values.shape == (40, 3)

    @jax.jit
    def everything(*streams):
        return [cost(s)(v) for s in streams]

    J, *others = everything(single, sorted_in, (padded, sorted_in.replace(mask=False)))
    np.testing.assert_allclose(others, float(J), rtol=1e-14)


def test_padding_has_exactly_no_influence():
    padded = da.pad_observations(
        da.observations_from_reports(**reports(9, 1), dt=0.1, operator=H)[0], times=9, places=9
    )
    v = {"state": jnp.ones(N)}

    def value(values, places, std):
        stream = padded.replace(values=values, where=places, error=da.covariances.Diagonal(std=std))
        return cost(stream)(v)

    numbers = (padded.values, padded.where, padded.error.std)
    gradients = jax.jit(jax.grad(value, argnums=(0, 1, 2)))(*numbers)
    mask = np.asarray(padded.mask)
    for gradient in gradients:
        assert not np.any(np.asarray(gradient)[~mask]) and np.isfinite(gradient).all()
        assert np.any(np.asarray(gradient)[mask])


def test_other_counts_in_a_bucket_reuse_the_program():
    chex.clear_trace_counter()
    control = {"state": jnp.ones(N)}
    gradient = jax.jit(chex.assert_max_traces(lambda streams: jax.grad(cost(streams))(control)["state"], n=1))
    shapes = set()
    for seed, counts in enumerate([(9, 30), (12, 20), (10, 35)]):
        first = da.pad_observations(one_by_one(reports(counts[0], seed)))
        second, _ = da.observations_from_reports(**reports(counts[1], seed), dt=0.1, operator=H, rows=12, columns=12)
        shapes.add((first.values.shape, second.values.shape))
        assert np.isfinite(gradient((first, second))).all()
    assert shapes == {((12, 8), (12, 12))}


def test_windows_of_other_records_meet_in_a_bucket():
    first, second = (
        da.split_windows(da.observations_from_reports(**reports(n, n), dt=0.1, operator=H, columns=12)[0], 3, 2, rows=9)
        for n in (20, 30)
    )
    chex.assert_trees_all_equal_shapes(first, second)
    assert first.values.shape == (2, 9, 12) and (int(first.count()), int(second.count())) == (20, 30)
    fraction, mask = np.asarray(second.fraction), np.asarray(second.mask)
    position = np.asarray(second.steps)[..., None] + fraction + 3 * np.arange(2)[:, None, None]
    np.testing.assert_allclose(np.sort(position[mask]), np.sort(reports(30, 30)["times"]) / 0.1, atol=1e-6)


def test_an_empty_stream_is_padded_too():
    nothing, _ = da.observations_from_reports(
        np.zeros(0), np.zeros(0), 0.1, operator=H, where=np.zeros((0, 1)), std=1.0
    )
    assert nothing.values.shape == (8, 8) and int(nothing.count()) == 0
    empty = da.Observations(np.zeros((0, 2)), np.zeros(0, int), error=da.covariances.Diagonal(std=np.ones((0, 2))))
    assert da.pad_observations(empty).values.shape == (8, 2)


def test_a_place_that_is_not_finite_is_missing():
    r = reports(6, 3)
    bad = {**r, "where": np.where(np.arange(6)[:, None] == 2, np.nan, r["where"])}
    without = {name: np.delete(array, 2, axis=0) for name, array in r.items()}
    v = {"state": jnp.ones(N)}
    grads = jax.jit(lambda v: [jax.grad(cost(one_by_one(s)))(v)["state"] for s in (bad, without)])(v)
    np.testing.assert_allclose(grads[0], grads[1], rtol=1e-13)
    one_place_a_row = da.Observations(np.ones((2, 3)), [0, 1], operator=lambda x, w: w * x[:3], error=B,
                                      where=np.array([1.0, np.nan]))  # fmt: skip
    assert one_place_a_row.mask.tolist() == [[True] * 3, [False] * 3]


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: bucket_size(3, growth=1.0), da.ConfigurationError, "growth=1.0 must be above 1"),
        (lambda: da.pad_observations(one_by_one(reports(9, 0)), times=8), da.ShapeError, "times=8, but the stream has"),
        (
            lambda: da.pad_observations(da.split_windows(one_by_one(reports(9, 0)), 3, 2)),
            da.ShapeError,
            "these are windows already",
        ),
        (
            lambda: da.split_windows(one_by_one(reports(9, 0)), 3, 2, rows=1),
            da.ShapeError,
            "rows of observations, more than rows=1",
        ),
        (
            lambda: da.pad_observations(one_by_one(reports(9, 0)).replace(error=0.5 * DENSE)),
            da.ConfigurationError,
            "known to be uncorrelated.*found Scaled",
        ),
        (
            lambda: da.observations_from_reports([1.0], [0.0, 1.0], 1.0, operator=H, where=np.zeros((1, 1)), std=1.0),
            da.ShapeError,
            r"times has shape \(2,\), but there are 1 values",
        ),
        (
            lambda: da.observations_from_reports(**reports(30, 0), dt=0.1, operator=H, rows=3),
            da.ShapeError,
            r"do not fit into the shape \(3, 8\)",
        ),
        (
            lambda: da.observations_from_reports([1.0], [-1.0], 1.0, operator=H, where=np.zeros((1, 1)), std=1.0),
            da.DataError,
            "1 reports lie before the origin",
        ),
    ],
)
def test_bad_input_is_named(build, error, message):
    with pytest.raises(error, match=message):
        build()
