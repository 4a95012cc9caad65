"""When a score over several seeds reaches a documented one."""

from __future__ import annotations

import numpy as np


def assert_reached(error, documented):
    """The mean is at most 3 % or two standard errors above the documented score, and no run is lost."""
    standard_error = np.std(error, ddof=1) / error.size**0.5
    # A lost run widens the standard error so far that anything would pass: it is a failure of its own.
    assert np.all(error <= 2 * documented), error
    assert np.mean(error) <= documented + max(0.03 * documented, 2 * standard_error), error
