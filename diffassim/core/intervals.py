"""Intervals of means over independent runs."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["interval"]


def interval(values: Any) -> tuple[Any, Any]:
    r"""Return the mean over runs, and half of its interval of 95 percent by Student's t; NaN for a single run.

    .. math:: \bar x \pm t_{.975,\,n-1}\, s / \sqrt{n}

    Args:
        values: of independent runs, shape (runs, ...).

    Example:
        >>> mean, half = interval([1.0, 2.0, 3.0])
        >>> float(mean), round(float(half), 3)
        (2.0, 2.484)
    """
    values = np.asarray(values, float)
    mean, count = values.mean(axis=0), len(values)
    if count < 2:
        return mean, mean * np.nan
    from scipy.stats import t

    return mean, t.ppf(0.975, count - 1) * values.std(axis=0, ddof=1) / count**0.5
