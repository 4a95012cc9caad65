"""What candidate observations would see of what is uncertain, and what they would take away of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from diffassim.core import tree
from diffassim.core.checks import count_of, real_state
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.pytree import Pytree
from diffassim.gaussian import Gaussian
from diffassim.observations.operators import as_operator

__all__ = ["Prospects"]


class Prospects(Pytree):
    r"""Candidates and a goal in the space of the columns of the prior covariance \(L L^\top\).

    .. math:: G_j = R_j^{-1/2} H_j L,\quad Z = \text{goal} \cdot L,\quad
        C_S = \bigl(I + \textstyle\sum_{j \in S} G_j^\top G_j\bigr)^{-1}

    The variance of the goal, summed over its components, falls from \(|Z|^2\) to \(\mathrm{tr}(C_S Z^\top Z)\) once the
    candidates of a set S are assimilated: an A-optimal design, of the state or of a forecast from it. No matrix is
    larger than candidates times columns.

    Args:
        seen: the G_j, shape (candidates, values, columns).
        weight: Z^T Z, shape (columns, columns).
        possible: candidates that may be chosen, shape (candidates,).

    Source: Bishop, Etherton and Majumdar (2001); Chaloner and Verdinelli (1995), section 2.
    """

    seen: Float[Array, "candidates values columns"]
    weight: Float[Array, "columns columns"]
    possible: Bool[Array, " candidates"]

    @classmethod
    def of(
        cls,
        prior: Any,
        operator: Callable[..., Any],
        error: Any,
        *,
        goal: Callable[[Any], Any] | None = None,
        values: int = 1,
    ) -> Prospects:
        """Evaluate candidates and goal on a prior.

        Args:
            prior: ensemble, a pytree with a leading axis of at least two members; or a `Gaussian`, with the
                derivatives at its mean.
            operator: what all candidates would measure of a state; one that is not finite cannot be chosen.
            error: covariance R of their errors, which must be independent.
            goal: what is to be known of a state: a function, or a callable pytree such as `LaterState`; default: the
                state. Where units differ, divide by what matters of each.
            values: numbers that each candidate measures, next to each other in the operator's value (static).

        Raises:
            ConfigurationError: if the prior is none, or errors are correlated.
            ShapeError: if there are fewer than two members, or `values` do not divide the operator's value.
            DataError: if the prior is no numbers.

        Example:
            >>> import diffassim as da
            >>> prior = Gaussian(jnp.zeros(2), jnp.array([[2.0, 0.0], [0.0, 1.0]]))
            >>> found = Prospects.of(prior, lambda x: x, da.covariances.Diagonal(std=1.0))
            >>> print(found.total, found.gains().round(6))  # 4 - 4/5, 1 - 1/2
            5.0 [3.2 0.5]
        """
        values = count_of("Prospects: values", values, least=1)
        if not getattr(error, "uncorrelated", False):
            raise ConfigurationError(
                f"Prospects: the errors of candidates must be independent, such as covariances.Diagonal; "
                f"found {type(error).__name__}"
            )
        if isinstance(prior, Gaussian):
            G, Z = _of_columns(prior, as_operator(operator), error, _as_goal(goal))
        else:
            members = real_state("Prospects: prior", prior)
            counts = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(members)}
            if len(counts) != 1 or min(counts) < 2:
                raise ShapeError(
                    "Prospects: a prior is a Gaussian, or an ensemble of two or more members (leading axis), found "
                    f"{tree.describe_shapes(members)}"
                )
            G, Z = _of_members(members, as_operator(operator), error, _as_goal(goal))
        if G.shape[1] % values:
            raise ShapeError(f"Prospects: {G.shape[1]} numbers cannot be those of candidates with {values} values each")
        seen = jnp.swapaxes(G.reshape(G.shape[0], -1, values), 0, 1).swapaxes(1, 2)
        possible = jnp.all(jnp.isfinite(seen), axis=(1, 2))
        return cls(jnp.where(possible[:, None, None], seen, 0), Z @ Z.T, possible)

    @property
    def total(self) -> Float[Array, ""]:
        """Variance of the goal before, summed over its components."""
        return jnp.trace(self.weight)

    @property
    def nothing(self) -> Float[Array, "columns columns"]:
        """C of no candidate."""
        return jnp.eye(self.weight.shape[0], dtype=self.weight.dtype)

    def covariance(self, chosen: Any) -> Float[Array, "columns columns"]:
        """Return C of some candidates, by number."""
        rows = self.seen[jnp.asarray(chosen, jnp.int32)].reshape(-1, self.seen.shape[-1])
        inner = jnp.eye(rows.shape[0], dtype=rows.dtype) + rows @ rows.T
        return self.nothing - rows.T @ jax.scipy.linalg.solve(inner, rows, assume_a="pos")

    def with_one(self, C: Any, j: Any) -> Float[Array, "columns columns"]:
        """Return C after one more candidate."""
        g = self.seen[j]
        image = g @ C
        return C - image.T @ jax.scipy.linalg.solve(self._inner(image, g), image, assume_a="pos")

    def gains(self, C: Any = None) -> Float[Array, " candidates"]:
        """Return what each candidate would take away next, zero for impossible ones.

        Args:
            C: of the candidates so far; default: none.
        """
        C = self.nothing if C is None else C
        image = self.seen @ C
        spread = image @ self.weight
        if self.seen.shape[1] == 1:
            return jnp.sum(spread * image, axis=(1, 2)) / (1 + jnp.sum(image * self.seen, axis=(1, 2)))
        inner = jax.vmap(self._inner)(image, self.seen)
        return jnp.trace(jnp.linalg.solve(inner, jnp.einsum("mvr,mwr->mvw", spread, image)), axis1=1, axis2=2)

    def reduction(self, chosen: Any) -> Float[Array, ""]:
        """Return what a set of candidates takes away, by number."""
        return self.total - jnp.sum(self.covariance(chosen) * self.weight)

    @staticmethod
    def _inner(image: Any, g: Any) -> Any:
        return jnp.eye(g.shape[0], dtype=g.dtype) + image @ g.T


def _as_goal(goal: Any) -> Any:
    """Return a goal that can be an argument of a compiled function."""
    if goal is None:
        return jax.tree_util.Partial(_itself)
    if not callable(goal):
        raise ConfigurationError(f"Prospects: the goal must be a function of a state, found {type(goal).__name__}")
    leaves = jax.tree.leaves(goal)
    return jax.tree_util.Partial(goal) if len(leaves) == 1 and leaves[0] is goal else goal


def _itself(x: Any) -> Any:
    return x


@jax.jit
def _of_members(members: Any, operator: Any, error: Any, goal: Any) -> tuple[Any, Any]:
    count = jax.tree.leaves(members)[0].shape[0]

    def scaled(rows: Any) -> Any:
        return jax.tree.map(lambda leaf: (leaf - jnp.mean(leaf, axis=0, keepdims=True)) * (count - 1) ** -0.5, rows)

    seen = scaled(jax.vmap(lambda x: operator(x, None))(members))
    wanted = scaled(jax.vmap(goal)(members))
    return tree.flat_rows(jax.vmap(error.whiten)(seen)), tree.flat_rows(wanted)


@jax.jit
def _of_columns(prior: Gaussian, operator: Any, error: Any, goal: Any) -> tuple[Any, Any]:
    def moved(function: Any) -> Any:
        return jax.vmap(jax.linearize(function, prior.mean)[1])(prior.columns)

    seen = jax.vmap(error.whiten)(moved(lambda x: operator(x, None)))
    return tree.flat_rows(seen), tree.flat_rows(moved(goal))
