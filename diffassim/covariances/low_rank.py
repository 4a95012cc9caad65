"""A few leading patterns, with the rest of the variance on request: empirical orthogonal functions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, DataError, ShapeError, concrete, require_finite
from diffassim.core.linalg import symmetric_sqrt
from diffassim.covariances.base import Covariance, NotAvailableError
from diffassim.covariances.diagonal import Diagonal

__all__ = ["LowRank"]

NEGLIGIBLE = 1e-10  # share of the largest singular value below which a pattern is rounding


class LowRank(Covariance):
    r"""\(B = E E^\top\), or \(D + E E^\top\) with the residual D: r patterns, the columns of E.

    Without residual, \(L = E\), and the control vector has one entry per pattern. With it, B has full rank and

    .. math::
        L = D^{1/2} \left(I + U (I + T)^{-1} U^\top\right), \qquad
        U = D^{-1/2} E, \qquad T = (I + U^\top U)^{1/2}

    is square, with inverse \((I - U (T + T^2)^{-1} U^\top) D^{-1/2}\); the solve is Woodbury's, and
    \(\log\det B = \log\det D + \log\det T^2\). All of it costs products with E and matrices of r rows. A factor to be
    learned is `a * LowRank(...)`.

    Args:
        modes: the state's pytree with a leading axis of r patterns, standard deviation each; unit of the state.
        residual: covariance D with a `whiten` (a `Diagonal`), or None.

    Raises:
        ShapeError: if the leaves disagree on the number of patterns.
        DataError: if a pattern is not finite.

    Example:
        >>> B = LowRank(jnp.array([[3.0, 0.0, 3.0]]), Diagonal(std=1.0))
        >>> B.apply(jnp.array([1.0, 0.0, 0.0])).tolist(), B.solve(jnp.array([10.0, 0.0, 9.0])).round(5).tolist()
        ([10.0, 0.0, 9.0], [1.0, 0.0, 0.0])

    Source: Hannachi, Jolliffe and Stephenson (2007), section 2, for the patterns; Golub and Van Loan (2013), section
    2.1.4, for the solve.
    """

    modes: Any
    residual: Covariance | None = None

    def __post_init__(self) -> None:
        counts = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(self.modes)}
        if len(counts) != 1 or not min(counts):
            raise ShapeError(
                "LowRank: every leaf needs the same leading axis of at least one pattern, found shapes "
                f"{tree.describe_shapes(self.modes)}"
            )
        require_finite("LowRank: modes", self.modes)

    @classmethod
    def from_samples(cls, samples: Any, rank: int, *, residual: bool = True) -> LowRank:
        r"""Take the leading patterns of samples of the error, and their remaining variance as residual.

        The samples' departures from their mean, over \(\sqrt{N - 1}\), are \(P \Sigma E^\top\); the first `rank`
        columns of E, times their singular value, are kept. Which patterns lead depends on the units: bring variables of
        different units to comparable size first.

        Args:
            samples: the state's pytree with a leading axis of N >= 2 samples: members, forecast differences.
            rank: number of patterns, at most N - 1 and at most the size of the state.
            residual: whether the variance that the patterns leave at each component becomes a diagonal D, so that the
                variances of B are those of the samples.

        Returns:
            The covariance.

        Raises:
            ShapeError: if there are fewer than two samples, or the leaves disagree on how many.
            DataError: if a value is missing, the samples span fewer than `rank` directions, or nothing remains for the
                residual at some component.
            ConfigurationError: if the rank is out of range.

        Example:
            >>> samples = jnp.array([[1.0, 1.0], [-1.0, -1.0], [0.5, -0.5], [-0.5, 0.5]])
            >>> LowRank.from_samples(samples, rank=1).apply(jnp.eye(2)).round(3).tolist()
            [[0.833, 0.667], [0.667, 0.833]]
        """
        counts = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(samples)}
        if len(counts) != 1 or min(counts) < 2:
            raise ShapeError(
                "LowRank.from_samples: every leaf needs the same leading axis of at least two samples, found shapes "
                f"{tree.describe_shapes(samples)}"
            )
        require_finite(
            "LowRank.from_samples: samples",
            samples,
            "Leave incomplete samples out, or fit a parametric covariance by `fit_parameters`, which takes gaps.",
        )
        samples = jax.tree.map(jnp.asarray, samples)
        one, count = jax.tree.map(lambda leaf: leaf[0], samples), counts.pop()
        rows = tree.flat_rows(samples)
        matrix = (rows - jnp.mean(rows, axis=0, keepdims=True)) / (count - 1) ** 0.5
        most = min(count - 1, matrix.shape[1])
        if not 1 <= rank <= most:
            raise ConfigurationError(
                f"LowRank.from_samples: rank={rank} must lie between 1 and {most}: {count} samples of a state of "
                f"{matrix.shape[1]} components span no more"
            )
        _, values, patterns = jnp.linalg.svd(matrix, full_matrices=False)
        known = concrete(values)
        if known is not None:
            spanned = int(np.sum(known > NEGLIGIBLE * max(known[0], np.finfo(known.dtype).tiny)))
            if spanned < rank:
                raise DataError(
                    f"LowRank.from_samples: the samples span {spanned} directions, fewer than rank={rank}: some are "
                    "equal or linearly dependent. Give more independent samples or a lower rank"
                )
        scaled = values[:rank, None] * patterns[:rank]
        modes = tree.state_rows(scaled, one)
        if not residual:
            return cls(modes)
        left = jnp.sum(jnp.square(matrix), axis=0) - jnp.sum(jnp.square(scaled), axis=0)
        known, total = concrete(left), concrete(jnp.sum(jnp.square(matrix), axis=0))
        if known is not None and total is not None and (known <= NEGLIGIBLE * total.max()).any():
            raise DataError(
                f"LowRank.from_samples: at {int((known <= NEGLIGIBLE * total.max()).sum())} component(s) the patterns "
                "leave no variance for the residual. Lower the rank, or take residual=False and add a Diagonal"
            )
        stds = jax.tree.map(lambda leaf: leaf[0], tree.state_rows(jnp.sqrt(left)[None], one))
        return cls(modes, Diagonal(stds))

    def control_like(self, x: Any) -> Any:
        """Return zeros: one per pattern, shape (..., r); with residual one control vector of D."""
        if self.residual is not None:
            return self.residual.control_like(x)
        example, mode = jax.tree.leaves(x)[0], jax.tree.leaves(self.modes)[0]
        batch = jnp.shape(example)[: jnp.ndim(example) - (jnp.ndim(mode) - 1)]
        return jnp.zeros((*batch, jnp.shape(mode)[0]), jnp.result_type(example))

    def sqrt(self, v: Any) -> Any:
        """Return L v."""
        if self.residual is None:
            return _combined(v, self._modes(v))
        U, S = self._scaled_modes(v)
        return self.residual.sqrt(_corrected(v, U, 1.0, _eye(S) + symmetric_sqrt(_eye(S) + S)))

    def sqrt_transpose(self, x: Any) -> Any:
        """Return L^T x."""
        if self.residual is None:
            return _coefficients(self._modes(x), x)
        U, S = self._scaled_modes(x)
        return _corrected(self.residual.sqrt_transpose(x), U, 1.0, _eye(S) + symmetric_sqrt(_eye(S) + S))

    def apply(self, x: Any) -> Any:
        """Return (D +) E E^T x."""
        modes = self._modes(x)
        product = _combined(_coefficients(modes, x), modes)
        return product if self.residual is None else tree.add(self.residual.apply(x), product)

    def whiten(self, x: Any) -> Any:
        """Return L^(-1) x; needs the residual."""
        U, S = self._scaled_modes(x, "whiten")
        return _corrected(self.residual.whiten(x), U, -1.0, _eye(S) + S + symmetric_sqrt(_eye(S) + S))  # type: ignore[union-attr]

    def solve(self, x: Any) -> Any:
        """Return B^(-1) x by Woodbury's identity; needs the residual."""
        _, S = self._scaled_modes(x, "solve")
        solved = self.residual.solve(x)  # type: ignore[union-attr]
        weights = _small_solve(_eye(S) + S, _coefficients(self._modes(x), solved))
        return tree.subtract(solved, self.residual.solve(_combined(weights, self._modes(x))))  # type: ignore[union-attr]

    def logdet(self, x: Any) -> Float[Array, ""]:
        """Return log det D + log det(I + U^T U), for each copy in a batch; needs the residual."""
        _, S = self._scaled_modes(x, "logdet")
        example, mode = jax.tree.leaves(x)[0], jax.tree.leaves(self.modes)[0]
        copies = tree.size(example) // max(tree.size(mode) // jnp.shape(mode)[0], 1)
        diagonal = jnp.diagonal(jnp.linalg.cholesky(_eye(S) + S))
        return self.residual.logdet(x) + 2 * copies * jnp.sum(jnp.log(diagonal))  # type: ignore[union-attr]

    def check(self, name: str, x: Any) -> None:
        """Raise `ShapeError` unless the state looks like a pattern and fits D."""
        mode = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], jnp.result_type(leaf)), self.modes)
        if not tree.same_shapes(mode, x):
            raise ShapeError(
                f"{name}: the patterns have shape {tree.describe_shapes(mode)}, the state has {tree.describe_shapes(x)}"
            )
        if self.residual is not None:
            self.residual.check(name, x)

    def _modes(self, like: Any) -> Any:
        dtype = jnp.result_type(*jax.tree.leaves(like))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(dtype), self.modes)

    def _scaled_modes(self, like: Any, operation: str = "") -> tuple[Any, Float[Array, "r r"]]:
        """Return U and U^T U."""
        if self.residual is None:
            raise self._unavailable(operation)
        U = self.residual.whiten(self._modes(like))
        return U, _coefficients(U, U)

    def _unavailable(self, operation: str, advice: str = "") -> NotAvailableError:
        if operation == "masked":
            return super()._unavailable(operation, "Write it out by Dense.from_covariance, which has masks.")
        return super()._unavailable(operation, "It is of low rank; with a residual it has one.")


def _coefficients(modes: Any, x: Any) -> Float[Array, "... r"]:
    """Return the inner product of each pattern with x, shape (..., r)."""

    def one(mode: Array, leaf: Array) -> Array:
        flat = mode.reshape((mode.shape[0], -1))
        return leaf.reshape((*leaf.shape[: leaf.ndim - mode.ndim + 1], -1)) @ flat.T

    first, *rest = jax.tree.leaves(jax.tree.map(one, modes, x))
    return sum(rest, first)


def _combined(weights: Float[Array, "... r"], modes: Any) -> Any:
    return jax.tree.map(lambda mode: jnp.tensordot(weights, mode, 1), modes)


def _corrected(x: Any, U: Any, sign: float, M: Float[Array, "r r"]) -> Any:
    """Return x +- U M^(-1) U^T x."""
    return tree.axpy(sign, _combined(_small_solve(M, _coefficients(U, x)), U), x)


def _small_solve(M: Float[Array, "r r"], weights: Float[Array, "... r"]) -> Float[Array, "... r"]:
    columns = weights.reshape((-1, weights.shape[-1])).T
    return cho_solve((jnp.linalg.cholesky(M), True), columns).T.reshape(weights.shape)


def _eye(S: Array) -> Array:
    return jnp.eye(S.shape[0], dtype=S.dtype)
