"""Rank histograms: where the truth falls among the members."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaincc
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.core.pytree import Pytree, static

__all__ = ["RankHistogram", "independent_count", "known_pairs", "rank_histogram"]


class RankHistogram(Pytree):
    r"""Result of `rank_histogram`.

    A reliable ensemble has a flat histogram. With M values and counts \(n_k\), k = 0..N, flatness is measured by

    .. math:: \chi^2 = \sum_k \frac{(n_k - e)^2}{e},\quad e = \frac{M}{N + 1}

    which has N degrees of freedom if the values are independent; values at neighboring places and times are not, so
    that it is too large for them even if all is well. Its part along a straight line tells of a bias, that along a
    parabola of too little (positive `convexity`) or too much spread; each has one degree of freedom.

    Args:
        counts: number of values in each rank, shape (N + 1,); not integer where values equal members.
        skipped: pairs left out because the value or a member is missing.
    """

    counts: Float[Array, " N+1"]
    skipped: int = static(default=0)

    @property
    def frequencies(self) -> Float[Array, " N+1"]:
        """Counts over those of a flat histogram: 1 is right."""
        return self.counts / self._expected

    @property
    def outliers(self) -> float:
        """Share of the values outside of all members over that of a reliable ensemble: above one, too little spread."""
        return float(self.frequencies[0] + self.frequencies[-1]) / 2

    @property
    def chi_square(self) -> float:
        """The sum above."""
        return float(jnp.sum(jnp.square(self.counts - self._expected)) / self._expected)

    @property
    def flatness(self) -> float:
        """Chi-square over its degrees of freedom: about one for a reliable ensemble and independent values."""
        return self.chi_square / (self.counts.size - 1)

    @property
    def p_value(self) -> float:
        """Chance of so large a chi-square of independent values and a reliable ensemble."""
        return float(gammaincc((self.counts.size - 1) / 2, jnp.asarray(self.chi_square) / 2))

    @property
    def slope(self) -> float:
        """Signed root of the part of chi-square along a line: positive where the members are too low."""
        return self._along(1)

    @property
    def convexity(self) -> float:
        """Signed root of the part along a parabola: positive where the spread is too small; 0 for a single member."""
        return self._along(2) if self.counts.size > 2 else 0.0

    @property
    def _expected(self) -> Any:
        return jnp.sum(self.counts) / self.counts.size

    def _along(self, degree: int) -> float:
        ranks = np.linspace(-1.0, 1.0, self.counts.size)
        pattern = np.linalg.qr(np.vander(ranks, degree + 1, increasing=True))[0][:, degree]
        pattern = pattern * np.sign(pattern[-1])
        return float(pattern @ np.asarray(self.counts - self._expected) / np.sqrt(float(self._expected)))


def rank_histogram(members: Float[Array, N * shape], value: Float[Array, "*shape"]) -> RankHistogram:
    """Count how many members lie below each value.

    A value equal to m members has its weight shared by the m + 1 ranks that it might have. Pairs with a missing (NaN)
    value or member are left out and counted.

    Args:
        members: ensemble, member axis first, in the unit of the values.
        value: what it is verified against. Where that is an observation, add draws of its error to the members first:
            otherwise its error looks like too little spread.

    Returns:
        `RankHistogram`.

    Raises:
        ShapeError: if the shapes do not fit.
        DataError: if no complete pair is left.

    Example:
        >>> members = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
        >>> rank_histogram(members, np.array([0.5, 2.0, np.nan])).counts.tolist()
        [0.0, 1.0, 1.0]

    Source: Hamill (2001); decomposition of chi-square: Jolliffe and Primo (2008), section 3; flatness: Candille and
    Talagrand (2005), equation 7.
    """
    E, y, skipped = known_pairs("rank_histogram", members, value)
    N = len(E)
    low, high = np.sum(y > E, axis=0), np.sum(y >= E, axis=0)
    share = 1 / (high - low + 1)
    # Add the share at the lowest possible rank, take it away after the highest, and sum.
    edges = np.bincount(low, share, N + 2) - np.bincount(high + 1, share, N + 2)
    return RankHistogram(jnp.asarray(np.cumsum(edges)[: N + 1]), skipped)


def independent_count(ranks: Any, size: int, blocks: int = 20) -> float:
    r"""Estimate how many independent values would make a rank histogram vary as this one does from time to time.

    .. math:: n = M \Big/ \max\Big(1, \frac{\sum_k s_k^2}{\sum_k p_k (1 - p_k) / m}\Big)

    with M values in blocks of m, the share \(p_k\) of rank k, and the sample variance \(s_k^2\) of its share over the
    blocks. Values near each other in time and space are not independent, so that frequencies vary more than their
    number says.

    Args:
        ranks: integers from 0 to size - 1, times first; negative ones are missing.
        size: number of ranks.
        blocks: of successive times (fewer if there are fewer times).

    Returns:
        Number between 1 and that of the values; 0 without any.

    Raises:
        ConfigurationError: if a rank is too large.

    Example:
        >>> ranks = np.repeat(np.random.default_rng(0).integers(0, 5, 2000), 10)  # each stays for ten times
        >>> bool(1500 < independent_count(ranks, 5, blocks=200) < 2600)
        True
    """
    r = np.asarray(ranks)
    if r.size and r.max() >= size:
        raise ConfigurationError(f"independent_count: found the rank {r.max()}; size={size} has ranks 0 to {size - 1}")
    parts = [part[part >= 0].ravel() for part in np.array_split(r, max(1, min(blocks, len(r))))]
    counts = np.array([np.bincount(part, minlength=size) for part in parts if part.size], float).reshape(-1, size)
    M = float(counts.sum())
    if len(counts) < 2:
        return M
    p, m = counts.sum(0) / M, counts.sum(1)
    varied = np.sum(np.var(counts / m[:, None], axis=0, ddof=1))
    expected = np.sum(p * (1 - p)) * np.mean(1 / m)
    return M if varied <= expected else max(1.0, float(M * expected / varied))


def known_pairs(name: str, members: Any, value: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Return members (N, m) and values (m,) without the incomplete pairs, and how many those are.

    Args:
        name: of the function that asks, for its errors.
        members: ensemble, member axis first.
        value: what it is verified against.

    Raises:
        ShapeError: if the shapes do not fit.
        DataError: if no complete pair is left.
    """
    E, y = np.asarray(members), np.asarray(value)
    if E.ndim == 0 or E.shape[1:] != y.shape or len(E) < 1:
        raise ShapeError(
            f"{name}: members of shape {E.shape} do not fit values of shape {y.shape}; the member axis comes first "
            "(of members kept by a cycle, which have (time, member, ...), take np.swapaxes(members, 0, 1))"
        )
    E, y = E.reshape(len(E), -1), y.ravel()
    known = np.isfinite(y) & np.all(np.isfinite(E), axis=0)
    if not known.any():
        raise DataError(f"{name}: none of {y.size} pairs of an ensemble and a value is complete")
    return E[:, known], y[known], int(np.sum(~known))
