"""Innovations of a cycle, stream by stream: are they as large as the ensemble and R say, without bias, white?"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.errors import ShapeError, concrete
from diffassim.core.pytree import Pytree, static
from diffassim.observations.container import as_streams, on_steps

__all__ = ["InnovationStatistics", "innovation_statistics"]


class InnovationStatistics(Pytree):
    """Of one stream of observations, in units of its errors' standard deviation (whitened by R).

    Args:
        name: of the stream.
        count: observed values.
        bias: mean innovation.
        bias_error: its standard error, as if values were independent.
        deviation: root of the mean squared innovation.
        expected: the same as background spread and R together claim.
        correlation: of the innovations of one place at neighboring times; of an optimal filter it is zero.
    """

    name: str = static()
    count: int = static()
    bias: float = static()
    bias_error: float = static()
    deviation: float = static()
    expected: float = static()
    correlation: float = static()

    @property
    def chi_square(self) -> float:
        """Squared deviation over the expected one: about one if spread and R are right."""
        return (self.deviation / self.expected) ** 2

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.count} values, bias {self.bias:+.3f} +- {self.bias_error:.3f}, deviation "
            f"{self.deviation:.3f} (expected {self.expected:.3f}), correlation in time {self.correlation:+.2f}"
        )


def innovation_statistics(background: Any, observations: Any, steps: Any) -> list[InnovationStatistics]:
    """Return statistics of y - H(x) for each stream of a record, given the ensembles before each analysis.

    Args:
        background: forecast members at the analysis times, a pytree with leading axes (time, member). Where only means
            were kept, `jax.tree.map(lambda leaf: leaf[:, None], history.background.mean)` serves; what is expected is
            R alone then.
        observations: the record, `Observations` or a tuple of streams.
        steps: model steps of the analysis times, ascending, shape (time,); `history.step`.

    Returns:
        One `InnovationStatistics` for each stream; those of a stream without any observed value are NaN.

    Raises:
        ShapeError: if an observation is at none of the steps, or steps are traced.

    Example:
        >>> import diffassim as da
        >>> rng = np.random.default_rng(0)
        >>> obs = da.Observations(rng.normal(size=(400, 2)), np.arange(400), error=da.covariances.Diagonal(std=1.0))
        >>> (found,) = innovation_statistics(np.zeros((400, 1, 2)), obs, np.arange(400))
        >>> found.count, abs(found.bias) < 0.1, abs(found.chi_square - 1) < 0.2
        (800, True, True)

    Source: Desroziers et al. (2005), equation 1; whiteness: Kailath (1968).
    """
    known = concrete(steps)
    if known is None:
        raise ShapeError("innovation_statistics: steps must be known outside of traced code")
    return [
        _statistics(f"observations {i}", background, stream, np.asarray(known))
        for i, stream in enumerate(as_streams(observations))
    ]


def _statistics(name: str, background: Any, stream: Any, steps: np.ndarray) -> InnovationStatistics:
    stream = on_steps("innovation_statistics", stream)
    at = np.asarray(stream.steps)
    index = np.minimum(np.searchsorted(steps, at), steps.size - 1)
    if (steps[index] != at).any():
        raise ShapeError(
            f"innovation_statistics: {name} has values at step {at[steps[index] != at][0]}, not in `steps`"
        )
    members = jax.tree.map(lambda leaf: jnp.swapaxes(jnp.asarray(leaf)[index], 0, 1), background)
    departures = jax.vmap(stream.innovation)(members)
    N = jax.tree.leaves(departures)[0].shape[0]
    mean = _rows(jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), departures))
    variance = _rows(jax.tree.map(lambda leaf: jnp.var(leaf, axis=0) * N / max(N - 1, 1), departures))
    seen = _rows(stream.mask)
    values = mean[seen]
    if values.size == 0:
        return InnovationStatistics(name, 0, *[float("nan")] * 5)
    order = np.argsort(at, kind="stable")
    early, late = order[:-1], order[1:]
    both = seen[early] & seen[late]
    a, b = mean[early][both], mean[late][both]
    norm = np.sqrt(np.sum(a**2) * np.sum(b**2))
    return InnovationStatistics(
        name, int(values.size), float(values.mean()), float(values.std() / values.size**0.5),
        float(np.sqrt(np.mean(values**2))), float(np.sqrt(np.mean(1 + variance[seen]))),
        float(np.sum(a * b) / norm) if norm > 0 else float("nan"),
    )  # fmt: skip


def _rows(values: Any) -> np.ndarray:
    """Return all leaves as one array (time, value)."""
    leaves = jax.tree.leaves(values)
    return np.concatenate([np.asarray(leaf).reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)
