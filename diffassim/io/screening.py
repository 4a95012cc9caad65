"""Gross errors of reports: bounds, duplicates, spikes, stuck values; each check sets a flag of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffassim.core.errors import DataError
from diffassim.io.messages import shortened
from diffassim.io.regular import shown
from diffassim.observations.flags import QCFlag

__all__ = ["flag_bounds", "flag_spikes", "flag_stuck", "require_single", "resolve_duplicates"]

NEIGHBORS = 2.0  # a spike is seen against values no farther away than this many of the usual intervals


def flag_bounds(values: np.ndarray, flags: np.ndarray, bounds: tuple[float, float] | None) -> None:
    """Flag, in place, what lies outside of the bounds or is infinite.

    Example:
        >>> flags = np.zeros(3, np.uint8)
        >>> flag_bounds(np.array([1.0, 468.5, np.inf]), flags, (0.0, 115.0))
        >>> flags.tolist()
        [0, 12, 12]
    """
    low, high = (-np.inf, np.inf) if bounds is None else bounds
    with np.errstate(invalid="ignore"):
        outside = (values < low) | (values > high) | np.isinf(values)
    flags[outside & (flags == QCFlag.PASS)] = QCFlag.BOUNDS


def require_single(
    file: str, order: np.ndarray, station: np.ndarray, time: np.ndarray, row: np.ndarray, names: Any
) -> None:
    """Raise `DataError` for the first two reports of a station at one time.

    Args:
        file: name for messages.
        order: reports sorted by station and time, in the order of the file where these are the same.
        station: of each report.
        time: of each report.
        row: of each report in the file.
        names: of the stations.
    """
    again = np.flatnonzero(_again(order, station, time))
    if again.size:
        pairs = np.stack([row[order[again]], row[order[again + 1]]])
        at = int(np.argmin(pairs[1]))
        report = order[again[at]]
        raise DataError(
            f"{file}: rows {pairs[0, at]} and {pairs[1, at]} are both of the station "
            f"{shortened(repr(str(names[station[report]])))} at {shown(time[report])} UTC; say "
            f"duplicates='first', 'last' or 'mean' ({again.size} such pairs)"
        )


def resolve_duplicates(
    rule: str, order: np.ndarray, station: np.ndarray, time: np.ndarray, values: np.ndarray, flags: np.ndarray
) -> None:
    """Let, in place, one of several usable values of a station at one time count, and flag the others.

    With the rule "mean" it is the first, which becomes the mean of all of them.

    Args:
        rule: "first", "last" or "mean".
        order: reports sorted by station and time.
        station: of each report.
        time: of each report.
        values: of one variable.
        flags: its flags.

    Example:
        >>> values, flags, zeros = np.array([1.0, 3.0]), np.zeros(2, np.uint8), np.zeros(2, int)
        >>> resolve_duplicates("mean", np.arange(2), zeros, zeros, values, flags)
        >>> values.tolist(), flags.tolist()
        ([2.0, 3.0], [0, 101])
    """
    usable = order[flags[order] == QCFlag.PASS]
    again = _again(usable, station, time)
    if not again.any():
        return
    starts = np.flatnonzero(np.concatenate([[True], ~again]))
    ends = np.concatenate([starts[1:], [len(usable)]]) - 1
    kept = ends if rule == "last" else starts
    if rule == "mean":
        sums = np.add.reduceat(values[usable], starts)
        several = ends > starts
        values[usable[starts[several]]] = sums[several] / (ends - starts + 1)[several]
    counts = np.zeros(len(usable), bool)
    counts[kept] = True
    flags[usable[~counts]] = QCFlag.DUPLICATE


def flag_spikes(
    order: np.ndarray, station: np.ndarray, time: np.ndarray, values: np.ndarray, flags: np.ndarray, threshold: float
) -> None:
    r"""Flag, in place, values that stand out from those before and after them.

    .. math:: |y_2 - (y_1 + y_3)/2| - |y_3 - y_1|/2 > \tau

    A value is compared with the usable ones of its station next to it, if they are no farther away than twice the
    usual interval (the median). Of a step that stays, nothing is flagged.

    Args:
        order: reports sorted by station and time.
        station: of each report.
        time: datetime64 of each report.
        values: of one variable.
        flags: its flags.
        threshold: tau, in the unit of the values.

    Example:
        >>> flags, hours = np.zeros(5, np.uint8), np.arange(5).astype("datetime64[h]")
        >>> flag_spikes(np.arange(5), np.zeros(5, int), hours, np.array([1.0, 1.0, 9.0, 1.0, 1.0]), flags, 3.0)
        >>> flags.tolist()
        [0, 0, 102, 0, 0]

    Source: Argo Quality Control Manual, test 9 (Wong et al.), which has it from GTSPP.
    """
    usable = order[flags[order] == QCFlag.PASS]
    if len(usable) < 3:
        return
    same = station[usable[1:]] == station[usable[:-1]]
    interval = np.diff(time[usable]).astype("timedelta64[us]").astype(np.int64)
    if not same.any():
        return
    near = same & (interval <= NEIGHBORS * np.median(interval[same]))
    y = values[usable]
    height = np.abs(y[1:-1] - (y[2:] + y[:-2]) / 2) - np.abs(y[2:] - y[:-2]) / 2
    flags[usable[1:-1][near[1:] & near[:-1] & (height > threshold)]] = QCFlag.SPIKE


def flag_stuck(
    order: np.ndarray, station: np.ndarray, values: np.ndarray, flags: np.ndarray, least: int, allowed: Any = ()
) -> None:
    """Flag, in place, all of `least` or more equal usable values of a station one after another.

    Args:
        order: reports sorted by station and time.
        station: of each report.
        values: of one variable.
        flags: its flags.
        least: length of the shortest row that is flagged.
        allowed: values that may stay.

    Example:
        >>> flags = np.zeros(6, np.uint8)
        >>> flag_stuck(np.arange(6), np.zeros(6, int), np.array([1.0, 4.0, 4.0, 4.0, 0.0, 0.0]), flags, 3, (0.0,))
        >>> flags.tolist()
        [0, 103, 103, 103, 0, 0]
    """
    usable = order[flags[order] == QCFlag.PASS]
    if len(usable) < least:
        return
    y = values[usable]
    goes_on = (station[usable[1:]] == station[usable[:-1]]) & (y[1:] == y[:-1])
    starts = np.flatnonzero(np.concatenate([[True], ~goes_on]))
    lengths = np.diff(np.concatenate([starts, [len(usable)]]))
    stuck = (lengths >= least) & ~np.isin(y[starts], np.asarray(allowed, float))
    flags[usable[np.repeat(stuck, lengths)]] = QCFlag.STUCK


def _again(order: np.ndarray, station: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Return which reports have the station and time of the one after them, shape (report - 1,)."""
    return (station[order[1:]] == station[order[:-1]]) & (time[order[1:]] == time[order[:-1]])
