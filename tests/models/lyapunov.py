"""Lyapunov spectrum of a model by repeated QR factorization (Benettin et al., 1980)."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from diffassim.models import rollout


@partial(jax.jit, static_argnames=("between", "blocks"))
def lyapunov_exponents(model, x, between, blocks):
    """Return the exponents per time unit, largest first, over `blocks` intervals of `between` steps."""

    def block(carry, _):
        x, Q = carry
        end = partial(rollout, model, steps=between, at=jnp.asarray([between]))
        x_next, push = jax.linearize(lambda x: end(x)[0], x)
        Q, R = jnp.linalg.qr(jax.vmap(push, in_axes=1, out_axes=1)(Q))
        return (x_next, Q), jnp.log(jnp.abs(jnp.diagonal(R)))

    _, growth = lax.scan(block, (x, jnp.eye(x.shape[0])), None, length=blocks)
    return jnp.mean(growth[blocks // 20 :], axis=0) / (between * model.dt)
