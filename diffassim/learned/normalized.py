"""Normalization of a network's inputs and outputs, and what a network costs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from diffassim.core import tree
from diffassim.core.errors import ShapeError, require_finite, require_positive
from diffassim.core.pytree import Pytree

__all__ = ["Normalized", "flop_count", "parameter_count"]


class Normalized(Pytree):
    r"""A network between normalized inputs and outputs.

    .. math:: y = \mu_y + \sigma_y\, N((x - \mu_x) / \sigma_x)

    The constants are leaves: they go where the weights go, into checkpoints and to other precisions. Gradients of a
    training do not reach them.

    Args:
        network: callable pytree of one input.
        center: input mean, a pytree that broadcasts with the input.
        spread: input standard deviation, likewise.
        output_center: output mean.
        output_spread: output standard deviation.

    Raises:
        ConfigurationError: if a spread is not positive.

    Example:
        >>> from diffassim.learned import Network
        >>> same = Network(lambda w, x: x)
        >>> found = Normalized.fit(same, jnp.array([[1.0], [3.0]]), jnp.array([[10.0], [30.0]]))
        >>> found(jnp.array([3.0])).tolist()
        [30.0]
    """

    network: Any
    center: Any = 0.0
    spread: Any = 1.0
    output_center: Any = 0.0
    output_spread: Any = 1.0

    def __post_init__(self) -> None:
        require_positive("Normalized: the spread", self.spread, "Leave out inputs that never change.")
        require_positive("Normalized: the output spread", self.output_spread, "Leave out outputs that never change.")

    @classmethod
    def fit(cls, network: Any, inputs: Any, outputs: Any = None, axes: Any = 0) -> Normalized:
        """Take the constants from samples.

        Args:
            network: callable pytree of one input.
            inputs: pytree of arrays with a leading sample axis.
            outputs: outputs of these samples; None leaves the network's output as it is.
            axes: axes over which mean and standard deviation are taken, counted with the sample axis: (0, 1) for
                fields whose statistics are the same everywhere.

        Raises:
            DataError: if samples are not finite.
            ShapeError: if there are fewer than two samples.
        """
        constants = []
        for name, samples in (("inputs", inputs), ("outputs", outputs)):
            if samples is None:
                constants += [0.0, 1.0]
                continue
            samples = jax.tree.map(jnp.asarray, samples)
            require_finite(f"Normalized.fit: {name}", samples, "Leave out or fill what is missing.")
            if any(leaf.shape[:1] < (2,) for leaf in jax.tree.leaves(samples)):
                raise ShapeError(
                    f"Normalized.fit: {name} of shapes {tree.describe_shapes(samples)} hold no two samples"
                )
            constants += [_over(jnp.mean, samples, axes), _over(jnp.std, samples, axes)]
        return cls(network, *constants)

    def __call__(self, x: Any, **options: Any) -> Any:
        """Apply the network."""
        x = _mapped(lambda leaf, m, s: (leaf - m) / s, x, self.center, self.spread)
        y = self.network(x, **options)
        return _mapped(lambda leaf, m, s: m + s * leaf, y, self.output_center, self.output_spread)


def _over(function: Any, samples: Any, axes: Any) -> Any:
    return jax.tree.map(lambda leaf: function(leaf, axis=axes, keepdims=True)[0], samples)


def _mapped(function: Any, x: Any, center: Any, spread: Any) -> Any:
    def one(leaf: Any, m: Any, s: Any) -> Any:
        m, s = (stop_gradient(jnp.broadcast_to(jnp.asarray(c, leaf.dtype), leaf.shape)) for c in (m, s))
        return function(leaf, m, s)

    same = isinstance(center, float)  # one number for everything
    return jax.tree.map(lambda leaf: one(leaf, center, spread), x) if same else jax.tree.map(one, x, center, spread)


def parameter_count(network: Any) -> int:
    """Return the number of weights of a network, or of any pytree.

    Example:
        >>> parameter_count({"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)})
        8
    """
    return tree.size(network)


def flop_count(network: Any, *inputs: Any) -> float:
    """Return the floating-point operations of one call, as XLA counts them for this machine.

    Example:
        >>> flop_count(lambda x: x @ x, jnp.ones((10, 10))) >= 1900
        True
    """
    costs = jax.jit(lambda net, *x: net(*x)).lower(jax.tree_util.Partial(network), *inputs).compile().cost_analysis()
    return float((costs or {}).get("flops", 0.0))
