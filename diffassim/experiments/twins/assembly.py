"""A run of a twin experiment put together: models, climatology, start, observations and method, from its settings."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree, static
from diffassim.covariances import Dense, Diagonal, Ensemble
from diffassim.experiments.framework.parts import built, find_part
from diffassim.experiments.framework.twin import Draw, Perturbed, random_stream
from diffassim.experiments.twins.named_models import build_model, find_model
from diffassim.experiments.twins.observing import Instrument, instruments
from diffassim.experiments.twins.plan import ToldBy
from diffassim.gaussian import Gaussian, GaussianMethod
from diffassim.methods import EnsembleWindowMethod, SequentialMethod, WindowMethod
from diffassim.models import rollout
from diffassim.observations import Observations

__all__ = ["Assembled", "assembled", "climatology", "first_states"]

DENSE = 600  # components of a state up to which its climatological covariance is kept as a matrix
START_SHARE = 0.3  # of the climatological standard deviation, where nothing else is said


class Assembled(Pytree):
    """What a run consists of.

    Args:
        model: that assimilates.
        truth_model: that makes the truth, without its random errors.
        samples: states of the climatology, a pytree with a leading axis.
        start: covariance of the start.
        Q: covariance of the truth's error in every step, or None.
        instruments: what is observed.
        method: the method.
        lag: observation times of a window, 0 for a filter (static).
    """

    model: Any
    truth_model: Any
    samples: Any
    start: Any
    Q: Any
    instruments: tuple[Instrument, ...]
    method: Any
    lag: int = static()

    def truth_with(self, key: Any) -> Any:
        """Return the model that makes the truth of one repeat."""
        return self.truth_model if self.Q is None else Perturbed(self.truth_model, self.Q, key)


def assembled(settings: Any, samples: Any) -> Assembled:
    """Return a run put together.

    Args:
        settings: `TwinConfiguration` with one method.
        samples: states of the climatology (`climatology`), or for a trial others of their shape (`first_states`).

    Raises:
        ConfigurationError: if something does not fit.
    """
    model, truth_model, size = _models(settings)
    grid = find_model(settings.model.name).grid(size)
    names = f"methods: {settings.methods[0].name}"
    spread = jax.tree.map(lambda leaf: float(np.mean(np.var(np.asarray(leaf), axis=0, ddof=1)) ** 0.5), samples)
    truth = settings.truth
    if truth.model_error and truth.model_error_share:
        raise ConfigurationError("truth: give model_error or model_error_share, not both")
    share = truth.model_error_share
    Q = (
        Diagonal(std=truth.model_error)
        if truth.model_error
        else Diagonal(
            std=jax.tree.map(lambda std, leaf: np.full(leaf.shape[1:], share * std, leaf.dtype), spread, samples)
        )
        if share
        else None
    )
    start = settings.start
    drawn = Ensemble(samples)
    covariance = Diagonal(std=start.std) if start.std is not None else (start.share or START_SHARE) ** 2 * drawn
    seen = instruments(settings.observe, model, grid, samples, settings.cycles, settings.seed)
    method = _method(names, settings.methods[0], samples, grid)
    lag = settings.methods[0].window
    if isinstance(method, SequentialMethod) and not settings.observe.anew:
        method = _searched(method, samples, seen)
    return Assembled(model, truth_model, samples, covariance, Q, tuple(seen), method, lag)


def _searched(method: Any, samples: Any, seen: list[Instrument]) -> Any:
    """Return a local method that knows what lies near what, which is the same at all times."""
    state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), samples)
    streams = tuple(
        Observations(np.zeros((1, *jax.eval_shape(i.operator, state).shape)), [0], i.operator, Diagonal(std=1.0))
        for i in seen
    )
    if not any(stream.values.size for stream in streams) or isinstance(method, GaussianMethod):
        return method
    members = jax.tree.map(lambda leaf: np.zeros((2, *leaf.shape), leaf.dtype), state)
    return method.prepared(method.init(members), streams)[0]


def climatology(settings: Any) -> Any:
    """Return states of a long run of the truth's model (or several), after the spin-up.

    Args:
        settings: `TwinConfiguration`.

    Returns:
        States, a pytree with a leading axis of `settings.truth.samples`. They may be not finite.
    """
    about = settings.model_dump_json(include={"model", "truth", "seed", "dtype"})
    return _climatology(ToldBy(settings, about))


@functools.lru_cache(maxsize=2)
def _climatology(told: ToldBy) -> Any:
    settings = told.settings
    known = find_model(settings.model.name)
    _, model, _ = _models(settings)
    truth = settings.truth
    spin_up = known.spin_up if truth.spin_up is None else truth.spin_up
    apart = truth.apart or known.apart
    runs = min(known.runs, truth.samples)
    each = -(-truth.samples // runs)
    steps = spin_up + apart * np.arange(each)
    states = _long_runs(model, first_states(settings, runs), steps, int(steps[-1]))
    return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:])[: truth.samples], states)


@functools.partial(jax.jit, static_argnums=3)
def _long_runs(model: Any, starts: Any, steps: Any, last: int) -> Any:
    return jax.vmap(lambda x: rollout(model, x, last, at=steps))(starts)


def first_states(settings: Any, count: int) -> Any:
    """Return states from which runs are spun up, leading axis of `count`."""
    known = find_model(settings.model.name)
    _, model, size = _models(settings)
    keys = jax.random.split(random_stream(settings.seed, Draw.TRUTH), count)
    return _starts(keys, model, known.start, size, str(settings.dtype))


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _starts(keys: Any, model: Any, start: Any, size: tuple[int, ...], dtype: str) -> Any:
    return jax.vmap(lambda key: start(key, model, size, jnp.dtype(dtype)))(keys)


def _models(settings: Any) -> tuple[Any, Any, tuple[int, ...]]:
    """Return the model, that of the truth, and the size of a state."""
    name, size, numbers = settings.model.name, settings.model.size, settings.model.numbers
    model, found = build_model(name, size, numbers)
    truth, _ = build_model(name, size, numbers | settings.truth.numbers)
    if truth.dt != model.dt:
        raise ConfigurationError("truth: dt is that of the model: observations are at its steps")
    return model, truth, found


def _method(name: str, settings: Any, samples: Any, grid: Any) -> Any:
    kind = find_part(name, settings.kind)
    if not issubclass(kind, SequentialMethod | EnsembleWindowMethod | WindowMethod):
        raise ConfigurationError(f"{name}: {settings.kind} is a part of methods, and no method")
    given: dict[str, Any] = {"grid": grid}
    if issubclass(kind, GaussianMethod):
        given["climatology"] = Gaussian.from_samples(samples)
    words = {"climatology": lambda scale=1.0: scale * _covariance(samples)}
    return built(name, settings.method, given, words)


def _covariance(samples: Any) -> Any:
    """Return the climatological covariance: a matrix where that is small and has full rank, else of the samples."""
    leaves = jax.tree.leaves(samples)
    rows = np.asarray(tree.flat_rows(samples))
    if len(leaves) == 1 and leaves[0].ndim == 2 and rows.shape[1] < min(DENSE, rows.shape[0]):
        matrix = np.cov(rows.T).reshape(rows.shape[1], rows.shape[1])
        values = np.linalg.eigvalsh(matrix) if np.isfinite(matrix).all() else np.zeros(1)
        if values[0] > 1e-8 * values[-1]:
            return Dense.from_matrix(jnp.asarray(matrix, leaves[0].dtype))
    return Ensemble(samples)
