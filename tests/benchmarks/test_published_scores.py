"""Benchmarks of published scores: exact identities, and small parts of the measurements."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from benchmarks import fisher_scoring, published_arctangents, published_dynamics, published_filters


def test_the_dictionary_holds_the_law():
    terms = published_dynamics.TERMS
    assert len(terms) == len(set(terms)) == 18 and set(published_dynamics.TRUE) <= set(terms)
    x = jnp.asarray(np.random.default_rng(0).normal(3, 4, (5, 40)))
    true = jnp.asarray([published_dynamics.TRUE.get(term, 0.0) for term in terms])
    expected = da.models.Lorenz96(dt=published_dynamics.DT).step(x, 0)
    np.testing.assert_allclose(published_dynamics.step(true, x), expected, rtol=1e-12, atol=1e-12)
    every = jnp.asarray(np.random.default_rng(1).normal(size=18))
    features = [np.prod([np.roll(x, -i, -1) for i in term] or [np.ones(x.shape)], axis=0) for term in terms]
    found = published_dynamics.tendency(every, x)
    np.testing.assert_allclose(found, np.tensordot(every, features, 1), rtol=1e-10, atol=1e-10)


def line(theta, members, y, key):
    """A law without error: a straight line in time, and the variance of the values."""
    members = members + theta[0]
    return members, jnp.mean(members, axis=0), jnp.exp(theta[1]) * jnp.eye(y.shape[0])


def test_information_and_score_are_those_of_a_normal_distribution():
    times, trajectories, n = 5, 2, 3
    rng = np.random.default_rng(2)
    E, y = jnp.asarray(rng.normal(size=(trajectories, 4, n))), jnp.asarray(rng.normal(size=(times, trajectories, n)))
    theta = jnp.array([0.3, -0.2])
    keys = jax.random.split(jax.random.key(0), (times, trajectories))
    found = fisher_scoring.slopes(line, theta, E, y, keys)

    def loss(theta):
        t = jnp.arange(1.0, times + 1)[:, None, None]
        r = y - jnp.mean(E, axis=1)[None] - theta[0] * t
        return 0.5 * jnp.sum(r**2) / jnp.exp(theta[1]) + 0.5 * y.size * theta[1]

    np.testing.assert_allclose(found.loss, loss(theta), rtol=1e-12)
    np.testing.assert_allclose(found.score, -jax.grad(loss)(theta), rtol=1e-10)
    squares = trajectories * n * np.sum(np.arange(1, times + 1) ** 2)
    np.testing.assert_allclose(found.information, np.diag([squares / np.exp(-0.2), y.size / 2]), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(fisher_scoring.standard_errors(found.information)[1], (2 / y.size) ** 0.5)
    step = fisher_scoring.step(found, [1e6, 1e6])
    np.testing.assert_allclose(step, np.linalg.solve(found.information, found.score), rtol=1e-8)
    assert np.abs(fisher_scoring.step(found, [1e-3, 1e-3])).max() <= 1e-3


def test_runs_that_are_not_finite_are_counted():
    found = published_filters.summary(np.array([1.0, 3.0, np.nan]), 2.5)
    assert found == {"error": 2.0, "standard_error": 1.0, "largest": 3.0, "lost": 1, "published": 2.5}


@pytest.mark.ci
@pytest.mark.slow
def test_arctangents_are_analysed_far_below_the_published_error(tmp_path, capsys):
    with jax.enable_x64(True):
        published_arctangents.main(
            variables=(100,), repetitions=3, large=0, filters=("LETKF",), json=tmp_path / "records.json"
        )
    records = [json.loads(line) for line in (tmp_path / "records.json").read_text().splitlines()]
    assert len(records) == 4
    for record in records:
        error, scatter, published = (record["more"][key] for key in ("error", "standard_error", "published"))
        # How long a filter takes to find a truth on the attractor, and with it the mean over time, is chance.
        chance = 2 * scatter if record["what"] == "LETKF, mean, truth starts on the attractor" else 0
        assert error - chance < 0.75 * published and record["more"]["lost"] == 0, record


@pytest.mark.slow
def test_the_long_line_tells_how_much_of_it_was_run(tmp_path, capsys):
    file = tmp_path / "records.json"
    published_arctangents.main(
        repetitions=0, large=300, large_steps=20, filters=("EnFF, every variable alone",), json=file
    )
    (record,) = [json.loads(line) for line in file.read_text().splitlines()]
    assert record["what"] == "EnFF, every variable alone, mean, 2 of 150 analyses only"
    assert record["dtype"] == "float32" and record["more"]["lost"] == 0
    assert len(record["more"]["errors"]) == 2 and record["more"]["errors"][-1] < 0.3  # members start with an error of 1
