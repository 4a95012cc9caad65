"""The ensemble transform Kalman filter."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.gram_roots import FEW, inverse_root_products, loss_products
from diffassim.core.linalg import safe_sqrt
from diffassim.core.newton_schulz import gram_inverse_sqrt, gram_transform, with_inverse
from diffassim.ensemble.base import GlobalFilter

__all__ = ["ETKF", "symmetric_transform", "transformed_columns"]


class ETKF(GlobalFilter):
    r"""Deterministic filter with the symmetric square root, in the space of the members.

    With whitened observed anomalies S (N, m) and innovation d,

    .. math::
        A = I + S S^\top / (N - 1),\quad w = A^{-1} S d / (N - 1),\quad
        x_{a,i} = \bar x_f + \sum_j (w_j + (A^{-1/2})_{ij}) x_{f,j}'

    Correlated R is allowed. Gradients pass through repeated eigenvalues (fewer observations than members).

    Args:
        inflation: an `Inflation`, or a number that multiplies the posterior anomalies.
        rotation: whether the posterior anomalies are rotated at random, mean and covariance unchanged (static).

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble, info = ETKF().analyze(None, jnp.array([[-1.0], [0.0], [1.0]]), y)
        >>> ensemble.mean(0).round(4).tolist(), float(info.chi_square)
        ([1.5], 4.5)

    Source: Bishop, Etherton and Majumdar (2001); symmetric root: Wang, Bishop and Julier (2004), Hunt et al. (2007),
    equations 20 to 24.
    """

    by_parts: ClassVar[bool] = True

    def weights(
        self, key: Any, S: Float[Array, "N m"], d: Float[Array, " m"], over: tuple[str, ...] = ()
    ) -> Float[Array, "N N"]:
        """Return w + A^(-1/2); of the parts of several devices with the names of the mesh's axes, to sum over them."""
        return symmetric_transform(S, d, over=over)


def symmetric_transform(
    S: Float[Array, "N m"], d: Float[Array, " m"], taper: Float[Array, " m"] | None = None, over: tuple[str, ...] = ()
) -> Float[Array, "N N"]:
    r"""Return the weights of the symmetric square-root filter.

    Args:
        S: whitened observed anomalies, shape (N, m).
        d: whitened mean innovation, shape (m,).
        taper: factor of every observation's inverse error variance, shape (m,); None for one.
        over: axes of a mesh over whose devices the observations are split, within `jax.shard_map` (static).

    Returns:
        W, shape (N, N): \(W_{ij} = w_j + (A^{-1/2})_{ij}\).
    """
    A, b = _normal_equations(S, d, taper, over)
    if S.dtype == jnp.float64:
        T, w = with_inverse(gram_inverse_sqrt(A), b)
    else:
        factor = jnp.full_like(d, (S.shape[0] - 1) ** -0.5) if taper is None else jnp.sqrt(taper / (S.shape[0] - 1))
        T, w = gram_transform(A, b, S * factor[None], factor * d, over)
    return w[None] + T


def transformed_columns(
    S: Float[Array, "N m"], d: Float[Array, " m"], X: Float[Array, "N C"], taper: Float[Array, " m"] | None = None
) -> Float[Array, "N C"]:
    r"""Return W X for the weights of `symmetric_transform`, without W where there are fewer columns than members.

    With fewer observations than members, \(V = S D^{1/2} / \sqrt{N - 1}\) for the tapers D, the roots are those of a
    matrix of their number, \(B = I + V^\top V\),

    .. math:: W X = X - V (B + B^{1/2})^{-1} V^\top X + 1 (D^{1/2} d)^\top B^{-1} V^\top X / \sqrt{N - 1}

    Derivatives take the same space, so that their cost does not grow with the cube of the members either.

    Args:
        S: whitened observed anomalies, shape (N, m).
        d: whitened mean innovation, shape (m,).
        X: anomalies of what is analysed, shape (N, C).
        taper: factor of every observation's inverse error variance, shape (m,); None for one.

    Returns:
        Departures of the posterior members from the prior mean, shape (N, C).
    """
    (members, observations), columns = S.shape, X.shape[1]
    if columns > members:
        return symmetric_transform(S, d, taper) @ X
    if observations < (members if columns <= FEW else members / 2):
        return _in_observations(S, d, X, taper)
    return _in_members(S, d, X, taper)


def _in_members(S: Any, d: Any, X: Any, taper: Any) -> Any:
    A, b = _normal_equations(S, d, taper)
    root, inverse = inverse_root_products(A, X)
    return root + (b @ inverse)[None]


def _in_observations(S: Any, d: Any, X: Any, taper: Any) -> Any:
    return _with_root(S, d, X, jnp.ones_like(d)) if taper is None else _tapered(S, d, X, taper)


@jax.custom_jvp
def _tapered(S: Any, d: Any, X: Any, taper: Any) -> Any:
    return _with_root(S, d, X, taper)


@_tapered.defjvp
def _tapered_derivative(primals: Any, tangents: Any) -> Any:
    # The root of a taper has no derivative where the taper ends, what depends on it does have one.
    (S, d, X, taper), (*others, change) = primals, tangents
    ended = taper == 0
    found, moved = jax.jvp(_with_root, primals, (*others, jnp.where(ended, 0, change)))
    return found, moved + _beyond_the_end(S, d, X, taper, jnp.where(ended, change, 0))


def _with_root(S: Any, d: Any, X: Any, taper: Any) -> Any:
    factor = safe_sqrt(taper / (S.shape[0] - 1))
    V = S * factor[None]
    with jax.default_matmul_precision("highest"):
        B, along = jnp.eye(S.shape[1], dtype=S.dtype) + V.T @ V, V.T @ X
        loss, inverse = loss_products(B, along)
        return X - V @ loss + ((factor * d) @ inverse)[None]


def _beyond_the_end(S: Any, d: Any, X: Any, taper: Any, change: Any) -> Any:
    r"""Return the derivative by coefficients D that are zero.

    With \(G = S^\top S / (N - 1)\), \(f(\lambda) = 1 / (\lambda + \sqrt\lambda)\) and \(B = Q \Lambda Q^\top\), the
    roots are \(I - S \varphi S^\top / (N - 1)\), \(\varphi = D^{1/2} f(B) D^{1/2}\). Written as a sum over the poles of
    f, which knows D and not its root, \(\varphi\) has the derivative below, by divided differences of f between the
    eigenvalues and one, the eigenvalue of B where D is zero. The eigenvectors count as constants.
    """
    degrees = S.shape[0] - 1
    with jax.default_matmul_precision("highest"):
        G, r = S.T @ S / degrees, S.T @ X
        root = safe_sqrt(taper)
        values, Q = jnp.linalg.eigh(jnp.eye(d.shape[0], dtype=S.dtype) + root[:, None] * G * root[None])
        values, Q = jax.lax.stop_gradient((jnp.maximum(values, 1), Q))
        E, s = Q.T * root[None], jnp.sqrt(values)
        first = (s + 2) / (2 * s * jnp.square(s + 1))  # -f[1, a^2]
        a, b = s[:, None], s[None]
        above = a * b * (a + b + 2) + 2 * (a * a + a * b + b * b) + 4 * (a + b) + 2
        second = above / (2 * a * b * (a + b) * jnp.square((a + 1) * (b + 1)))  # f[1, a^2, b^2]
        K, moved = E.T @ (first[:, None] * E), E @ G * change[None]
        phi = jnp.diag(change) / 2 - K @ G * change[None] - change[:, None] * (G @ K)
        phi = phi + E.T @ (second * (moved @ G @ E.T)) @ E
        # The mean's weights, d^T D (I + G D)^(-1), by the same sum at the pole zero.
        left = jnp.eye(d.shape[0], dtype=S.dtype) - E.T @ ((1 / values)[:, None] * E) @ G
        shift = (d @ left) * change @ left.T
        return (-S @ (phi @ r) + (shift @ r)[None]) / degrees


def _normal_equations(S: Any, d: Any, taper: Any, over: tuple[str, ...] = ()) -> tuple[Any, Any]:
    N = S.shape[0]
    weighted = S if taper is None else S * taper[None]
    # Fewer digits in the products, a GPU's default, would be an error of the observations.
    with jax.default_matmul_precision("highest"):
        C, b = weighted @ S.T / (N - 1), weighted @ d / (N - 1)
    if over:
        C, b = jax.lax.psum((C, b), over)
    return jnp.eye(N, dtype=S.dtype) + C, b
