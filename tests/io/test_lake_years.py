"""Tables of whole years: what is read, and every flaw by name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.io.lake_years import read_lake_years


def table(years=(2001, 2003), days=365):
    rows = [(year, day) for year in years for day in range(1, days + 1)]
    frame = pd.DataFrame(rows, columns=["year", "day"])
    return frame.assign(inflow=np.arange(len(rows)) + 0.5, demand=80.0, level=0.4)


def test_years_come_in_their_order_however_the_rows_are_written(tmp_path):
    table().sample(frac=1, random_state=0).to_csv(tmp_path / "lake.csv", index=False)
    found = read_lake_years(tmp_path / "lake.csv")
    assert found.years.tolist() == [2001, 2003] and found.name == "lake.csv"
    np.testing.assert_array_equal(found.inflow.ravel(), np.arange(730) + 0.5)
    assert found.demand.shape == (2, 365)


def change(row, column, value):
    def of(frame):
        frame[column] = frame[column].astype(object)
        frame.loc[row, column] = value
        return frame

    return of


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (change(3, "year", ""), "column year, row 5: is missing"),
        (change(3, "demand", -2.0), "column demand, row 5: is -2"),
        (change(3, "inflow", ""), "column inflow, row 5: is missing"),
        (change(3, "inflow", "much"), "much"),
        (change(3, "inflow", "inf"), "inf"),
        (change(3, "day", 2.5), "column day, row 5: is 2.5"),
        (change(3, "day", 3), "day 3 of 2001 appears twice"),
        (change(364, "day", 366), "2001 has a day 366; days run from 1 to 365"),
        (change(0, "day", 0), "2001 has a day 0"),
        (lambda frame: frame.drop(index=9), "2001 has 364 of 365 days; day 10 is left out"),
        (lambda frame: frame[:400], "2003 has 35 of 365 days; day 36 is left out"),
        (lambda frame: frame[:0], "empty"),
    ],
)
def test_a_flaw_is_named(tmp_path, changed, words):
    changed(table()).to_csv(tmp_path / "lake.csv", index=False)
    with pytest.raises(DataError, match=words):
        read_lake_years(tmp_path / "lake.csv")


def test_columns_and_files_must_be_there(tmp_path):
    table().drop(columns="demand").to_csv(tmp_path / "lake.csv", index=False)
    with pytest.raises(ConfigurationError, match="demand"):
        read_lake_years(tmp_path / "lake.csv")
    with pytest.raises(DataError, match=r"none\.csv"):
        read_lake_years(tmp_path / "none.csv")
    with pytest.raises(DataError, match="has a day 365"):
        read_lake_years(table(), days=360)
