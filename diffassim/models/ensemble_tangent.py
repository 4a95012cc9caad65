"""A tangent-linear model estimated from runs of an ensemble around the state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.errors import ShapeError
from diffassim.core.pytree import Pytree

__all__ = ["EnsembleTangent"]


class EnsembleTangent(Pytree):
    r"""Derivatives of a step by least squares over differences along given perturbations.

    .. math::
        M \approx D\,P^{+}, \qquad d_i = \tfrac12\big(f(x + p_i) - f(x - p_i)\big)

    with the perturbations \(p_i\) and differences \(d_i\) as columns of P and D. It is exact for a linear model on the
    span of P and zero across it: with as many independent small perturbations as the state has variables it is the
    Jacobian to second order in their size; with fewer it is a projection that is made anew in every step, so that what
    leaves the span is lost. Then `FourDEnVar`, whose ensemble moves with the flow, is the better choice. Every
    linearized step runs the model twice for each perturbation.

    Perturbations get no derivative.

    Args:
        perturbations: the state's pytree with a leading axis, for example members minus their mean, made so small that
            the model is nearly linear over them and so large that differences are no rounding.

    Example:
        >>> import diffassim as da
        >>> estimate = EnsembleTangent(1e-3 * jnp.eye(2))
        >>> model = da.models.ExternalModel(lambda x, t: x**2, linearization=estimate)
        >>> jax.grad(lambda x: jnp.sum(model.step(x, 0)))(jnp.array([1.0, 3.0])).round(3).tolist()
        [2.0, 6.0]

    Source: the use of ensemble differences for the tangent in Liu, Xiao and Wang (2008), here step by step.
    """

    perturbations: Any

    def check(self, x: Any) -> None:
        """Raise `ShapeError` unless the perturbations are shaped like the state, with a leading axis."""
        expected = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(float)), x)
        found = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], jnp.result_type(float)), self.perturbations
        )
        if not tree.same_shapes(expected, found):
            raise ShapeError(
                f"EnsembleTangent: perturbations have shapes {tree.describe_shapes(self.perturbations)}; a state of "
                f"{tree.describe_shapes(x)} needs a leading axis in front of these"
            )

    def stepped(self, call: Callable[..., Any], x: Any, *operands: Any) -> Any:
        """Return call(*operands, x), with the estimated derivative with respect to x.

        Args:
            call: the step, which need not be differentiable.
            x: state, a pytree of arrays.
            *operands: what else the step needs, pytrees of arrays.
        """
        perturbations = jax.tree.map(lambda p, leaf: jnp.asarray(p, jnp.result_type(leaf)), self.perturbations, x)
        return _stepped(call, x, jax.lax.stop_gradient(perturbations), *operands)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _stepped(call: Any, x: Any, perturbations: Any, *operands: Any) -> Any:
    return call(*operands, x)


@_stepped.defjvp
def _estimated(call: Any, primals: Any, tangents: Any) -> Any:
    x, perturbations, *operands = primals
    both = jax.tree.map(lambda p: jnp.concatenate([p, -p]), perturbations)
    runs = jax.vmap(lambda p: call(*operands, tree.add(x, p)))(both)
    differences = jax.tree.map(lambda r: 0.5 * (r[: r.shape[0] // 2] - r[r.shape[0] // 2 :]), runs)
    # The weights c of the perturbations with P c closest to dx. Linear in dx, so reverse mode transposes it.
    P = tree.flat_rows(perturbations).T
    direction = tree.flat_rows(jax.tree.map(lambda leaf: leaf[None], tangents[0]))[0]
    weights = jnp.linalg.pinv(P) @ direction
    dy = jax.tree.map(lambda d: jnp.tensordot(weights.astype(d.dtype), d, 1), differences)
    return call(*operands, x), dy
