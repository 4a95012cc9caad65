"""From a list of single reports, each with its own time and place, to padded observations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.checks import real_array
from diffassim.core.errors import DataError, ShapeError
from diffassim.covariances import Diagonal
from diffassim.cycling.padding import bucket_size
from diffassim.observations import Observations, steps_and_fractions
from diffassim.observations.normalize import checked_where

__all__ = ["observations_from_reports"]


def observations_from_reports(
    values: Any,
    times: Any,
    dt: Any,
    *,
    operator: Any,
    where: Any,
    std: Any,
    origin: Any = None,
    rows: int | None = None,
    columns: int | None = None,
    **fields: Any,
) -> tuple[Observations, np.ndarray]:
    """Sort single reports into rows, one for each model step (or interval between two) in which there are any.

    A row needs one or two states of the trajectory, however many reports are in it; every report keeps its own time,
    between the steps. Rows and columns are padded to sizes of `bucket_size`, so that other reports, at other times and
    places and not many more of them, need no new compilation.

    Args:
        values: observed values, shape (report,); NaN is missing.
        times: time of each report: numbers in the unit of `dt`, or datetime64.
        dt: length of a model step, a number or timedelta64.
        operator: observation operator H(x, where) that takes many places at once, such as `Interpolate`.
        where: places, array or pytree of arrays with a leading axis of reports; one that is not finite is missing.
        std: standard deviation of the error, a number or one for each report.
        origin: time of step 0, the window start.
        rows: number of rows; default: the next `bucket_size`.
        columns: number of reports in a row; default: the next `bucket_size`.
        **fields: other fields of `Observations` (`loss`, `parameters`).

    Returns:
        `Observations` with values of shape (row, column), and the number of the report in each of its entries (-1:
        padding), with which anything by entry, such as flags, goes back to the reports.

    Raises:
        ShapeError: if the arrays disagree in length, or the reports do not fit into `rows` and `columns`.
        DataError: if a time is missing or lies before the origin.

    Example:
        >>> import jax.numpy as jnp
        >>> import diffassim as da
        >>> H = da.observations.Interpolate(spacing=(1.0,))
        >>> obs, report = observations_from_reports(
        ...     [5.0, 6.0, 7.0], [0.25, 2.0, 0.75], 1.0, operator=H, where=jnp.array([[0.1], [3.5], [2.0]]), std=1.0
        ... )
        >>> obs.steps[:2].tolist(), obs.fraction[0, :2].tolist(), report[:2, :2].tolist()
        ([0, 2], [0.25, 0.75], [[0, 2], [1, -1]])
    """
    name = "observations_from_reports"
    values, std = (np.asarray(real_array(f"{name}: {part}", v)) for part, v in (("values", values), ("std", std)))
    if values.ndim != 1:
        raise ShapeError(f"{name}: values must have the shape (report,), found {values.shape}")
    where = jax.tree.map(np.asarray, checked_where(where))
    count = len(values)
    arrays = [("times", np.asarray(times)), *(("where", leaf) for leaf in jax.tree.leaves(where))]
    if std.ndim:
        arrays.append(("std", std))
    for name, array in arrays:
        if array.shape[:1] != (count,):
            raise ShapeError(f"observations_from_reports: {name} has shape {array.shape}, but there are {count} values")
    steps, fractions = (np.asarray(part) for part in steps_and_fractions(times, dt, origin))
    if count and steps.min() < 0:
        raise DataError(f"observations_from_reports: {int((steps < 0).sum())} reports lie before the origin")
    # Reports on a step and those after it are rows apart: the window that ends on the step takes only the former.
    keys, row_of = np.unique(2 * steps.astype(np.int64) + (fractions > 0), return_inverse=True)
    order = np.argsort(row_of, kind="stable")
    sizes = np.bincount(row_of, minlength=len(keys)) if count else np.zeros(0, int)
    column_of = np.empty(count, int)
    column_of[order] = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    shape = (
        bucket_size(len(keys)) if rows is None else rows,
        bucket_size(int(sizes.max(initial=0))) if columns is None else columns,
    )
    if len(keys) > shape[0] or sizes.max(initial=0) > shape[1]:
        raise ShapeError(
            f"observations_from_reports: {len(keys)} rows of up to {sizes.max(initial=0)} reports do not fit into the "
            f"shape {shape}"
        )
    report = np.full(shape, -1)
    report[row_of, column_of] = np.arange(count)

    def spread(array: Any, fill: Any) -> Any:
        array = np.asarray(array)
        out = np.full((*shape, *array.shape[1:]), fill, array.dtype)
        out[row_of, column_of] = array
        return out

    row_steps = np.zeros(shape[0], np.int32)
    row_steps[: len(keys)] = keys // 2
    found = Observations(
        spread(values, np.nan),
        row_steps,
        operator=operator,
        where=jax.tree.map(lambda leaf: jnp.asarray(spread(leaf, 0)), where),
        fraction=spread(fractions, 0),
        error=Diagonal(spread(np.broadcast_to(std, (count,)), 1)),
        **fields,
    )
    return found, report
