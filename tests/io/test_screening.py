"""Gross errors: against loops over every station, for any table."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from diffassim.io.screening import flag_bounds, flag_spikes, flag_stuck, resolve_duplicates
from diffassim.observations import QCFlag


@st.composite
def tables(draw):
    count = draw(st.integers(0, 30))
    small = arrays.arrays(int, count, elements=st.integers(0, 4))
    station, hour = draw(small), draw(arrays.arrays(int, count, elements=st.integers(0, 6)))
    values = draw(arrays.arrays(float, count, elements=st.sampled_from([0.0, 1.0, 2.0, 9.0])))
    flags = draw(arrays.arrays(np.uint8, count, elements=st.sampled_from([0, 0, 0, 10])))
    time = hour.astype("datetime64[h]").astype("datetime64[us]")
    return station, time, values, flags, np.lexsort((time, station))


@settings(deadline=None, max_examples=60)
@given(tables(), st.sampled_from(["first", "last", "mean"]))
def test_duplicates_against_a_loop(table, rule):
    station, time, values, flags, order = table
    found_values, found_flags = values.copy(), flags.copy()
    resolve_duplicates(rule, order, station, time, found_values, found_flags)
    expected_values, expected_flags = values.copy(), flags.copy()
    for key in {*zip(station.tolist(), time.tolist(), strict=True)}:
        members = [k for k in order if (station[k], time[k].item()) == key and flags[k] == 0]
        for k in members:
            expected_flags[k] = QCFlag.DUPLICATE
        if members:
            kept = members[-1] if rule == "last" else members[0]
            expected_flags[kept] = QCFlag.PASS
            if rule == "mean" and len(members) > 1:
                expected_values[kept] = np.mean(values[members])
    np.testing.assert_array_equal(found_flags, expected_flags)
    np.testing.assert_allclose(found_values, expected_values, rtol=1e-14)


@settings(deadline=None, max_examples=60)
@given(tables(), st.integers(2, 4))
def test_stuck_values_against_a_loop(table, least):
    station, _, values, flags, order = table
    found = flags.copy()
    flag_stuck(order, station, values, found, least, allowed=(0.0,))
    expected = flags.copy()
    for name in np.unique(station):
        run: list[int] = []
        for k in [*(k for k in order if station[k] == name and flags[k] == 0), None]:
            if k is None or (run and values[k] != values[run[-1]]):
                if len(run) >= least and values[run[0]] != 0:
                    expected[run] = QCFlag.STUCK
                run = []
            if k is not None:
                run.append(k)
    np.testing.assert_array_equal(found, expected)


@settings(deadline=None, max_examples=60)
@given(tables())
def test_spikes_against_a_loop(table):
    station, time, values, flags, order = table
    found = flags.copy()
    flag_spikes(order, station, time, values, found, 3.0)
    expected, usable = flags.copy(), [k for k in order if flags[k] == 0]
    pairs = [(a, b) for a, b in itertools.pairwise(usable) if station[a] == station[b]]
    longest = 2 * np.median([(time[b] - time[a]).astype(float) for a, b in pairs]) if pairs else 0
    for a, b, c in zip(usable, usable[1:], usable[2:], strict=False):
        near = station[a] == station[b] == station[c] and all(
            (time[j] - time[i]).astype(float) <= longest for i, j in ((a, b), (b, c))
        )
        height = abs(values[b] - (values[a] + values[c]) / 2) - abs(values[c] - values[a]) / 2
        if near and height > 3.0:
            expected[b] = QCFlag.SPIKE
    np.testing.assert_array_equal(found, expected)


def test_a_step_that_stays_is_no_spike():
    flags = np.zeros(6, np.uint8)
    values = np.array([1.0, 1.0, 1.0, 9.0, 9.0, 9.0])
    flag_spikes(np.arange(6), np.zeros(6, int), np.arange(6).astype("datetime64[h]"), values, flags, 1.0)
    assert not flags.any()


@pytest.mark.parametrize("flag", [QCFlag.MISSING, QCFlag.PRE_QC])
def test_the_first_reason_stays(flag):
    flags = np.array([flag], np.uint8)
    flag_bounds(np.array([1e9]), flags, (0.0, 1.0))
    assert flags.tolist() == [flag]
