"""The sample covariance of an ensemble, localized on request."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.errors import DataError, ShapeError, concrete, require_finite
from diffassim.core.layout import Layout
from diffassim.core.pytree import static
from diffassim.covariances.base import Covariance, NotAvailableError

__all__ = ["Ensemble"]


class Ensemble(Covariance):
    r"""\(P_f = \rho \circ X X^\top\), with X the members' departures from their mean over \(\sqrt{N - 1}\).

    Without localization the control vector has one weight per member, \(L v = X v\). With a localization
    \(\rho = C^{1/2} C^{\top/2}\), every member has a field of weights, \(L v = \sum_i x_i' \circ C^{1/2} v_i\); the
    same weights serve all leaves of the state, so that covariances between variables survive. A weighted sum with a
    static covariance, `a * B + b * Ensemble(...)`, is hybrid ensemble-variational assimilation.

    Args:
        members: the state's pytree with a leading member axis, N >= 2.
        localization: covariance of unit variance on the trailing axes that all leaves share (`Gaussian(std=1.0, ...)`),
            or None.
        layout: how members lie in parts on several devices, put here by `da.covariances.in_parts`, so that each
            device transforms the weights of its own members; None: as the compiler likes (static).

    Raises:
        ShapeError: if there are fewer than two members, or the leaves disagree on how many.

    Example:
        >>> Ensemble(jnp.array([[1.0, 2.0], [3.0, 6.0]])).apply(jnp.array([1.0, 0.0])).round(5).tolist()
        [2.0, 4.0]

    Source: Lorenc (2003), equations 11 to 13; Buehner (2005), section 2.
    """

    members: Any
    localization: Covariance | None = None
    layout: Layout | None = static(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        counts = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(self.members)}
        if len(counts) != 1 or counts.pop() < 2:
            raise ShapeError(
                "Ensemble: every leaf needs the same leading member axis with at least two members, found shapes "
                f"{tree.describe_shapes(self.members)}"
            )

    def control_like(self, x: Any) -> Any:
        """Return zero weights: shape (..., N), or with localization one field of weights per member."""
        example, member = jax.tree.leaves(x)[0], jax.tree.leaves(self.members)[0]
        batch, dtype = jnp.shape(example)[: jnp.ndim(example) - (jnp.ndim(member) - 1)], jnp.result_type(example)
        if self.localization is None:
            return jnp.zeros((*batch, jnp.shape(member)[0]), dtype)
        grid = jnp.shape(member)[jnp.ndim(member) - self.localization.ndim :]
        return self.localization.control_like(jnp.zeros((*batch, jnp.shape(member)[0], *grid), dtype))

    def sqrt(self, v: Any) -> Any:
        """Return L v, an increment in the span of the (localized) ensemble."""
        if self.localization is None:
            return jax.tree.map(lambda X: jnp.tensordot(v, X, 1), self._departures(v))
        weights = self._localized(v)

        def combine(X: Any) -> Any:
            weighted = self._widened(weights, X)
            members = X.reshape((1,) * (weighted.ndim - X.ndim) + X.shape)
            return jnp.sum(members * weighted, axis=-X.ndim)

        return jax.tree.map(combine, self._departures(weights))

    def sqrt_transpose(self, x: Any) -> Any:
        """Return L^T x, by the transpose of `sqrt`."""
        return jax.linear_transpose(self.sqrt, self.control_like(x))(x)[0]

    def check(self, name: str, x: Any) -> None:
        """Raise `ShapeError` unless the state looks like a member, `DataError` where the members have no spread."""
        require_finite(f"{name}: the ensemble", self.members, "Leave out the members that have failed.")
        leaves = jax.tree.leaves(self.members)
        known = [concrete(leaf) for leaf in leaves]
        if all(leaf is not None and leaf.size and (leaf == leaf[:1]).all() for leaf in known):
            raise DataError(
                f"{name}: all {jnp.shape(leaves[0])[0]} members of the ensemble are equal, so that nothing can change "
                "along it; perturb them, or take a static covariance"
            )
        member = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], self.members)
        if not tree.same_shapes(member, x):
            raise ShapeError(
                f"{name}: the members have shape {tree.describe_shapes(member)}, the state has "
                f"{tree.describe_shapes(x)}"
            )
        if self.localization is not None:
            for leaf in jax.tree.leaves(x):
                if jnp.ndim(leaf) < self.localization.ndim:
                    raise ShapeError(
                        f"{name}: the localization acts on {self.localization.ndim} axes, but a leaf has shape "
                        f"{jnp.shape(leaf)}"
                    )

    def _localized(self, v: Any) -> Any:
        """Return the weights, smooth as the localization has it."""
        assert self.localization is not None
        if self.layout is None:
            return self.localization.sqrt(v)
        member = jax.tree.leaves(self.members)[0]
        shape = (member.shape[0], *member.shape[member.ndim - self.localization.ndim :])
        one = jax.eval_shape(
            self.localization.control_like, jax.ShapeDtypeStruct(shape, jnp.result_type(*jax.tree.leaves(v)))
        )
        localized = partial(self.layout.each, self.localization.sqrt)
        for _ in range(jnp.ndim(jax.tree.leaves(v)[0]) - jax.tree.leaves(one)[0].ndim):
            localized = jax.vmap(localized)
        return localized(v)

    def _departures(self, like: Any) -> Any:
        dtype = jnp.result_type(like)

        def centered(leaf: Any) -> Any:
            leaf = jnp.asarray(leaf).astype(dtype)
            return (leaf - jnp.mean(leaf, axis=0, keepdims=True)) / (leaf.shape[0] - 1) ** 0.5

        return jax.tree.map(centered, self.members)

    def _widened(self, weights: Any, X: Any) -> Any:
        """Give the weights (..., N, grid) axes of length one for the leaf's axes in front of the grid."""
        assert self.localization is not None
        k = self.localization.ndim
        shape = weights.shape
        extra = X.ndim - 1 - k
        return weights.reshape((*shape[: len(shape) - k], *(1,) * extra, *shape[len(shape) - k :]))

    def _unavailable(self, operation: str, advice: str = "") -> NotAvailableError:
        return super()._unavailable(operation, "It is of low rank; B + Ensemble(...) with a full-rank B has a solve.")
