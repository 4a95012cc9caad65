"""What a twin experiment observes: points of the fields, through a function, with errors of a size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree, static
from diffassim.experiments.framework.twin import observe
from diffassim.io.messages import shortened, suggested
from diffassim.observations import Compose, Field, Identity, Interpolate, Subset

__all__ = ["Instrument", "field_names", "instruments", "observed_by"]


class Instrument(Pytree):
    """What is observed of one field.

    Args:
        field: its name (static).
        operator: takes a state, and places where there are some.
        where: places of each observation time; None where they are always the same.
        std: standard deviation of the errors.
    """

    field: str = static()
    operator: Any = Identity()
    where: Any = None
    std: Any = 1.0


def field_names(model: Any, state: Any) -> list[str]:
    """Return the names of a state's fields: of its components, or of the one array that it is."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    return [str(getattr(path[-1], "name", path[-1])) if path else model.variables().name for path in paths]


def instruments(settings: Any, model: Any, grid: Any, samples: Any, cycles: int, seed: int) -> list[Instrument]:
    """Return what is observed.

    Args:
        settings: `ObserveSettings`.
        model: names the fields.
        grid: of the fields, on their trailing axes.
        samples: states, a pytree with a leading axis, of which shares are taken.
        cycles: observation times.
        seed: draws the places, the same ones for all repeats: they are part of the design.

    Raises:
        ConfigurationError: if there is no such field, point or function.

    Example:
        >>> import diffassim as da
        >>> from diffassim.experiments.twins.twin_settings import ObserveSettings
        >>> settings = ObserveSettings(every=2, share=0.1, function="square")
        >>> samples = jnp.asarray([[1.0, 0.0, 3.0], [2.0, 1.0, 1.0]])
        >>> (found,) = instruments(settings, da.models.Lorenz96(), da.grids.Grid(), samples, 10, 0)
        >>> found.operator(samples[0]).tolist(), round(float(found.std), 4)
        ([1.0, 9.0], 0.4272)
    """
    state = jax.tree.map(lambda leaf: leaf[0], samples)
    names, leaves = field_names(model, state), jax.tree.leaves(state)
    for field in settings.fields:
        if field not in names:
            raise ConfigurationError(
                f"observe: there is no field {shortened(repr(field))}{suggested(field, names)}; the state has: "
                f"{', '.join(names)}"
            )
    function = _function(settings.function)
    found = []
    for number, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
        if settings.fields and name not in settings.fields:
            continue
        chosen, where = _places(settings, grid, leaf.shape[leaf.ndim - grid.ndim :], cycles, seed + number, leaf.dtype)
        parts = [*([Field(name)] if len(leaves) > 1 else []), chosen, *([] if function is None else [function])]
        if len(parts) > 1 and isinstance(chosen, Identity):
            parts.remove(chosen)
        operator = parts[0] if len(parts) == 1 else Compose(*parts)
        if where is not None and len(leaves) > 1:  # places go to the first operator, which here only picks a field
            operator = AtPlaces(name, operator=Compose(*parts[1:]))
        found.append(Instrument(name, operator, where, _std(settings, name, operator, where, samples, leaf.dtype)))
    return found


class AtPlaces(Field):
    """A field of a state, seen through an operator that takes places.

    Args:
        name: of the field.
        operator: applied to it.
    """

    operator: Any = Identity()

    def __call__(self, x: Any, where: Any = None) -> Any:
        """Return operator(x.name, where)."""
        return self.operator(super().__call__(x), where)

    def value_places(self, points: Any, where: Any = None) -> Any:
        """Return the operator's places."""
        return self.operator.value_places(points, where)


def observed_by(instrument: Instrument, key: Any, truth: Any, law: str) -> Any:
    """Return the values that an instrument reads, errors included.

    Args:
        instrument: see `instruments`.
        key: random key of the errors.
        truth: states at the observation times.
        law: of the errors, one of `LAWS`.
    """
    times = np.arange(jax.tree.leaves(truth)[0].shape[0])
    return observe(
        key, truth, times, instrument.std, operator=instrument.operator, law=law, where=instrument.where
    ).values


def _function(name: str) -> Callable[..., Any] | None:
    if name == "identity":
        return None
    ufunc = getattr(np, name, None) if name.isidentifier() else None
    if not isinstance(ufunc, np.ufunc) or ufunc.nin != 1 or ufunc.nout != 1 or "d->d" not in ufunc.types:
        known = [word for word in dir(np) if isinstance(u := getattr(np, word), np.ufunc) and u.nin == 1 == u.nout]
        raise ConfigurationError(
            f"observe: function {shortened(repr(name))} is no function of one number in NumPy, such as square, abs, "
            f"exp, log, sqrt, tanh or arctan{suggested(name, known)}"
        )
    return getattr(jnp, name)  # type: ignore[no-any-return]


def _places(
    settings: Any, grid: Any, shape: tuple[int, ...], cycles: int, seed: int, dtype: Any
) -> tuple[Any, Any]:  # fmt: skip
    """Return the operator that picks points of a field with these grid axes, and the points of each time or None."""
    total = int(np.prod(shape))
    if settings.indices:
        points = _indices(settings.indices, shape)
    elif settings.random:
        if settings.random > total:
            raise ConfigurationError(f"observe: random = {settings.random}, but the field has {total} points")
        draw = np.random.default_rng(seed)
        times = cycles if settings.anew else 1
        drawn = np.stack([np.sort(draw.permutation(total)[: settings.random]) for _ in range(times)])
        points = np.stack(np.unravel_index(drawn, shape), axis=-1)
        if settings.anew:
            if len(shape) == 1:
                return Subset(), jnp.asarray(points[..., 0])
            return _interpolate(None, grid, len(shape)), jnp.asarray(points, dtype)
        points = points[0]
    elif settings.every == 1 and settings.offset == 0:
        return Identity(), None
    else:
        axes = [np.arange(settings.offset, n, settings.every) for n in shape]
        if not all(axis.size for axis in axes):
            raise ConfigurationError(f"observe: offset = {settings.offset} lies outside of the field of {shape} points")
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(shape))
    if len(shape) == 1:
        return Subset(jnp.asarray(points[:, 0])), None
    return _interpolate(jnp.asarray(points, dtype), grid, len(shape)), None


def _indices(given: Any, shape: tuple[int, ...]) -> np.ndarray:
    points = [point if isinstance(point, list | tuple) else (point,) for point in given]
    for point in points:
        whole = all(isinstance(i, int) and not isinstance(i, bool) for i in point)
        inside = whole and len(point) == len(shape) and all(0 <= i < n for i, n in zip(point, shape, strict=True))
        if not inside:
            shown = point[0] if len(point) == 1 else list(point)
            raise ConfigurationError(
                f"observe: indices holds {shortened(repr(shown))}, which is no point of the field of {shape} points "
                "(numbers from 0 on; on a plane pairs [y, x])"
            )
    return np.asarray(points)


def _interpolate(places: Any, grid: Any, axes: int) -> Interpolate:
    """Return the operator that reads values at points of a grid: places are their numbers."""
    return Interpolate(places, spacing=(1.0,) * axes, periodic=getattr(grid, "periodic", (False, True)))


def _std(settings: Any, name: str, operator: Any, where: Any, samples: Any, dtype: Any) -> Any:
    if isinstance(settings.std, dict):
        if name not in settings.std:
            raise ConfigurationError(f"observe: std says nothing of the field {name!r}; it has {list(settings.std)}")
        return jnp.asarray(settings.std[name], dtype)
    if settings.share is None:
        return jnp.asarray(1.0 if settings.std is None else settings.std, dtype)
    first = None if where is None else where[0]
    return (settings.share * jnp.sqrt(_variance(operator, first, samples))).astype(dtype)


@jax.jit
def _variance(operator: Any, where: Any, samples: Any) -> Any:
    """Return the variance of what is observed, averaged over its components."""
    seen = jax.vmap(lambda x: operator(x, where))(samples)
    return jnp.mean(jnp.var(seen, axis=0, ddof=1))
