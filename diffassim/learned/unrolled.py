"""Fields from gappy observations by learned steps on a learned cost."""

from __future__ import annotations

from typing import Any, Self

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.pytree import Pytree, static
from diffassim.learned.line_convolution import LineConvolution, product

__all__ = ["ConvolutionalSteps", "LineAutoencoder", "UnrolledSolver"]

KEPT = "kept for the derivative"


class LineAutoencoder(Pytree):
    """Two convolutions along a line: what a window looks like, as learned.

    Args:
        first: from the state's channels to hidden ones.
        second: back.

    Example:
        >>> prior = LineAutoencoder.drawn(jax.random.key(0), 3, 8)
        >>> prior(jnp.ones((20, 3))).shape
        (20, 3)
    """

    first: Any
    second: Any

    @classmethod
    def drawn(cls, key: jax.Array, channels: int, hidden: int, width: int = 5, dtype: Any = None) -> Self:
        """Return one with random weights.

        Args:
            key: random key.
            channels: of a state.
            hidden: channels between the convolutions.
            width: points that each of them sees.
            dtype: type of the weights.
        """
        keys = jax.random.split(key)
        return cls(
            LineConvolution.drawn(keys[0], width, channels, hidden, dtype=dtype),
            LineConvolution.drawn(keys[1], width, hidden, channels, dtype=dtype),
        )

    def __call__(self, x: Any) -> Any:
        """Return what the prior makes of windows, shape (..., time, channel)."""
        hidden = jax.nn.relu(self.first.channels_first(jnp.moveaxis(x, -1, 0)))
        return jnp.moveaxis(self.second.channels_first(hidden), 0, -1)


class ConvolutionalSteps(Pytree):
    r"""A convolutional LSTM along a line that makes steps of gradients.

    .. math:: (i, f, o, n) = W [g, h],\quad c' = \sigma(f) c + \sigma(i) \tanh n,\quad
        h' = \sigma(o) \tanh c',\quad p = -h' P

    Args:
        gates: convolution from gradient and memory to four times the memory's channels.
        out: matrix from the memory to a step, shape (hidden, channel).

    Example:
        >>> cell = ConvolutionalSteps.drawn(jax.random.key(0), 3, 8)
        >>> step, memory = cell(jnp.ones((20, 3)), cell.memory(20))
        >>> step.shape
        (20, 3)

    Source: Shi et al. (2015), equation 3, without its peepholes.
    """

    gates: Any
    out: Float[Array, "hidden channel"]

    @classmethod
    def drawn(cls, key: jax.Array, channels: int, hidden: int, width: int = 3, dtype: Any = None) -> Self:
        """Return one with random weights, whose first steps are short.

        Args:
            key: random key.
            channels: of a state.
            hidden: channels of the memory.
            width: points that the gates see.
            dtype: type of the weights.
        """
        keys = jax.random.split(key)
        gates = LineConvolution.drawn(keys[0], width, channels + hidden, 4 * hidden, dtype=dtype)
        return cls(gates, 0.1 * LineConvolution.drawn(keys[1], 1, hidden, channels, dtype=dtype).kernel[0])

    def memory(self, *shape: int) -> tuple[Any, Any]:
        """Return the memory at the start, for lines of some shape (..., time); its channels come first."""
        zero = jnp.zeros((self.out.shape[0], *shape), self.out.dtype)
        return zero, zero

    def __call__(self, gradient: Any, memory: tuple[Any, Any]) -> tuple[Any, tuple[Any, Any]]:
        """Return the step and the next memory."""
        h, c = memory
        seen = jnp.concatenate([jnp.moveaxis(gradient, -1, 0), h])
        gates = checkpoint_name(self.gates.channels_first(seen), KEPT)
        entry, forget, opened, new = jnp.split(gates, 4)
        c = _sigmoid(forget) * c + _sigmoid(entry) * jnp.tanh(new)
        h = _sigmoid(opened) * jnp.tanh(c)
        return -jnp.moveaxis(product(self.out.T, h), 0, -1), (h, c)


def _sigmoid(x: Any) -> Any:
    return 0.5 + 0.5 * jnp.tanh(0.5 * x)  # without the division, which takes longer


class UnrolledSolver(Pytree):
    r"""Windows from gappy observations by learned steps on a cost with a learned prior (4DVarNet).

    .. math:: U(x; y) = \sum_{observed} (x - y)^2 + \lambda^2 \|x - \Phi(x)\|^2,\qquad
        (p_k, h_{k+1}) = N(\nabla U(x_k; y), h_k),\quad x_{k+1} = x_k + p_k

    It knows no model and gives no uncertainty; `LearnedMinimizer` makes learned steps on any cost, and guards them.
    Train it with `fit` on windows whose truth is known: prior, share and steps are learned together, through all steps.
    Windows of a batch are given at once, which takes half the time of `vmap`, under which channels cannot stay first.
    A step keeps its gates for the derivative and computes everything else again, which is faster than to read it.

    Args:
        prior: callable pytree x -> x, such as `LineAutoencoder`. It sees as many leading axes as the observations have.
        cell: callable pytree (gradient, memory) -> (step, memory) with `memory(*shape)`, such as `ConvolutionalSteps`;
            the shape is that of the observations without channels.
        share: the factor lambda of the prior.
        steps: number of steps (static).

    Raises:
        ConfigurationError: if `steps` is not positive.

    Example:
        >>> keys = jax.random.split(jax.random.key(0))
        >>> solver = UnrolledSolver(LineAutoencoder.drawn(keys[0], 3, 8), ConvolutionalSteps.drawn(keys[1], 3, 8))
        >>> solver(jnp.full((200, 3), jnp.nan).at[::8].set(1.0)).shape
        (200, 3)

    Source: Fablet et al. (2021), section 3.
    """

    prior: Any
    cell: Any
    share: Any = 0.3
    steps: int = static(default=10)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigurationError(f"UnrolledSolver: steps={self.steps} must be at least 1")

    def cost(self, x: Any, values: Any, seen: Any) -> Any:
        """Return the variational cost of a window, summed over windows.

        Args:
            x: states, shape (..., time, channel).
            values: observations, zero where there are none.
            seen: one where there are, zero elsewhere.
        """
        misfit, share = x - self.prior(x), jnp.asarray(self.share, x.dtype)
        return jnp.sum(seen * (x - values) ** 2) + share**2 * jnp.sum(misfit**2)

    def __call__(self, observed: Float[Array, "*batch time channel"]) -> Float[Array, "*batch time channel"]:
        """Return the windows after all steps.

        Args:
            observed: normalized observations, shape (..., time, channel), NaN where there are none.

        Raises:
            ShapeError: if there are fewer than two axes.
        """
        observed = jnp.asarray(observed)
        if observed.ndim < 2:
            raise ShapeError(
                f"UnrolledSolver: found observations of shape {observed.shape}, expected (..., time, channel)"
            )
        missing = jnp.isnan(observed)
        values, seen = jnp.where(missing, 0, observed), jnp.where(missing, 0, 1).astype(observed.dtype)

        def step(carry: Any, _: None) -> tuple[Any, None]:
            x, memory = carry
            change, memory = self.cell(jax.grad(self.cost)(x, values, seen), memory)
            return (x + change, memory), None

        step = jax.checkpoint(step, prevent_cse=False, policy=jax.checkpoint_policies.save_only_these_names(KEPT))
        (x, _), _ = lax.scan(step, (values, self.cell.memory(*observed.shape[:-1])), length=self.steps)
        return x
