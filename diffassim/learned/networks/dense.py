"""Networks of vectors: a multilayer perceptron, and a recurrent cell."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from diffassim.learned.network import Network

__all__ = ["MLP", "RecurrentCell", "perceptron"]


class MLP(nnx.Module):
    """A multilayer perceptron of the last axis.

    Args:
        sizes: number of inputs, of each layer's units, and of outputs.
        zero: whether the last layer starts at zero.
        rngs: random-number streams for the initial weights.
        dtype: type of the weights; default: the precision of JAX.

    Example:
        >>> MLP([3, 8, 2], rngs=nnx.Rngs(0))(jnp.ones((5, 3))).shape
        (5, 2)
    """

    def __init__(self, sizes: Any, *, rngs: nnx.Rngs, zero: bool = False, dtype: Any = None) -> None:
        options = {"rngs": rngs, "param_dtype": dtype or jnp.result_type(float)}
        *hidden, last = itertools.pairwise(sizes)
        self.hidden = nnx.List([nnx.Linear(a, b, **options) for a, b in hidden])
        start = {"kernel_init": nnx.initializers.zeros_init()} if zero else {}
        self.last = nnx.Linear(*last, **start, **options)

    def __call__(self, x: Any) -> Any:
        """Return outputs, shape (..., outputs)."""
        for layer in self.hidden:
            x = jax.nn.silu(layer(x))
        return self.last(x)


def perceptron(sizes: Any, key: jax.Array, *, zero: bool = False, dtype: Any = None) -> Network:
    """Return a multilayer perceptron as a `Network`, its weights drawn from a key, which may be traced.

    Args:
        sizes: number of inputs, of each layer's units, and of outputs.
        key: random key.
        zero: whether the last layer starts at zero.
        dtype: type of the weights; default: the precision of JAX.

    Example:
        >>> many = jax.vmap(lambda key: perceptron([3, 8, 2], key))(jax.random.split(jax.random.key(0), 4))
        >>> jax.tree.leaves(many)[0].shape[0]
        4
    """
    return Network.from_nnx(MLP(sizes, rngs=nnx.Rngs(params=key), zero=zero, dtype=dtype))


class RecurrentCell(nnx.Module):
    r"""A gated recurrent unit whose state is an argument, so that it can be carried by whatever calls it.

    .. math:: z = \sigma(W_z [x, h]),\quad r = \sigma(W_r [x, h]),\quad
        h' = (1 - z) h + z \tanh(W_h [x, r h])

    Args:
        inputs: number of inputs.
        size: number of state components.
        rngs: random-number streams for the initial weights.
        dtype: type of the weights.

    Example:
        >>> RecurrentCell(3, 4, rngs=nnx.Rngs(0))(jnp.ones((5, 3)), jnp.zeros((5, 4))).shape
        (5, 4)

    Source: Cho et al. (2014), section 2.3.
    """

    def __init__(self, inputs: int, size: int, *, rngs: nnx.Rngs, dtype: Any = None) -> None:
        options = {"rngs": rngs, "param_dtype": dtype or jnp.result_type(float)}
        self.gates = nnx.Linear(inputs + size, 2 * size, **options)
        self.candidate = nnx.Linear(inputs + size, size, **options)

    def __call__(self, x: Any, h: Any) -> Any:
        """Return the next state, shape (..., size)."""
        z, r = jnp.split(jax.nn.sigmoid(self.gates(jnp.concatenate([x, h], axis=-1))), 2, axis=-1)
        return (1 - z) * h + z * jnp.tanh(self.candidate(jnp.concatenate([x, r * h], axis=-1)))
