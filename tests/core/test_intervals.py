"""Tests of intervals of means over runs."""

import json

import numpy as np
from scipy import stats

from diffassim.core.intervals import interval


def test_it_is_students_interval_of_each_column():
    values = np.random.default_rng(0).normal(size=(7, 3))
    mean, half = interval(values)
    for k in range(3):
        low, high = stats.t.interval(0.95, 6, loc=values[:, k].mean(), scale=stats.sem(values[:, k]))
        np.testing.assert_allclose((mean[k] - half[k], mean[k] + half[k]), (low, high), rtol=1e-12)


def test_a_single_run_has_no_interval_and_numbers_go_into_tables():
    mean, half = interval([2.0])
    assert mean == 2.0 and np.isnan(half)
    assert json.loads(json.dumps(interval([1.0, 3.0])))[0] == 2.0 and json.dumps([mean, half]) == "[2.0, NaN]"
