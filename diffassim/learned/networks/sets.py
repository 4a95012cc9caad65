"""Networks of irregular places: a graph network of stations, and an encoder of observations of several kinds."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.learned.networks.dense import MLP

__all__ = ["GraphNetwork", "SetEncoder"]

BLOCK = 2**24  # weights of attention that are held at a time


class GraphNetwork(nnx.Module):
    """Messages between stations along given edges, in several rounds.

    The neighbours are arguments: other stations need no other program. Find them with
    `diffassim.ensemble.nearest_observations` or any search tree.

    Args:
        inputs: number of channels of a station.
        outputs: number of output channels of a station.
        edges: number of channels of an edge (offsets, distances).
        width: channels inside.
        rounds: number of rounds.
        rngs: random-number streams for the initial weights.
        dtype: type of the weights.

    Example:
        >>> net = GraphNetwork(2, 1, edges=1, width=4, rngs=nnx.Rngs(0))
        >>> net(jnp.ones((6, 2)), jnp.zeros((6, 3), int), jnp.ones((6, 3, 1))).shape
        (6, 1)

    Source: Gilmer et al. (2017), section 2.
    """

    def __init__(
        self, inputs: int, outputs: int, edges: int, width: int = 32, rounds: int = 2, *, rngs: nnx.Rngs,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        options = {"rngs": rngs, "dtype": dtype}
        self.enter = MLP([inputs, width, width], **options)
        self.messages = nnx.List([MLP([2 * width + edges, width, width], **options) for _ in range(rounds)])
        self.updates = nnx.List([MLP([2 * width, width, width], **options) for _ in range(rounds)])
        self.leave = MLP([width, width, outputs], zero=True, **options)

    def __call__(self, stations: Any, neighbours: Any, edges: Any, mask: Any = None) -> Any:
        """Return outputs, shape (station, outputs).

        Args:
            stations: channels, shape (station, inputs).
            neighbours: numbers of the stations that each one listens to, shape (station, k).
            edges: channels of these edges, shape (station, k, edges).
            mask: which of them count, shape (station, k); default: all.
        """
        h = self.enter(stations)
        counts = jnp.ones(neighbours.shape, h.dtype) if mask is None else mask.astype(h.dtype)
        share = counts / jnp.maximum(jnp.sum(counts, axis=1, keepdims=True), 1)
        for message, update in zip(self.messages, self.updates, strict=True):
            here = jnp.broadcast_to(h[:, None], (*neighbours.shape, h.shape[-1]))
            heard = message(jnp.concatenate([here, h[neighbours], edges.astype(h.dtype)], axis=-1))
            heard = jnp.sum(heard * share[..., None], axis=1)
            h = h + update(jnp.concatenate([h, heard], axis=-1))
        return self.leave(h)


class SetEncoder(nnx.Module):
    """Observations of several kinds, at any places and times, to values at places of one's own.

    Every observed value becomes a token of its value, place and time, through a network of its kind; the tokens of
    all kinds are one set, which the queries attend to. The order of the observations has no influence, nor has a value
    that is masked or not finite, on outputs and gradients. Kinds may be left out, and may be empty. Many queries
    of many observations are answered in blocks, so that memory does not grow with their product.

    Args:
        features: by kind, the number of channels of one observation (value, place, time, ...).
        queries: number of channels of a query (its place).
        outputs: number of output channels of a query.
        width: channels inside, a multiple of `heads`.
        heads: number of attention heads.
        rounds: rounds of attention.
        rngs: random-number streams for the initial weights.
        dtype: type of the weights.

    Raises:
        ConfigurationError: if `width` is no multiple of `heads`, or a call brings an unknown kind.

    Example:
        >>> net = SetEncoder({"gauge": 3, "radar": 4}, queries=2, outputs=1, width=8, heads=2, rngs=nnx.Rngs(0))
        >>> seen = {"gauge": (jnp.ones((5, 3)), jnp.ones(5, bool)), "radar": (jnp.ones((9, 4)), jnp.ones(9, bool))}
        >>> net(seen, jnp.ones((7, 2))).shape
        (7, 1)

    Source: Jaegle et al. (2022), section 3, for queries of a set.
    """

    def __init__(
        self, features: Any, queries: int, outputs: int, width: int = 32, heads: int = 4, rounds: int = 2, *,
        rngs: nnx.Rngs, dtype: Any = None,
    ) -> None:  # fmt: skip
        if width % heads:
            raise ConfigurationError(f"SetEncoder: width={width} must be a multiple of heads={heads}")
        options = {"rngs": rngs, "dtype": dtype}
        self.kinds = nnx.Dict({kind: MLP([size, width, width], **options) for kind, size in features.items()})
        self.enter = MLP([queries, width, width], **options)
        self.asked = nnx.List([MLP([width, width], **options) for _ in range(rounds)])
        self.told = nnx.List([MLP([width, 2 * width], **options) for _ in range(rounds)])
        self.updates = nnx.List([MLP([2 * width, width, width], **options) for _ in range(rounds)])
        self.leave = MLP([width, width, outputs], **options)
        self.heads = heads

    def __call__(self, observations: Any, queries: Any) -> Any:
        """Return outputs, shape (query, outputs).

        Args:
            observations: by kind, features of shape (k, features) and a mask of shape (k,).
            queries: channels of the queries, shape (query, queries).

        Raises:
            ConfigurationError: if there is no kind at all, or an unknown one.
            ShapeError: if features or mask of a kind are shaped otherwise.
        """
        if not observations:
            raise ConfigurationError(
                f"SetEncoder: no kind is given; where nothing was observed, mask one of {sorted(self.kinds)}"
            )
        tokens, masks = [], []
        for kind, (features, mask) in sorted(observations.items()):
            if kind not in self.kinds:
                raise ConfigurationError(f"SetEncoder: unknown kind {kind!r}; it was built for {sorted(self.kinds)}")
            features, mask = jnp.asarray(features), jnp.asarray(mask, bool)
            size = self.kinds[kind].hidden[0].kernel.shape[0]
            if features.shape != (*mask.shape[:1], size) or mask.ndim != 1:
                raise ShapeError(
                    f"SetEncoder: kind {kind!r} has features of shape {features.shape} and a mask of shape "
                    f"{mask.shape}, expected (k, {size}) and (k,)"
                )
            mask = mask & jnp.all(jnp.isfinite(features), axis=1)
            tokens.append(self.kinds[kind](jnp.where(mask[:, None], features, 0)))
            masks.append(mask)
        token, mask = jnp.concatenate(tokens), jnp.concatenate(masks)
        h = self.enter(queries)
        for ask, tell, update in zip(self.asked, self.told, self.updates, strict=True):
            h = h + update(jnp.concatenate([h, self._attend(ask(h), tell(token), mask)], axis=-1))
        return self.leave(h)

    def _attend(self, question: Any, told: Any, mask: Any) -> Any:
        size = question.shape[-1] // self.heads
        name, content = (part.reshape(len(part), self.heads, size) for part in jnp.split(told, 2, axis=-1))
        question = question.reshape(len(question), self.heads, size)
        if self.heads * len(question) * len(name) <= BLOCK:
            return _heard(question, name, content, mask).reshape(len(question), -1)
        heard = jax.checkpoint(lambda q: _heard(q[None], name, content, mask)[0])
        count = max(1, BLOCK // (self.heads * len(name)))
        return jax.lax.map(heard, question, batch_size=count).reshape(len(question), -1)


def _heard(question: Any, name: Any, content: Any, mask: Any) -> Any:
    """Return what the questions hear, shape (query, head, channel)."""
    closeness = jnp.einsum("qhc,khc->hqk", question, name) / question.shape[-1] ** 0.5
    shown = mask[None, None]
    largest = jax.lax.stop_gradient(
        jnp.max(jnp.where(shown, closeness, -jnp.inf), axis=-1, keepdims=True, initial=-jnp.inf)
    )
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    weight = jnp.where(shown, jnp.exp(jnp.where(shown, closeness - largest, 0)), 0)
    total = jnp.sum(weight, axis=-1, keepdims=True)
    weight = weight / jnp.where(total > 0, total, 1)  # without any observation nothing is heard
    return jnp.einsum("hqk,khc->qhc", weight, content)
