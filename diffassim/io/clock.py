"""Times of a table: from text, numbers or several columns to UTC, with no hour shifted in silence."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from diffassim.core.errors import DataError
from diffassim.io.cells import Missing, numbers, texts
from diffassim.io.columns import TextFormat, TimeColumns
from diffassim.io.messages import shortened, single_line
from diffassim.io.regular import shown

__all__ = ["LocalTimes", "local_times", "to_utc"]

OFFSET = r"\d\d:\d\d.*(?:Z|[+-]\d\d(?::?\d\d)?)$"  # after a time of day, not the day of a date
MICROSECOND = np.timedelta64(1, "us")
UNITS = {"day": 86_400_000_000, "hour": 3_600_000_000, "minute": 60_000_000, "second": 1_000_000}


class LocalTimes(NamedTuple):
    """Times as they stand in the file, datetime64[us], NaT where there is none; and which of them are UTC already."""

    times: np.ndarray
    is_utc: np.ndarray


def local_times(file: str, frame: pd.DataFrame, first_row: int, how: TimeColumns, text: TextFormat) -> LocalTimes:
    """Return the times of some rows.

    Args:
        file: name for messages.
        frame: rows that hold the columns of the times.
        first_row: number of the first of them in the file.
        how: how times are written.
        text: how numbers are written.

    Raises:
        DataError: if a date cannot be read, with its row.

    Example:
        >>> frame = pd.DataFrame({"time": ["2020-01-01T06:00", "2020-01-01T06:00+02:00"]})
        >>> [part.tolist() for part in local_times("a", frame, 2, TimeColumns(), TextFormat())[1:]]
        [[False, True]]
    """
    if not isinstance(how.columns, str):
        found = _from_parts(file, frame, first_row, how, text)
        return LocalTimes(found, np.zeros(len(found), bool))
    column = frame[how.columns]
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        utc = column.dt.tz_convert("UTC").dt.tz_localize(None)
        return LocalTimes(utc.to_numpy().astype("datetime64[us]"), np.ones(len(column), bool))
    if pd.api.types.is_datetime64_dtype(column.dtype):
        return LocalTimes(column.to_numpy().astype("datetime64[us]"), np.zeros(len(column), bool))
    if how.format is not None and " since " in how.format:
        found = _from_numbers(file, column, first_row, how.format, text)
        return LocalTimes(found, np.zeros(len(found), bool))
    return _from_text(file, column, first_row, how.format)


def to_utc(
    file: str, local: LocalTimes, how: TimeColumns, station: np.ndarray, row: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return times in UTC, NaT for what is to be left out, and what there is to be said of clocks that were changed.

    Args:
        file: name for messages.
        local: times of all reports, in the order of the file.
        how: zone, and what becomes of hours that occur twice or never.
        station: of each report, to tell the first from the second of two.
        row: of each report in the file.

    Raises:
        DataError: if a time occurs twice or never, and `how` does not say what it means.

    Example:
        >>> night = np.array(["2021-10-31T02:30", "2021-10-31T02:30"], "datetime64[us]")
        >>> how = TimeColumns(zone="Europe/Berlin", doubled="order")
        >>> local = LocalTimes(night, np.zeros(2, bool))
        >>> to_utc("a", local, how, np.zeros(2, int), np.arange(2))[0].astype("datetime64[m]").astype(str).tolist()
        ['2021-10-31T00:30', '2021-10-31T01:30']
    """
    if how.zone == "UTC" or local.is_utc.all():
        return local.times, ()
    codes, unique = pd.factorize(local.times)
    index = pd.DatetimeIndex(unique)
    first, second = (
        index.tz_localize(how.zone, ambiguous=np.full(len(index), flag), nonexistent="NaT") for flag in (True, False)
    )
    shifted = index.tz_localize(how.zone, ambiguous=np.full(len(index), True), nonexistent=_hour_left_out(index, how))
    early, late, moved = (_naive_utc(part) for part in (first, second, shifted))
    none = codes < 0
    doubled = ((early != late) & ~np.isnat(early))[codes] & ~none & ~local.is_utc
    never = np.isnat(early)[codes] & ~none & ~local.is_utc
    found = np.where(none, np.datetime64("NaT"), early[codes])
    notes: list[str] = []
    if doubled.any():
        _doubled(file, found, late[codes], doubled, local.times, how, station, row, notes)
    if never.any():
        place = (
            f"{file}: row {row[np.argmax(never)]}: {shown(local.times[np.argmax(never)])} does not exist in {how.zone}"
        )
        many = f"({int(never.sum())} such rows)"
        if how.skipped == "error":
            raise DataError(
                f"{place}, where the clock is set forward {many}; say skipped='missing' or 'shift', or a "
                "zone without daylight saving such as 'Etc/GMT-1' (UTC+1) if the table keeps one all year"
            )
        found = np.where(never, moved[codes] if how.skipped == "shift" else np.datetime64("NaT"), found)
        notes.append(f"{place} {many}: {'shifted by the hour' if how.skipped == 'shift' else 'left out'}")
    return np.where(local.is_utc, local.times, found), tuple(notes)


def _doubled(
    file: str, found: np.ndarray, late: np.ndarray, doubled: np.ndarray, times: np.ndarray,
    how: TimeColumns, station: np.ndarray, row: np.ndarray, notes: list[str],
) -> None:  # fmt: skip
    """Decide in place which of the two hours is meant."""
    at = np.flatnonzero(doubled)
    place = f"{file}: row {row[at[0]]}: {shown(times[at[0]])} occurs twice in {how.zone}"
    many = f"({len(at)} such rows)"
    if how.doubled == "error":
        raise DataError(
            f"{place}, where the clock is set back {many}; say doubled='order', 'first', 'second' or "
            "'missing', or a zone without daylight saving such as 'Etc/GMT-1' (UTC+1) if the table keeps one all year"
        )
    if how.doubled == "order":
        group = pd.DataFrame({"station": station[at], "time": times[at]}).groupby(["station", "time"])["time"]
        number, size = group.cumcount().to_numpy(), group.transform("size").to_numpy()
        found[at] = np.where(number >= 1, late[at], found[at])
        found[at[size != 2]] = np.datetime64("NaT")
        single = int((size != 2).sum())
        notes.append(f"{place} {many}: the first row of a station is the first hour")
        if single:
            notes.append(f"{file}: {single} of these rows are not two of a station, and were left out")
        return
    if how.doubled == "second":
        found[at] = late[at]
    elif how.doubled == "missing":
        found[at] = np.datetime64("NaT")
    notes.append(f"{place} {many}: {'left out' if how.doubled == 'missing' else f'the {how.doubled} was taken'}")


def _hour_left_out(index: pd.DatetimeIndex, how: TimeColumns) -> Any:
    return pd.Timedelta(hours=1) if how.skipped == "shift" and len(index) else "NaT"


def _naive_utc(index: pd.DatetimeIndex) -> np.ndarray:
    return index.tz_convert("UTC").tz_localize(None).to_numpy().astype("datetime64[us]")


def _from_text(file: str, column: pd.Series, first_row: int, form: str | None) -> LocalTimes:
    codes, unique = texts(column)
    words = pd.Series(unique, dtype=str)
    try:
        parsed = pd.to_datetime(words, format="ISO8601" if form is None else form, errors="coerce", utc=True)
    except ValueError as error:  # a directive that strptime does not know
        raise DataError(f"{file}: the format {shortened(repr(form))} of times: {single_line(error, 100)}") from None
    stamps = parsed.dt.tz_localize(None).to_numpy().astype("datetime64[us]")
    known = codes >= 0
    bad = known & np.isnat(stamps)[codes] if len(stamps) else known
    if bad.any():
        at = int(np.argmax(bad))
        wanted = "ISO 8601, such as 2021-05-31T06:00" if form is None else f"the form {form}"
        raise DataError(
            f"{file}: column {shortened(column.name)}, row {first_row + at}: {shortened(repr(unique[codes[at]]))} is "
            f"no date of {wanted}; say what form they have (format of TimeColumns, time_format in settings; "
            f"{int(bad.sum())} such cells near there)"
        )
    with_offset = words.str.contains(OFFSET, regex=True) if form is None else np.full(len(words), "%z" in form)
    offsets = np.asarray(with_offset, dtype=bool)
    if not len(stamps):
        return LocalTimes(np.full(len(codes), np.datetime64("NaT"), "datetime64[us]"), np.zeros(len(codes), bool))
    return LocalTimes(np.where(known, stamps[codes], np.datetime64("NaT")), known & offsets[codes])


def _from_numbers(file: str, column: pd.Series, first_row: int, form: str, text: TextFormat) -> np.ndarray:
    unit, date = (part.strip() for part in form.split(" since ", 1))
    microseconds = UNITS.get(unit.lower().removesuffix("s"))
    try:
        start = pd.Timestamp(date).to_datetime64().astype("datetime64[us]")
    except ValueError:
        start = np.datetime64("NaT")
    if microseconds is None or np.isnat(start):
        raise DataError(f"{file}: times {shortened(repr(form))}; expected days, hours, minutes or seconds since a date")
    values = numbers(file, column, first_row, Missing(("",), ()), text)
    known = np.isfinite(values)
    whole = np.round(np.where(known, values, 0) * microseconds).astype(np.int64)
    return np.where(known, start + whole * MICROSECOND, np.datetime64("NaT"))


def _from_parts(file: str, frame: pd.DataFrame, first_row: int, how: TimeColumns, text: TextFormat) -> np.ndarray:
    none = Missing(("",), ())
    found = {
        part: numbers(file, frame[column], first_row, none, text)
        for part, column in zip(how.parts or (), how.names, strict=True)
    }
    blank = np.all([np.isnan(values) for values in found.values()], axis=0)
    if how.century is not None:
        found["year"] = np.where(found["year"] < 100, found["year"] + how.century, found["year"])
    limits = {
        "year": (100, 9999), "month": (1, 12), "day": (1, 31), "day_of_year": (1, 366),
        "hour": (0, 24), "minute": (0, 59), "second": (0, 60 - 1e-6),
    }  # fmt: skip
    bad = np.zeros(len(frame), bool)
    for part, values in found.items():
        low, high = limits[part]
        whole = part == "second" or values == np.round(values)
        bad |= ~blank & ~((values >= low) & (values <= high) & whole)

    def of(part: str, default: int) -> np.ndarray:
        values = found.get(part)
        fill = np.full(len(frame), float(default)) if values is None else values
        return np.where(blank | bad, default, fill)

    month = (of("year", 1970) - 1970).astype(int).astype("datetime64[Y]").astype("datetime64[M]")
    if "day_of_year" in found:
        day = month.astype("datetime64[D]") + (of("day_of_year", 1) - 1).astype(int).astype("timedelta64[D]")
        bad |= ~blank & (day.astype("datetime64[Y]") != month.astype("datetime64[Y]"))
    else:
        month = month + (of("month", 1) - 1).astype(int).astype("timedelta64[M]")
        day = month.astype("datetime64[D]") + (of("day", 1) - 1).astype(int).astype("timedelta64[D]")
        bad |= ~blank & (day.astype("datetime64[M]") != month)
    seconds = of("hour", 0) * 3600 + of("minute", 0) * 60 + of("second", 0)
    bad |= ~blank & (seconds > 86400)
    if bad.any():
        at = int(np.argmax(bad))
        cells = ", ".join(f"{column} {frame[column].iloc[at]}" for column in how.names)
        short = " (years of two digits? century=1900)" if found["year"][at] < 100 else ""
        raise DataError(f"{file}: row {first_row + at}: {shortened(cells, 200)} is no date{short}")
    times = day.astype("datetime64[us]") + np.round(seconds * 1e6).astype(np.int64) * MICROSECOND
    return np.where(blank, np.datetime64("NaT"), times)
