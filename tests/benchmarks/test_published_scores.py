"""Benchmarks of published scores: exact identities, and small parts of the measurements."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from benchmarks import published_dynamics, published_filters


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


def test_runs_that_are_not_finite_are_counted():
    found = published_filters.summary(np.array([1.0, 3.0, np.nan]), 2.5)
    assert found == {"error": 2.0, "standard_error": 1.0, "largest": 3.0, "lost": 1, "published": 2.5}


@pytest.mark.ci
@pytest.mark.slow
def test_arctangents_are_analysed_far_below_the_published_error(tmp_path, capsys):
    with jax.enable_x64(True):
        published_filters.main(trajectories=0, repetitions=3, json=tmp_path / "records.json")
    records = [json.loads(line) for line in (tmp_path / "records.json").read_text().splitlines()]
    assert len(records) == 4
    for record in records:
        error, scatter, published = (record["more"][key] for key in ("error", "standard_error", "published"))
        # How long a filter takes to find a truth on the attractor, and with it the mean over time, is chance.
        chance = 2 * scatter if record["what"] == "arctangents, mean, truth starts on the attractor" else 0
        assert error - chance < 0.75 * published and record["more"]["lost"] == 0, record
