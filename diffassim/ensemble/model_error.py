"""What model error does to an ensemble: draws for every member, or a square root without draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.core.layout import Layout
from diffassim.core.linalg import safe_sqrt, symmetric_sqrt
from diffassim.core.pytree import Pytree, static
from diffassim.covariances import Covariance
from diffassim.methods.members import anomalies, mean, recombine
from diffassim.methods.model_error import EveryStep

__all__ = ["SquareRootNoise", "checked_model_error", "draws_model_error", "forecast_members"]


class SquareRootNoise(Pytree):
    r"""Model error as a transformation of the members, in place of independent draws: Q of an ensemble filter.

    With anomalies X (N, n), \(P = X^\top X / (N - 1)\) and the projection \(\Pi\) onto their span, the core is

    .. math::
        X \leftarrow T X,\qquad T = \big(I + (N - 1)\, X^{+\top} Q X^{+}\big)^{1/2}\qquad\Rightarrow\qquad
        P \leftarrow P + \Pi Q \Pi

    It has no sampling error and leaves the mean where it is. Without more members than variables, Q reaches out of
    their span: that part is drawn, as \((I - \Pi)\, q_i\) with \(q_i \sim N(0, Q)\), centered, or left out.
    Products of Q with as many states as there are members, or variables if these are fewer, are all that is needed.
    Spans are those of variables divided by their spread; a variable without any spread gets the residual alone.

    Args:
        Q: covariance of the model error that is gathered from one analysis to the next.
        residual: whether what Q has outside of the members' span is drawn (static).

    Raises:
        ConfigurationError: if Q is no covariance.

    Example:
        >>> import diffassim as da
        >>> noise = SquareRootNoise(da.covariances.Diagonal(std=3.0), residual=False)
        >>> noise(None, jnp.array([[-4.0], [0.0], [4.0]])).ravel().round(3).tolist()  # variance 16 + 9
        [-5.0, 0.0, 5.0]

    Source: Raanes, Carrassi and Bertino (2015): square root core, with independent draws of the residual noise.
    """

    Q: Any
    residual: bool = static(default=True)

    def __post_init__(self) -> None:
        if not isinstance(self.Q, Covariance):
            raise ConfigurationError(f"SquareRootNoise: Q must be a covariance, found {type(self.Q).__name__}")

    def check(self, name: str, x: Any) -> None:
        """Raise an error, naming `name`, unless Q fits a state like `x`."""
        self.Q.check(name, x)

    def __call__(self, key: Any, ensemble: Any) -> Any:
        """Return the members with model error.

        Args:
            key: random key; None where the residual is left out.
            ensemble: pytree with a leading member axis.
        """
        one = jax.tree.map(lambda leaf: leaf[0], ensemble)
        A = tree.flat_rows(anomalies(ensemble))
        N, n = A.shape
        spread = safe_sqrt(jnp.sum(jnp.square(A), axis=0) / (N - 1))
        center = tree.flat_rows(jax.tree.map(lambda leaf: leaf[None], mean(ensemble)))[0]
        still = spread <= N * jnp.finfo(A.dtype).eps * jnp.abs(center)  # the rounding of the mean is no spread
        spread = jnp.where(still, 1, spread)[None]  # units must not decide what the span is
        X = jnp.where(still[None], 0, A / spread)

        def products(rows: Any) -> Any:
            return tree.flat_rows(jax.vmap(self.Q.apply)(tree.state_rows(rows / spread, one))) / spread

        if n < N:
            inverse = X @ _inverse(X.T @ X + jnp.diag(still.astype(X.dtype)))
            weights = inverse @ products(jnp.eye(n, dtype=X.dtype)) @ inverse.T
        else:
            inverse = _member_inverse(X)
            weights = inverse @ (products(X) @ X.T) @ inverse
        T = symmetric_sqrt(jnp.eye(N, dtype=X.dtype) + (N - 1) * weights)
        moved = recombine(mean(ensemble), tree.state_rows(T @ A, one))
        if not self.residual:
            return moved
        draws = tree.flat_rows(anomalies(self.Q.sample(key, ensemble))) / spread
        outside = jnp.where(still[None], draws, 0) if n < N else draws - draws @ X.T @ inverse @ X
        return tree.add(moved, tree.state_rows(outside * spread, one))


def forecast_members(
    Q: Any, key: Any, propagate: Callable[..., Any], members: Any, layout: Layout | None = None
) -> Any:
    """Return the members at the next analysis time, with model error of the whole way or of `EveryStep`.

    Args:
        Q: None, a covariance, `SquareRootNoise`, or `EveryStep` of one of both.
        key: random key; None where nothing is drawn. A step draws from the key folded with its number.
        propagate: see `SequentialMethod.forecast`.
        members: pytree with a leading member axis.
        layout: how the members lie on several devices (static).
    """

    def each(function: Callable[[Any], Any], members: Any) -> Any:
        return jax.vmap(function)(members) if layout is None else layout.each(function, members)

    if not isinstance(Q, EveryStep):
        return _with_model_error(Q, key, each(propagate, members))

    def disturbed(step: Callable[..., Any]) -> Callable[..., Any]:
        def step_members(members: Any, t: Any) -> Any:
            own = None if key is None else jax.random.fold_in(key, t)
            return _with_model_error(Q.Q, own, each(lambda x: step(x, t), members))

        return step_members

    return propagate(members, disturbed)


def _with_model_error(Q: Any, key: Any, ensemble: Any) -> Any:
    if Q is None:
        return ensemble
    return Q(key, ensemble) if isinstance(Q, SquareRootNoise) else tree.add(ensemble, Q.sample(key, ensemble))


def draws_model_error(Q: Any) -> bool:
    """Return whether a model error needs random numbers."""
    Q = Q.Q if isinstance(Q, EveryStep) else Q
    return Q.residual if isinstance(Q, SquareRootNoise) else Q is not None


def checked_model_error(name: str, Q: Any) -> Any:
    """Return what kind of model error Q is, without when it enters; raise unless it is one.

    Raises:
        ConfigurationError: if it is none of None, a covariance, `SquareRootNoise`, or `EveryStep` of one of both.
    """
    kind = Q.Q if isinstance(Q, EveryStep) else Q
    if not (Q is None or isinstance(kind, Covariance | SquareRootNoise)):
        raise ConfigurationError(f"{name}: Q must be a covariance or SquareRootNoise, found {type(kind).__name__}")
    return kind


def _inverse(C: Any) -> Any:
    return cho_solve(cho_factor(C), jnp.eye(C.shape[0], dtype=C.dtype))


def _member_inverse(X: Any) -> Float[Array, "N N"]:
    """Return the pseudoinverse of X X^T for centered X of the rank N - 1, or zero where X is zero."""
    N = X.shape[0]
    gram = X @ X.T
    size = jnp.trace(gram)
    flat = size == 0
    # The mean's direction, in which anomalies are nothing, is filled before and taken out after.
    fill = jnp.where(flat, 1, size / N)
    center = jnp.eye(N, dtype=X.dtype) - 1 / N
    inverse = _inverse(gram + jnp.where(flat, jnp.eye(N, dtype=X.dtype), fill / N))
    return jnp.where(flat, 0, center @ inverse @ center)
