"""Many updates of an optimizer in one compiled call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.core.layout import Layout
from diffassim.core.partition import differentiable, joined, merged
from diffassim.core.sharding import leading_mesh, mesh_of
from diffassim.training.state import TrainingState

__all__ = ["Places", "advance", "epoch_order", "evaluate", "order_of", "places_of", "sample_count"]

ORDER, LOSS, VALIDATION = 0, 1, 2  # branches of the training's key


class Places(NamedTuple):
    """How a training lies on several devices: part of the compiled program's key.

    Args:
        learned: layout of trainable and optimizer, which every update keeps; None: whole.
        batch: devices over which the samples of a batch are split; None: whole.
    """

    learned: Layout | None = None
    batch: Layout | None = None


WHOLE = Places()


def places_of(state: TrainingState, data: Any = None) -> Places:
    """Return how a training lies on the devices: known outside of traced code.

    Args:
        state: of the training.
        data: samples; a batch of them is split as they are, or over all devices that have parts of the trainable.
    """
    learned, found, mesh = Layout.of((state.trainable, state.memory)), leading_mesh(data), mesh_of(state.trainable)
    if found is not None:
        names = found[1] if isinstance(found[1], tuple) else (found[1],)
        return Places(learned, Layout(found[0], names, ()))
    return Places(learned, None if mesh is None else Layout(mesh, tuple(mesh.axis_names), ()))


def sample_count(data: Any) -> int:
    """Return the length of the sample axis."""
    return jax.tree.leaves(data)[0].shape[0]


def _value(loss: Callable[..., Any], state: TrainingState) -> Callable[..., tuple[Any, tuple[dict[str, Any], Any]]]:
    """Return the loss with a dict of metrics, empty if it has none, and with what it hands on."""
    carry = state.carry

    def value(trainable: Any, batch: Any, key: Any) -> tuple[Any, tuple[dict[str, Any], Any]]:
        whole = joined(trainable, state.rest)
        if carry is not None:
            found = loss(whole, batch, key, carry)
            if not isinstance(found, tuple) or len(found) != 3:
                raise ConfigurationError(
                    f"fit: with a carry the loss must return (scalar, metrics, carry), {_is(found)}"
                )
            _require_same(found[2], carry)
            return _scalar(found[0]), (_named(found[1]), found[2])
        found = loss(whole, batch, key)
        if not isinstance(found, tuple):
            return _scalar(found), ({}, None)
        if len(found) != 2:
            raise ConfigurationError(f"fit: the loss must return a scalar or (scalar, metrics), {_is(found)}")
        return _scalar(found[0]), (_named(found[1]), None)

    return value


def _is(found: Any) -> str:
    return f"found {len(found)} values" if isinstance(found, tuple) else f"found {type(found).__name__}"


def _scalar(value: Any) -> Any:
    if isinstance(value, jax.Array) and value.shape == () and jnp.issubdtype(value.dtype, jnp.floating):
        return value
    if isinstance(value, float | np.floating):  # a loss that depends on nothing
        return jnp.asarray(value)
    kind = f"{value.dtype} of shape {value.shape}" if hasattr(value, "dtype") else type(value).__name__
    raise ConfigurationError(f"fit: the loss must be one floating-point number, found {kind}; take a mean, for example")


def _named(metrics: Any) -> dict[str, Any]:
    if not isinstance(metrics, Mapping):
        raise ConfigurationError(f"fit: the metrics must be a dict of values by name, found {type(metrics).__name__}")
    return dict(metrics)


def _require_same(following: Any, carry: Any) -> None:
    """Raise unless the loss hands on what it got: anything else would be cast or compiled anew."""
    kinds = [[jnp.asarray(leaf).dtype for leaf in jax.tree.leaves(each)] for each in (following, carry)]
    if not tree.same_shapes(following, carry) or kinds[0] != kinds[1]:
        raise ConfigurationError(
            f"fit: the loss hands on a carry with the shapes {tree.describe_shapes(following)} and types "
            f"{_text(kinds[0])}, but got {tree.describe_shapes(carry)} and {_text(kinds[1])}; they must agree"
        )


def _text(kinds: list[Any]) -> str:
    return ", ".join(map(str, kinds))


@partial(jax.jit, static_argnums=0)
def evaluate(loss: Callable[..., Any], state: TrainingState, data: Any) -> Any:
    """Return the loss of all samples at once, with the same random numbers at every call."""
    return _value(loss, state)(state.trainable, data, jax.random.fold_in(state.key, VALIDATION))[0]


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4), static_argnames="places")
def advance(
    loss: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    batch_size: int | None,
    accumulate: int,
    length: int,
    state: TrainingState,
    data: Any,
    first: Any,
    until: Any,
    order: Any = None,
    places: Places = WHOLE,
) -> tuple[TrainingState, tuple[Any, Any, dict[str, Any]], Any]:
    """Make up to `length` updates in one loop; nothing is read back in between.

    The loop is over what an update changes; the order of the samples, which may be many, is made once an epoch and
    stays outside of it.

    Args:
        loss: (trainable, batch, key) -> scalar or (scalar, metrics) (static); see `fit`.
        optimizer: optax transformation (static).
        batch_size: samples of an update, drawn from `data`; None: `data` has a leading axis of whole batches (static).
        accumulate: parts in which the gradient of a batch is computed (static).
        length: largest number of updates (static).
        state: where to go on.
        data: samples, or batches.
        first: run-time number of the step that `data` belong to; a state that an update before did not reach stays.
        until: run-time number of the step to stop at.
        order: number of an epoch and the order of its samples, from `order_of` or from the call before; made anew in
            other epochs. None for batches.
        places: how state and batches lie on several devices (static).

    Returns:
        The state after the last update whose loss and gradient were finite; losses, gradient norms and metrics,
        each of shape (length,), where entries beyond the last update are zero; and the last order.
    """

    @jax.jit  # so that the shapes of what it reports cost no second trace
    def update(state: TrainingState, batch: Any) -> tuple[TrainingState, Any]:
        batch = batch if places.batch is None else places.batch.split(batch)
        key = jax.random.fold_in(jax.random.fold_in(state.key, LOSS), state.step)
        value, (metrics, carry), gradient = _gradient(loss, accumulate, state, batch, key)
        norm = tree.norm(gradient)
        moving, still = differentiable(state.trainable)
        with jax.numpy_dtype_promotion("standard"):  # optax schedules multiply integers with floats
            changes, memory = optimizer.update(gradient, state.memory, moving)
        learned = merged(optax.apply_updates(moving, changes), still), memory
        if places.learned is not None:
            learned = places.learned.kept(learned)
        following = state.replace(trainable=learned[0], memory=learned[1], step=state.step + 1, carry=carry)
        sound = jnp.isfinite(value) & jnp.isfinite(norm)
        return tree.select(sound, following, state), (sound, (value, norm, metrics))

    until = jnp.minimum(until, first + length)

    def run(loop: Any, until: Any, order: Any) -> Any:
        """Make updates until a step, all of them of one epoch."""

        def one(loop: Any) -> Any:
            moving, _, reports = loop
            before = _moved(state, moving)
            after, (sound, report) = update(before, _batch(data, batch_size, before.step, order, before.step - first))
            reports = jax.tree.map(lambda kept, new: kept.at[before.step - first].set(new), reports, report)
            return _moving(after), sound, reports

        return lax.while_loop(lambda loop: loop[1] & (loop[0][2] < until), one, loop)

    like = jax.eval_shape(update, state, _batch(data, batch_size, state.step, order and order[1], state.step))[1][1]
    reports = jax.tree.map(lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), like)
    loop = (_moving(state), state.step == first, reports)
    if batch_size is None:
        loop = run(loop, until, None)
    else:
        loop, order = _epochs(run, loop, until, order, partial(_order, state.key, data), batch_size)
    return _moved(state, loop[0]), loop[2], order


def _epochs(run: Any, loop: Any, until: Any, order: Any, order_of_epoch: Any, batch_size: int) -> tuple[Any, Any]:
    """Make the updates of several epochs: an order for each, held outside of the loop of its updates."""
    batches = order[1].shape[0] // batch_size

    def going(both: Any) -> Any:
        (moving, sound, _), _ = both
        return sound & (moving[2] < until)

    def epoch(both: Any) -> Any:
        loop, (number, order) = both
        now = loop[0][2] // batches
        order = lax.cond(now != number, lambda: order_of_epoch(now), lambda: order)
        return run(loop, jnp.minimum(until, (now + 1) * batches), order), (now, order)

    return lax.while_loop(going, epoch, (loop, order))


def _moved(state: TrainingState, moving: Any) -> TrainingState:
    trainable, memory, step, carry = moving
    return state.replace(trainable=trainable, memory=memory, step=step, carry=carry)


def _moving(state: TrainingState) -> Any:
    """Return what an update changes."""
    return state.trainable, state.memory, state.step, state.carry


def order_of(state: TrainingState, data: Any, batch_size: int) -> tuple[Any, Any]:
    """Return the number of the epoch of the next update, and the order of its samples."""
    number = state.step // (sample_count(data) // batch_size)
    return number, _order(state.key, data, number)


def _order(key: Any, data: Any, number: Any) -> Any:
    return epoch_order(key, number, sample_count(data))


@partial(jax.jit, static_argnums=2)
def epoch_order(key: Any, epoch: Any, samples: int) -> Any:
    """Return the order of the samples in an epoch, which the key of the training and the epoch's number determine."""
    return jax.random.permutation(jax.random.fold_in(jax.random.fold_in(key, ORDER), epoch), samples)


def _batch(data: Any, batch_size: int | None, step: Any, order: Any, number: Any) -> Any:
    if batch_size is None:
        return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, number, keepdims=False), data)
    first = step % (order.shape[0] // batch_size) * batch_size
    rows = lax.dynamic_slice_in_dim(order, first, batch_size)
    return jax.tree.map(lambda leaf: leaf[rows], data)


def _gradient(loss: Any, accumulate: int, state: TrainingState, batch: Any, key: Any) -> tuple[Any, Any, Any]:
    """Return loss, (metrics, carry) and gradient, as means over the parts of a batch."""
    trainable, still = differentiable(state.trainable)
    value_of = _value(loss, state)

    def of_moving(moving: Any, batch: Any, key: Any) -> Any:
        return value_of(merged(moving, still), batch, key)

    derivative = jax.jit(jax.value_and_grad(of_moving, has_aux=True))
    if accumulate == 1:
        (value, beside), gradient = derivative(trainable, batch, key)
        return value, beside, gradient
    parts = jax.tree.map(lambda leaf: leaf.reshape(accumulate, -1, *leaf.shape[1:]), batch)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return tree.add(total, derivative(trainable, *part)), None

    keys = jax.random.split(key, accumulate)
    like = jax.eval_shape(derivative, trainable, jax.tree.map(lambda leaf: leaf[0], parts), keys[0])
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    total, _ = lax.scan(add, zero, (parts, keys))
    (value, beside), gradient = tree.scale(1 / accumulate, total)
    return value, beside, gradient
