"""Quality-control flags, in a numbering that other systems use too."""

from __future__ import annotations

import enum

__all__ = ["QCFlag"]


class QCFlag(enum.IntEnum):
    """Why an observation is not assimilated: 0 it is, 1 it is monitored only, from 10 on it is rejected.

    The numbers are those of the JEDI Unified Forward Operator and are stored in files: they do not change. Those
    that no check here sets are for data that come flagged, and for checks of your own. Numbers from 101 on are this
    package's own, of what reading a table finds.

    Example:
        >>> QCFlag(19).name, int(QCFlag.BOUNDS)
        ('FIRST_GUESS', 12)

    Source: JEDI Unified Forward Operator, `ufo/filters/QCflags.h`.
    """

    PASS = 0
    PASSIVE = 1
    MISSING = 10
    PRE_QC = 11
    BOUNDS = 12
    DOMAIN = 13
    EXCLUDED = 14
    H_FAILED = 15
    THINNED = 16
    REFERENCE = 17
    CLOUD = 18
    FIRST_GUESS = 19
    SEA_ICE = 20
    TRACK = 21
    BUDDY = 22
    DERIVATIVE = 23
    PROFILE = 24
    ONE_D_VAR = 25
    BAYESIAN = 26
    DUPLICATE = 101
    SPIKE = 102
    STUCK = 103
