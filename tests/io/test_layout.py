"""Layouts: impossible settings are refused where they are made."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffassim import ConfigurationError
from diffassim.io.columns import Region, TableVariable, TextFormat, TimeColumns
from diffassim.io.layout import LongLayout, WideLayout
from diffassim.io.messages import suggested

WIND = TableVariable("wind", unit="m s-1")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TextFormat(decimal=";"), "decimal must be '.' or ','"),
        (lambda: TextFormat(decimal=",", thousands=","), "',' cannot be the decimal mark and a separator as well"),
        (lambda: TextFormat(decimal=",", separator=","), "',' cannot be the decimal mark and a separator as well"),
        (lambda: TextFormat(skip_rows=-1), "skip_rows must not be negative"),
        (lambda: TextFormat(quote="''"), "quote must be one character"),
        (lambda: Region(south=10, north=5), "latitudes 10 to 5 must increase"),
        (lambda: Region(west=np.nan), "must increase"),
        (lambda: TableVariable("t", scale=0.0), "t: scale 0.0 and offset 0.0 must be finite, and the scale not 0"),
        (lambda: TableVariable("t", spike=-1.0), "t: spike must be positive"),
        (lambda: TableVariable("t", stuck=1), "t: stuck must be at least 2 values"),
        (lambda: TableVariable("t", std=0.0), "t: std must be positive"),
        (lambda: TableVariable("t", bounds=(3.0, 1.0)), "t: bounds .* must be two numbers that increase"),
        (lambda: LongLayout(variables=()), "variables must have names of their own"),
        (lambda: LongLayout(variables=(WIND, WIND)), "variables must have names of their own"),
        (lambda: LongLayout(variables=(WIND,), longitude="lon"), "give both longitude and latitude, or neither"),
        (lambda: LongLayout(variables=(WIND,), station=None), "without a column of stations"),
        (lambda: LongLayout(variables=(WIND,), only="gauge"), "`only` names a station where no column does"),
        (lambda: LongLayout(variables=(WIND,), duplicates="fist"), "LongLayout: duplicates .*; did you mean 'first'"),
        (lambda: LongLayout(variables=(WIND,), chunk=0), "chunk must be at least 1 row"),
        (lambda: WideLayout(variable=WIND, columns="A"), "columns must be names, a mapping or 'order', found 'A'"),
        (lambda: WideLayout(variable=WIND, columns="order"), "columns='order' needs a table of stations"),
    ],
)
def test_impossible_settings(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_one_variable_need_not_be_a_tuple():
    assert LongLayout(variables=WIND).variables == (WIND,)
    assert WideLayout(variable=WIND, columns=["A", "B"]).columns == ("A", "B")
    assert TimeColumns(["year", "month"]).parts == ("year", "month")


def test_an_unknown_encoding():
    from diffassim.io.read_table import read_table

    with pytest.raises(ConfigurationError, match="the encoding 'utf-9' is not known"):
        read_table(__file__, LongLayout(variables=WIND, text=TextFormat(encoding="utf-9")))


@settings(deadline=None)
@given(st.floats(-360, 360), st.floats(0, 359), st.floats(-720, 720), st.floats(-90, 90))
def test_a_region_holds_its_longitudes_whatever_the_turn(west, width, longitude, latitude):
    region = Region(west=west, east=west + width)
    inside = bool(region.holds(longitude, latitude))
    apart = (longitude - west) % 360
    if min(abs(apart - width), apart, 360 - apart) > 1e-6:  # not on an edge
        assert inside == (apart < width)
        assert bool(region.holds(longitude + 360, latitude)) == inside
    assert Region().holds(longitude, latitude)


def test_names_that_are_similar_are_suggested():
    assert suggested("Ozone ", ["date", "ozone"]) == "; did you mean 'ozone'?"
    assert suggested("q", pd.Index(["date", "ozone"])) == ""
