"""Minimize a loss over minibatches with optax."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffassim.core import tree
from diffassim.core.checks import arrays, count_of
from diffassim.core.errors import AssimilationError, ConfigurationError
from diffassim.core.partition import differentiable, joined
from diffassim.training.checkpoint import save_checkpoint
from diffassim.training.checkpoints import Checkpoints
from diffassim.training.sources import batches_of, is_arrays
from diffassim.training.state import TrainingState
from diffassim.training.streams import Stream
from diffassim.training.updates import advance, order_of, places_of
from diffassim.training.validation import Validation, missing_in, missing_values

__all__ = ["Fit", "TrainingError", "fit"]


class TrainingError(AssimilationError):
    """The loss or its gradient stopped being finite; `fit` holds the last sound state and the history."""

    def __init__(self, message: str, fit: Fit) -> None:
        super().__init__(message)
        self.fit = fit


class Fit(NamedTuple):
    """What a training returns.

    Attributes:
        trained: the trainable of the lowest validation loss, or without validation that of the last update.
        losses: loss of every update, shape (update,).
        gradient_norms: norm of its gradient.
        metrics: what else the loss returned, by name, each of shape (update,).
        validation: loss on the validation samples after every chunk.
        state: with which `fit` goes on.
    """

    trained: Any
    losses: np.ndarray
    gradient_norms: np.ndarray
    metrics: dict[str, np.ndarray]
    validation: np.ndarray
    state: TrainingState

    def __repr__(self) -> str:
        ends = [f"loss {self.losses[0]:.3g} to {self.losses[-1]:.3g}"] if len(self.losses) else []
        ends += [f"validation {np.nanmin(self.validation):.3g} at best"] if np.isfinite(self.validation).any() else []
        parts = [
            f"{len(self.losses)} updates",
            *ends,
            f"{tree.size(differentiable(self.state.trainable)[0])} numbers trained",
        ]
        return f"Fit({', '.join(parts)})"


def fit(
    loss: Callable[[Any, Any, Any], Any],
    trainable: Any,
    data: Any,
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    batch_size: int | None = None,
    key: jax.Array | None = None,
    state: TrainingState | None = None,
    carry: Any = None,
    validation: Any = None,
    patience: int | None = None,
    accumulate: int = 1,
    chunk: int = 100,
    checkpoint: str | Path | Checkpoints | None = None,
    progress: Callable[[int, float], None] | None = None,
    record: Callable[[int, dict[str, np.ndarray]], None] | None = None,
) -> Fit:
    """Train a pytree on minibatches.

    The loss may contain anything: forecasts, minimizations, whole assimilation cycles. A chunk of updates is one
    compiled scan, so that nothing is read back from the device within it; losses, validation, checkpoint and progress
    come between chunks. Another call with the same loss and optimizer objects, and data of the same shapes, uses the
    compiled chunk again. Clipping, schedules and frozen parts are optax transformations.

    Training is reproducible: every update draws from the key folded with its number. A training that is continued from
    its state, with the same data and the same chunks, gives the same weights bit by bit.

    Args:
        loss: (trainable, batch, key) -> scalar, or (scalar, dict of scalar metrics); with `carry` (trainable, batch,
            key, carry) -> (scalar, metrics, carry). With `accumulate` it has to be a mean over the samples.
        trainable: pytree, for example a `Network`, a module of Equinox, or a model that holds one. Arrays of
            floating-point numbers are trained; integers, functions and flags stay what they are.
        data: where the samples come from; but for arrays, the next batches are read while the device works on these.

            - Pytree of arrays with a leading sample axis, which move to the device at once; `np.memmap`, zarr arrays,
              HDF5 data sets, or `StoredArrays(...)` move batch by batch. Every sample comes once in an epoch, as far as
              whole batches go, in an order that key and epoch determine.
            - `Source`, such as `diffassim.io.windows.WindowsOfFields` of netCDF or zarr files, or a data set that gives
              samples by number, such as those of PyTorch or a `MapDataset` of grain: in the same order.
            - Without batch_size: a data set that gives whole batches by number (such as `MapDataset.batch(...)`). That
              of step k is number k, modulo their number.
            - Without batch_size: an iterable of batches (such as `IterDataset` and `DataLoader` of grain), which begins
              again at its end. A continued training sets its iterator to the position that the state holds if there
              is one (grain's have one); otherwise it reads the batches of the steps before and leaves them out.
            - Without batch_size: an iterator of batches, whose next item belongs to the next update. A continued
              training takes what comes, unless it can be set to the position of the state. Where training ends before
              its last step, what was read ahead is lost.
        optimizer: optax transformation.
        steps: number of updates, those of a given state included.
        batch_size: samples in each batch; None where the data consist of batches, which all have one shape.
        key: random key; None with a state, which has one.
        state: where to go on (`Fit.state`, or `load_checkpoint`); `trainable` may then be None.
        carry: pytree that the loss hands on from update to update, without derivative: states of cycles that go on
            (truncated back-propagation), settings that change between calls of `fit` without a new compilation.
        validation: samples on which the loss is evaluated after every chunk: arrays all at once; a `Source` or an
            iterable of batches batch by batch, whose mean, weighted by their samples, counts.
        patience: validations without a new minimum after which training ends.
        accumulate: parts in which the gradient of a batch is computed one after the other, to save memory.
        chunk: updates between two looks at the training.
        checkpoint: directory in which the state is kept after every chunk; or `Checkpoints`, which keep several, and
            write while training goes on. They compare by the validation loss, or without validation by that of the
            last update.
        progress: called as progress(step, loss) after each chunk, for example a `ProgressLine`.
        record: called as record(first step, values by name) after each chunk, for example a `CsvMetrics`.

    Returns:
        `Fit`.

    Raises:
        ConfigurationError: if a setting cannot be what it is, the loss returns something else, or `fit` is traced.
        DataError: if there are no samples, an iterator ends too early, or a batch holds another type or no numbers.
        ShapeError: if samples or batches differ in shape.
        TrainingError: if loss or gradient is not finite: it names the update and holds the last sound state; or if
            no validation loss was finite.

    Example:
        >>> found = fit(lambda w, x, key: jnp.mean((w - x) ** 2), jnp.zeros(()), jnp.full(8, 3.0),
        ...     optimizer=optax.sgd(0.5), steps=3, batch_size=4, key=jax.random.key(0))
        >>> float(found.trained)
        3.0
    """
    _require_outside(trainable, data if is_arrays(data) else None, key, state, carry)
    steps, accumulate, chunk = (
        count_of("fit: steps", steps),
        *(count_of(f"fit: {name}", value, 1) for name, value in (("accumulate", accumulate), ("chunk", chunk))),
    )
    batch_size = batch_size if batch_size is None else count_of("fit: batch_size", batch_size)
    patience = patience if patience is None else count_of("fit: patience", patience)
    _check(accumulate, validation, patience, batch_size, optimizer)
    state = _begun(trainable, optimizer, key, state, carry, accumulate)
    step = first = int(state.step)
    batches = batches_of(data, batch_size, state.key, step, state.position)
    if batches is None:
        data = arrays("fit: the data", data)  # to the device once, not for every chunk
        state = state.replace(position=None)
    places = places_of(state, data if batches is None else None)
    valued = None if validation is None else Validation(validation, batch_size)
    reports: list[Any] = []
    checked: list[float] = []
    order = None if batches is not None or batch_size is None else order_of(state, data, batch_size)
    with contextlib.ExitStack() as stack:
        stream = None if batches is None else stack.enter_context(Stream(batches, step, steps, chunk, accumulate))
        while step < steps and not (patience is not None and int(state.stale) >= patience):
            count = min(chunk, steps - step)
            if stream is not None:
                state, report = stream.advance(loss, optimizer, state, count)
            else:
                state, report, order = advance(
                    loss,
                    optimizer,
                    batch_size,
                    accumulate,
                    chunk,
                    state,
                    data,
                    step,
                    step + count,
                    order,
                    places=places,
                )
            reports.append(jax.tree.map(lambda leaf, k=count: np.asarray(leaf)[:k], report))
            broken = step + count != int(state.step)
            step = int(state.step)
            if broken:
                _raise_broken(step, first, reports, checked, state, data if batches is None else batches, batch_size)
            if valued is not None:
                checked.append(float(value := valued(loss, state)))
                state = _compared(state, value)
            if record is not None:
                record(step - count, _by_name(reports[-1], checked))
            if isinstance(checkpoint, Checkpoints):
                checkpoint.save(step, state, checked[-1] if checked else float(reports[-1][0][-1]))
            elif checkpoint is not None:
                save_checkpoint(checkpoint, state)
            if progress is not None:
                progress(step - 1, float(reports[-1][0][-1]))
    if isinstance(checkpoint, Checkpoints):
        checkpoint.wait()
    found = _collect(reports, checked, state, None if validation is None else state.best)
    if checked and not np.isfinite(float(state.best_loss)):
        raise TrainingError(
            f"fit: the validation loss was never finite ({checked[-1]} at last), so that no state is the best one. "
            "Check the validation samples, and that what the loss computes of them stays bounded"
            + missing_in(validation),
            found,
        )
    return found


def _begun(
    trainable: Any, optimizer: Any, key: Any, state: TrainingState | None, carry: Any, accumulate: int
) -> TrainingState:
    """Return the state to start from."""
    if state is None:
        if key is None:
            raise ConfigurationError("fit: give key=jax.random.key(...), or a state to go on from")
        _require_key(key)
        state = TrainingState.create(trainable, optimizer, key, carry)
        if not jax.tree.leaves(differentiable(state.trainable)[0]):
            raise ConfigurationError(
                f"fit: the trainable holds no floating-point number that is trained ({_kinds(trainable)})"
            )
    elif key is not None or carry is not None:
        raise ConfigurationError(
            "fit: a state has its own key and carry; leave them out, or replace those of the state"
        )
    if state.carry is not None and accumulate > 1:
        raise ConfigurationError("fit: parts of a batch cannot hand anything on; leave out `accumulate` or `carry`")
    return state


def _by_name(report: Any, checked: list[float]) -> dict[str, np.ndarray]:
    """Return what a chunk reports; the validation belongs to its last update."""
    losses, norms, metrics = report
    named = {"loss": losses, "gradient_norm": norms, **metrics}
    if checked:
        named["validation"] = np.append(np.full(len(losses) - 1, np.nan), checked[-1])
    return named


def _compared(state: TrainingState, value: Any) -> TrainingState:
    value = value.astype(state.best_loss.dtype)  # a loss in single precision is one
    better = value < state.best_loss
    return state.replace(
        best=tree.select(better, state.trainable, state.best),
        best_loss=jnp.where(better, value, state.best_loss),
        stale=jnp.where(better, 0, state.stale + 1),
    )


def _collect(reports: list[Any], checked: list[float], state: TrainingState, best: Any) -> Fit:
    trained = joined(state.trainable if best is None else best, state.rest)
    if not reports:
        return Fit(trained, np.zeros(0), np.zeros(0), {}, np.array(checked), state)
    losses, norms, metrics = jax.tree.map(lambda *leaves: np.concatenate(leaves), *reports)
    return Fit(trained, losses, norms, metrics, np.array(checked), state)


def _raise_broken(
    step: int, first: int, reports: list[Any], checked: list[float], state: TrainingState, data: Any, batch_size: Any
) -> None:
    so_far = _collect(reports, checked, state, None)
    kept = jax.tree.map(lambda leaf: leaf[: step - first + 1], (so_far.losses, so_far.gradient_norms, so_far.metrics))
    so_far = so_far._replace(losses=kept[0], gradient_norms=kept[1], metrics=kept[2])
    raise TrainingError(
        f"fit: in the batch of step {step} the loss is {kept[0][-1]} and the gradient norm {kept[1][-1]}. Lower the "
        "learning rate, clip the gradient, check the batch, or check that the minimizations inside the loss converge."
        + missing_values(data, batch_size, state.key, step),
        so_far,
    )


def _check(accumulate: int, validation: Any, patience: int | None, batch_size: int | None, optimizer: Any) -> None:
    if patience is not None and (validation is None or patience < 1):
        raise ConfigurationError(f"fit: patience={patience} counts validations (1 or more); give validation samples")
    if batch_size is not None and batch_size % accumulate:
        raise ConfigurationError(f"fit: batch_size={batch_size} is no multiple of accumulate={accumulate}")
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise ConfigurationError(
            "fit: the optimizer must be a transformation of optax like optax.adam(1e-3), found "
            f"{type(optimizer).__name__}"
        )


def _require_outside(*given: Any) -> None:
    """Raise if `fit` is called from traced code: it looks at its losses between chunks."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(given)):
        raise ConfigurationError(
            "fit: it cannot be traced by jax.jit, vmap or grad. To train several networks at once, give them a leading "
            "axis and the sum of their losses, as DeepEnsemble.loss does; a single update is optax inside of lax.scan"
        )


def _require_key(key: Any) -> None:
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()
    raw = isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32 and key.ndim == 1
    if not typed and not raw:
        raise ConfigurationError(f"fit: the key must be one random key like jax.random.key(0), found {_described(key)}")


def _kinds(trainable: Any) -> str:
    return ", ".join(sorted({_described(leaf) for leaf in jax.tree.leaves(trainable)})) or "no leaf at all"


def _described(value: Any) -> str:
    return f"{value.dtype} of shape {value.shape}" if hasattr(value, "dtype") else repr(value)
