"""Normalization of a network's inputs and outputs, and what a network costs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from diffassim.core import tree
from diffassim.core.checks import real_state
from diffassim.core.errors import DataError, ShapeError, require_finite, require_positive
from diffassim.core.partition import compilable
from diffassim.core.pytree import Pytree, untrained

__all__ = ["Normalized", "flop_count", "parameter_count", "spread_of"]


class Normalized(Pytree):
    r"""A network between normalized inputs and outputs.

    .. math:: y = \mu_y + \sigma_y\, N((x - \mu_x) / \sigma_x)

    The constants are leaves: they go where the weights go, into checkpoints and to other precisions. A training leaves
    them alone. In what unit data come cannot be seen from an array of numbers; `check` tells whether they look like
    those that the constants were taken from.

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
    center: Any = untrained(default=0.0)
    spread: Any = untrained(default=1.0)
    output_center: Any = untrained(default=0.0)
    output_spread: Any = untrained(default=1.0)

    def __post_init__(self) -> None:
        self._set(network=compilable("Normalized: network", self.network))
        for name in ("center", "output_center"):
            require_finite(f"Normalized: {name}", getattr(self, name))
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
        constants: list[Any] = []
        sizes: set[int] = set()
        for name, samples in (("inputs", inputs), ("outputs", outputs)):
            if samples is None:
                constants += [0.0, 1.0]
                continue
            samples = real_state(f"Normalized.fit: {name}", samples)
            require_finite(f"Normalized.fit: {name}", samples, "Leave out or fill what is missing.")
            if any(leaf.shape[:1] < (2,) for leaf in jax.tree.leaves(samples)):
                raise ShapeError(
                    f"Normalized.fit: {name} of shapes {tree.describe_shapes(samples)} hold no two samples"
                )
            sizes |= {jnp.shape(leaf)[0] for leaf in jax.tree.leaves(samples)}
            if len(sizes) > 1:
                raise ShapeError(
                    f"Normalized.fit: inputs and outputs differ in their number of samples: {sorted(sizes)}"
                )
            constants += [_over(jnp.mean, samples, axes), _over(spread_of, samples, axes)]
        return cls(network, *constants)

    def check(self, inputs: Any, name: str = "inputs", axes: Any = 0, factor: float = 3.0) -> None:
        """Raise unless samples look like those that center and spread were taken from: another unit, another network.

        Args:
            inputs: samples with a leading axis, as for `fit`.
            name: of the samples, for the message.
            axes: see `fit`.
            factor: how many spreads the mean may lie off the center, and by what factor the spread may differ.

        Raises:
            DataError: if they do not, or are not finite.

        Example:
            >>> kelvin = Normalized.fit(lambda x: x, 280 + 10 * jax.random.normal(jax.random.key(0), (50, 1)))
            >>> kelvin.check(280 + 10 * jax.random.normal(jax.random.key(1), (50, 1)))
        """
        inputs = real_state(f"Normalized.check: {name}", inputs)
        require_finite(f"Normalized.check: {name}", inputs, "Leave out or fill what is missing.")
        found = [_over(each, inputs, axes) for each in (jnp.mean, spread_of)]
        off = _mapped(lambda leaf, m, s: jnp.max(jnp.abs(leaf - m) / s), found[0], self.center, self.spread)
        wide = _mapped(lambda leaf, m, s: jnp.median(leaf / s), found[1], self.center, self.spread)
        far = max(float(leaf) for leaf in jax.tree.leaves(off))
        ratios = [float(leaf) for leaf in jax.tree.leaves(wide)]
        if far > factor or min(ratios) < 1 / factor or max(ratios) > factor:
            raise DataError(
                f"Normalized.check: the mean of {name} lies up to {far:.3g} spreads off the center, their spread is "
                f"{min(ratios):.3g} to {max(ratios):.3g} times that of the normalization; are they in another unit, or "
                "normalized already?"
            )

    def __call__(self, x: Any, **options: Any) -> Any:
        """Apply the network.

        Raises:
            ShapeError: if the constants do not fit the input or the output.
        """
        x = _mapped(lambda leaf, m, s: (leaf - m) / s, x, self.center, self.spread)
        y = self.network(x, **options)
        return _mapped(lambda leaf, m, s: m + s * leaf, y, self.output_center, self.output_spread)


def spread_of(values: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Return the standard deviation, exactly 0 for what never changes: else it may be a rounding error of the mean.

    Divided by that, the first value that differs would be beyond all numbers that a network has seen.

    Example:
        >>> same = jnp.full(33, 23.0**-0.5)
        >>> bool(jnp.std(same) > 0), float(spread_of(same))
        (True, 0.0)
    """
    changes = jnp.ptp(values, axis=axis, keepdims=keepdims) > 0
    return jnp.where(changes, jnp.std(values, axis=axis, keepdims=keepdims), 0)


def _over(function: Any, samples: Any, axes: Any) -> Any:
    return jax.tree.map(lambda leaf: function(leaf, axis=axes, keepdims=True)[0], samples)


def _mapped(function: Any, x: Any, center: Any, spread: Any) -> Any:
    def one(leaf: Any, m: Any, s: Any) -> Any:
        leaf = jnp.asarray(leaf)
        leaf = leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf.astype(jnp.result_type(float))
        if not all(_spreads_over(jnp.shape(c), leaf.shape) for c in (m, s)):
            raise ShapeError(
                f"Normalized: constants of the shapes {jnp.shape(m)} and {jnp.shape(s)} do not fit an array of shape "
                f"{leaf.shape}; were they fitted to other data?"
            )
        m, s = (stop_gradient(jnp.broadcast_to(jnp.asarray(c, leaf.dtype), leaf.shape)) for c in (m, s))
        return function(leaf, m, s)

    center, spread = (_for_all(constants, x) for constants in (center, spread))
    return jax.tree.map(one, x, center, spread)


def _for_all(constants: Any, x: Any) -> Any:
    """Return constants by leaf of x: one number is that of all leaves, also where it is traced."""
    if jax.tree.structure(constants) == jax.tree.structure(x):
        return constants
    if jax.tree.structure(constants) == jax.tree.structure(0) and jnp.ndim(constants) == 0:
        return jax.tree.map(lambda _: constants, x)
    raise ShapeError(
        f"Normalized: the constants have the structure {tree.describe_shapes(constants)}, but what they are applied to "
        f"{tree.describe_shapes(x)}; were they fitted to other data?"
    )


def _spreads_over(shape: tuple[int, ...], over: tuple[int, ...]) -> bool:
    return len(shape) <= len(over) and all(a in (1, b) for a, b in zip(shape[::-1], over[::-1], strict=False))


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
