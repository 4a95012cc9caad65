"""The normal law."""

from __future__ import annotations

__all__ = ["NORMAL_90"]

NORMAL_90 = 1.6448536269514722  # half width of the central 90 %, in standard deviations
