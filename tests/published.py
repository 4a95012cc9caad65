"""When scores over several seeds reach a documented one."""

from __future__ import annotations

import numpy as np
from scipy.stats import binom

FALSE_ALARM = 1e-3  # chance that a test of lost runs fails though nothing has changed
RARE = 0.01  # share of lost runs of a row that has lost none


def assert_row_holds(outcome):
    """Judge a rerun so that the verdict does not depend on how a processor rounds.

    Rounding sends a chaotic run elsewhere, so that on another machine all seeds are others. Runs that lose the truth
    are therefore judged by their number, against the share that was measured over many seeds; and the mean of the
    others may be above what it is held to by two standard errors more than the score that is asked for (3 % or two of
    them). A row that falls short of its documented score, and says why, is held to what it had when that was found.
    """
    row = outcome.row
    most = binom.ppf(1 - FALSE_ALARM, outcome.errors.size, max(row.loses, RARE))
    assert outcome.lost <= most, outcome.errors
    held_to = row.ours or max(row.documented, row.rerun[0] if row.rerun else 0)
    assert outcome.mean <= held_to + outcome.allowance + 2 * outcome.standard_error, outcome.errors
    assert np.all(outcome.spreads[outcome.kept] >= 0)
