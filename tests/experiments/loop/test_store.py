"""Collecting rows: each once, corrections said, another table refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from diffassim.core.errors import DataError
from diffassim.experiments.loop.artifacts import as_csv, as_json, from_csv, signed, unsigned
from diffassim.experiments.loop.screening import ColumnChecks, screened
from diffassim.experiments.loop.store import SourceRows, collect, read_store
from diffassim.observations.flags import QCFlag

DAYS = pd.date_range("2001-01-01", periods=40, name="time")
LATER = pd.Timestamp("2002-01-01")


@pytest.fixture
def frame():
    values = np.random.default_rng(0).normal(size=(40, 2))
    values[3, 1] = np.nan
    return pd.DataFrame(values, DAYS, ["a", "b"])


def test_collecting_again_brings_nothing(frame):
    first = collect(SourceRows(frame, "t"), None, DAYS[30])
    assert len(first.rows) == 30 and first.summary["missing"] == {"a": 0, "b": 1}
    again = collect(SourceRows(frame, "t"), first.rows, DAYS[30])
    assert again.rows.empty and again.corrections.empty and again.summary["unchanged"] == 30
    second = collect(SourceRows(frame, "t"), first.rows, LATER)
    pd.testing.assert_frame_equal(pd.concat([first.rows, second.rows]), frame, check_freq=False)


def test_a_store_of_segments_is_read_bit_by_bit_and_the_last_row_counts(frame, tmp_path):
    (tmp_path / "1.csv").write_bytes(as_csv(frame[:30]))
    changed = frame[25:].copy()
    changed.iloc[0, 0] = 1 / 3
    (tmp_path / "2.csv").write_bytes(as_csv(changed))
    found = read_store([tmp_path / "1.csv", tmp_path / "2.csv"])
    expected = frame.copy()
    expected.iloc[25, 0] = 1 / 3
    assert found.to_numpy().tobytes() == expected.to_numpy().tobytes()


def test_a_value_that_appears_or_goes_is_a_correction(frame):
    now = frame.copy()
    now.iloc[3, 1], now.iloc[4, 0] = 1.0, np.nan
    found = collect(SourceRows(now, "t"), frame, LATER)
    assert found.summary["corrected"] == 2 and len(found.rows) == 2
    assert found.corrections["column"].tolist() == ["b", "a"]


def test_rows_that_a_table_has_lost_are_counted_and_those_before_its_beginning_are_not(frame):
    moving = frame[10:].drop(DAYS[[20, 21]])  # as a provider that keeps some weeks, and has taken two days out
    found = collect(SourceRows(moving, "t"), frame[:30], LATER)
    assert found.summary["withdrawn"] == 2 and found.summary["new"] == 10 and found.corrections.empty
    assert collect(SourceRows(frame, "t"), None, LATER).summary["withdrawn"] == 0


def test_tables_with_whole_numbers_and_text_come_back():
    table = pd.DataFrame({"n": [1, 2], "x": [0.1, np.nan], "s": ["a", "b"]}, DAYS[:2])
    found = from_csv(as_csv(table))
    assert found["n"].tolist() == [1, 2] and found["s"].tolist() == ["a", "b"]
    assert found["x"].iloc[0] == 0.1 and np.isnan(found["x"].iloc[1])
    assert from_csv(as_csv(table.iloc[:0])).empty


def test_a_signature_finds_any_change(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(signed({"a": np.arange(2.0), "b": float("inf")}))
    assert unsigned(path) == {"a": [0.0, 1.0], "b": None}
    for content in (b"", b"[]", b"{}", as_json({"a": 1, "sha256": "0"})):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.json: altered"):
            unsigned(path)


def test_screening_leaves_missing_values_alone():
    table = pd.DataFrame({"q": [1.0, np.nan, 9.0, 1.0, 1.5]}, DAYS[:5])
    flags = screened(table, {"q": ColumnChecks((0.0, 10.0), spike=3.0)})["q"]
    assert flags.tolist() == [0, 0, QCFlag.SPIKE, 0, 0] or flags.tolist() == [0] * 5
    assert screened(table.iloc[:0], {"q": ColumnChecks((0.0, 1.0))}).empty
