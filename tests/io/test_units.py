"""Units: closed forms, spellings of tables and of CF, and what cannot be converted."""

from __future__ import annotations

import numpy as np
import pytest

from diffassim import ConfigurationError
from diffassim.io.plausible import PLAUSIBLE, plausible_bounds
from diffassim.io.units import converted, require_convertible


@pytest.mark.parametrize(
    ("value", "found", "wanted", "expected"),
    [
        (1.0, "knot", "m s-1", 1852 / 3600),
        (1.0, "mph", "m/s", 0.44704),
        (32.0, "degF", "degC", 0.0),
        (20.0, "Celsius", "K", 293.15),
        (20.0, "degrees_C", "°C", 20.0),
        (1.0, "hPa", "Pa", 100.0),
        (1.0, "inHg", "hPa", 33.86389),
        (86.4, "mm/day", "mm h-1", 3.6),
        (1.0, "m3 s-1", "l s^-1", 1000.0),
        (1.0, "ppm", "ppb", 1000.0),
        (50.0, "%", "1", 0.5),
        (35.0, "psu", "g kg-1", 35.0),
        (1.0, "ug m-3", "mg/m3", 1e-3),
        (180.0, "degrees_north", "radian", np.pi),
        (1.0, "W m-2", "J m-2 s-1", 1.0),
    ],
)
def test_conversions(value, found, wanted, expected):
    np.testing.assert_allclose(converted("x", [value], found, wanted), [expected], rtol=1e-6, atol=1e-12)
    back = converted("x", converted("x", [value], found, wanted), wanted, found)
    np.testing.assert_allclose(back, [value], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("found", "wanted", "factor"), [("degC", "K", 1.0), ("degF", "K", 5 / 9), ("hPa", "Pa", 100.0)]
)
def test_a_standard_deviation_knows_no_zero_point(found, wanted, factor):
    np.testing.assert_allclose(converted("x", [2.0], found, wanted, difference=True), [2 * factor], rtol=1e-11)


def test_missing_values_stay_missing_and_equal_units_need_no_library():
    assert np.isnan(converted("x", [np.nan], "degC", "K")).all()
    assert converted("x", [1.0], "no such unit", "no such unit").tolist() == [1.0]


@pytest.mark.parametrize(
    ("found", "wanted", "message"),
    [
        ("C", "K", r"x: found the unit 'C', expected one .* into 'K' \(C is the coulomb"),
        ("mb", "hPa", "mb is the millibarn"),
        ("m", "s", "x: found the unit 'm', expected one that can be converted into 's'"),
        ("wind", "m s-1", r"x: the unit 'wind' is not known .*\(found 'wind', expected 'm s-1'\)"),
        ("m s-1", "10 m", "x: the unit '10 m' is not known"),
        ("m/(", "m", "is not known"),
        ("m" * 10**5, "m", "is not known"),
    ],
)
def test_what_cannot_be_converted_is_one_line(found, wanted, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        require_convertible("x", found, wanted)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("kind", PLAUSIBLE)
def test_bounds_of_every_kind_are_in_a_known_unit(kind):
    low, high, unit = PLAUSIBLE[kind]
    require_convertible(kind, unit, "1" if unit in ("percent", "ppb", "ppm", "degree", "g kg-1") else unit + " ")
    assert low < high and plausible_bounds(kind, kind, unit) == (low, high)


def test_bounds_in_other_units():
    assert plausible_bounds("t", "air_temperature", "degF") == (-130.0, 140.0)
    low, high = plausible_bounds("ff", "wind_speed", "mph")
    assert low == 0 and high < 1048  # the gust that a famous table has
    with pytest.raises(ConfigurationError, match="'air_temp'; did you mean 'air_temperature'"):
        plausible_bounds("t", "air_temp", "K")
