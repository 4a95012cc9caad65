"""Networks for the tests: one for each way in which a network comes into the package."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen, nnx

from diffassim.learned import LocalNetwork, Network


class LinenDense(linen.Module):
    @linen.compact
    def __call__(self, x):
        hidden = jax.nn.tanh(linen.Dense(4, param_dtype=x.dtype)(x))
        return linen.Dense(x.shape[-1], param_dtype=x.dtype)(hidden)


class NNXDense(nnx.Module):
    def __init__(self, n, dtype, seed=0):
        rngs = nnx.Rngs(seed)
        self.first = nnx.Linear(n, 4, param_dtype=dtype, rngs=rngs)
        self.second = nnx.Linear(4, n, param_dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.second(jax.nn.tanh(self.first(x)))


def from_linen(n, dtype=jnp.float64, seed=0):
    module = LinenDense()
    return Network.from_linen(module, module.init(jax.random.key(seed), jnp.zeros(n, dtype)))


def from_nnx(n, dtype=jnp.float64, seed=0):
    return Network.from_nnx(NNXDense(n, dtype, seed))


def local(n, dtype=jnp.float64, seed=0):
    """A local network whose last layer is not zero, so that it does something."""
    module = LocalNetwork(radius=1, width=4, center=2.5, spread=3.5, rngs=nnx.Rngs(seed), dtype=dtype)
    network = Network.from_nnx(module)
    keys = jax.random.split(jax.random.key(seed), len(jax.tree.leaves(network)))
    leaves = [
        leaf + 0.3 * jax.random.normal(key, leaf.shape, dtype)
        for key, leaf in zip(keys, jax.tree.leaves(network), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(network), leaves)


NETWORKS = {"nnx": from_nnx, "linen": from_linen, "local": local}
