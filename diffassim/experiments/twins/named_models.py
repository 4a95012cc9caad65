"""The package's models by their names: how large a state is, how a truth begins, and what a distance is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffassim import models
from diffassim.core.errors import AssimilationError, ConfigurationError
from diffassim.grids import Grid
from diffassim.io.messages import shortened, single_line, suggested
from diffassim.models.spherical_shallow_water import gaussian_grid, perturbed_jet, spherical_shallow_water

__all__ = ["LEFT_OUT", "MODELS", "NamedModel", "build_model", "find_model"]

WAVES = 3  # of a smooth random field, the largest wavenumber


class NamedModel(NamedTuple):
    """A model that can be made from numbers.

    Args:
        build: class or function; its arguments are those of the settings.
        size: of a state, where the settings do not say another; empty: always the same.
        start: state from which a truth is spun up, start(key, model, size, dtype).
        spin_up: model steps onto the attractor.
        apart: model steps between states of the climatology.
        grid: of a state of that size, in units of grid points (on a sphere km).
        runs: independent runs the climatology is taken from; more than a few where a run does not forget its start.
        sized_by: argument of `build` that is the size, where one is.
    """

    build: Callable[..., Any]
    size: tuple[int, ...]
    start: Callable[..., Any]
    spin_up: int
    apart: int
    grid: Callable[[tuple[int, ...]], Any]
    runs: int = 8
    sized_by: str = ""


def smooth_field(key: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Return a periodic random field of the longest waves, with mean zero and a variance of about one.

    Args:
        key: random key.
        shape: one or two axes.
        dtype: of the field.

    Example:
        >>> field = smooth_field(jax.random.key(0), (64,), jnp.float32)
        >>> field.shape, bool(abs(field.mean()) < 1e-5)
        ((64,), True)
    """
    waves = np.stack(np.meshgrid(*[np.arange(-WAVES, WAVES + 1)] * len(shape), indexing="ij"), -1)
    waves = waves.reshape(-1, len(shape))
    waves = waves[np.any(waves != 0, axis=1)]
    places = np.stack(np.meshgrid(*[np.arange(n) / n for n in shape], indexing="ij"))
    angles = jnp.asarray(2 * np.pi * np.tensordot(waves, places, 1), dtype)
    a, b = jax.random.normal(key, (2, len(waves)), dtype) / len(waves) ** 0.5
    return jnp.tensordot(a, jnp.cos(angles), 1) + jnp.tensordot(b, jnp.sin(angles), 1)


def _noisy(center: Any) -> Callable[..., Any]:
    """Return starts that differ from some number(s) by a normal error of variance one."""

    def start(key: Any, model: Any, size: tuple[int, ...], dtype: Any) -> Any:
        rest = jnp.broadcast_to(jnp.asarray(center(model) if callable(center) else center, dtype), size)
        return rest + jax.random.normal(key, size, dtype)

    return start


def _smooth(amplitude: float, channels: int = 0, mean: float = 0.0) -> Callable[..., Any]:
    def start(key: Any, model: Any, size: tuple[int, ...], dtype: Any) -> Any:
        if not channels:
            return mean + amplitude * smooth_field(key, size, dtype)
        keys = jax.random.split(key, channels)
        return mean + amplitude * jnp.stack([smooth_field(k, size, dtype) for k in keys])

    return start


def _two_scales(key: Any, model: Any, size: tuple[int, ...], dtype: Any) -> Any:
    slow, fast = jax.random.split(key)
    n, m = size
    return models.TwoScaleState(
        1 + jax.random.normal(slow, (n,), dtype), 0.1 * jax.random.normal(fast, (n, m), dtype)
    )  # fmt: skip


def _at_rest(key: Any, model: Any, size: tuple[int, ...], dtype: Any) -> Any:
    return jnp.zeros(size, dtype)


def _jet(key: Any, model: Any, size: tuple[int, ...], dtype: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), perturbed_jet(key, size[0]))


def _line(size: tuple[int, ...]) -> Grid:
    return Grid()


def _square(size: tuple[int, ...]) -> Grid:
    return Grid(periodic=(True, True))


def _basin(size: tuple[int, ...]) -> Grid:
    return Grid(periodic=(False, False))


def _sphere(size: tuple[int, ...]) -> Any:
    return gaussian_grid(size[0])


# Square fields are given one number, the points of a side.
MODELS = {
    "Lorenz63": NamedModel(models.Lorenz63, (), _noisy([1.5, -1.5, 25.0]), 2000, 50, _line),
    "Lorenz96": NamedModel(models.Lorenz96, (40,), _noisy(lambda model: model.forcing), 1000, 10, _line),
    "TwoScaleLorenz96": NamedModel(models.TwoScaleLorenz96, (8, 32), _two_scales, 4000, 100, _line),
    "KuramotoSivashinsky": NamedModel(models.KuramotoSivashinsky, (128,), _smooth(1.0), 600, 40, _line),
    "LinearAdvection": NamedModel(models.LinearAdvection, (100,), _smooth(1.0), 0, 1, _line, runs=10**6),
    "AdvectionDiffusion": NamedModel(
        models.AdvectionDiffusion, (20, 20), _smooth(1.0, mean=5.0), 0, 1, _square, runs=10**6
    ),
    "NavierStokes": NamedModel(models.NavierStokes, (32, 32), _smooth(3.0), 500, 25, _square),
    "TwoLayerQG": NamedModel(models.TwoLayerQG, (32, 32), _smooth(1e-5, channels=2), 6000, 60, _square),
    "ReducedGravityQG": NamedModel(models.ReducedGravityQG, (65, 65), _at_rest, 2800, 40, _basin, runs=1),
    "spherical_shallow_water": NamedModel(
        spherical_shallow_water, (21,), _jet, 360, 6, _sphere, sized_by="truncation"
    ),
}  # fmt: skip

# Models of the package that numbers alone do not make.
LEFT_OUT = {
    "AcousticWaves": "its waves leave the domain: a run needs sources at given times (diffassim run seismic)",
    "AdamsBashforth3": "a scheme for a model of two layers in spectral space, whose state holds tendencies as well",
    "ExternalModel": "needs a function",
    "FunctionModel": "needs a function",
    "GR4J": "needs a record of precipitation and evaporation (diffassim run catchment)",
    "InParts": "needs a mesh of devices (docs/many_devices.md)",
    "LibraryModel": "needs a function",
    "WithParameters": "needs a model and the names of its parameters",
}


def find_model(name: str) -> NamedModel:
    """Return the model of that name.

    Raises:
        ConfigurationError: if there is none, or numbers alone do not make it.

    Example:
        >>> find_model("Lorenz96").size
        (40,)
    """
    if name in MODELS:
        return MODELS[name]
    if name in LEFT_OUT:
        raise ConfigurationError(f"model: {name} cannot be made from settings: {LEFT_OUT[name]}")
    raise ConfigurationError(
        f"model: there is no model {shortened(repr(name))}{suggested(name, MODELS)}; there are: {', '.join(MODELS)}"
    )


def build_model(name: str, size: tuple[int, ...], arguments: dict[str, Any]) -> tuple[Any, tuple[int, ...]]:
    """Return a model and the size of its state.

    Args:
        name: of the model.
        size: one number for each axis; one alone is the side of a square; empty: the usual one.
        arguments: of the model; numbers, or lists of numbers.

    Raises:
        ConfigurationError: if the model takes no such argument, or not this value, or has no such size.

    Example:
        >>> build_model("NavierStokes", (16,), {"force": 1})
        (NavierStokes(viscosity=0.01, drag=0.0, force=1.0, wavenumber=4, length=6.283185307179586, dt=0.02), (16, 16))
    """
    found = find_model(name)
    size = _checked_size(name, found, size)
    known = inspect.signature(found.build).parameters  # what is no number can be given by its name only
    defaults = {k: one.default for k, one in known.items() if k != found.sized_by and one.kind != one.KEYWORD_ONLY}
    made = {}
    for key, value in arguments.items():
        if key not in defaults:
            raise ConfigurationError(
                f"model: {name} has no number {shortened(repr(key))}{suggested(key, defaults)}; it has: "
                f"{', '.join(['size', *defaults])}"
            )
        made[key] = _number(f"model: {name}.{key}", value, defaults[key])
    if found.sized_by:
        made[found.sized_by] = size[0]
    try:
        model = found.build(**made)
    except (AssimilationError, TypeError, ValueError) as error:
        raise ConfigurationError(f"model: {name}: {single_line(error, 300)}") from None
    bounds = getattr(type(model), "parameters", {})
    for key, value in made.items():
        low, high = bounds[key].bounds if key in bounds else (-np.inf, np.inf)
        if np.any(np.asarray(value, float) < low) or np.any(np.asarray(value, float) > high):
            raise ConfigurationError(f"model: {name}.{key} = {value} must lie between {low:g} and {high:g}")
    return model, size


def _checked_size(name: str, found: NamedModel, size: tuple[int, ...]) -> tuple[int, ...]:
    if not size:
        return found.size or (3,)
    if not found.size:
        raise ConfigurationError(f"model: {name} has a state of one size, (3); leave `size` out")
    axes = len(found.size)
    size = size * axes if len(size) == 1 and len(set(found.size)) == 1 else size
    if len(size) != axes:
        raise ConfigurationError(f"model: {name} has states of {axes} axes, such as {found.size}; found size {size}")
    return size


def _number(name: str, value: Any, default: Any) -> Any:
    """Return a number, or several as a tuple, of the kind that the model has by default."""
    if isinstance(value, list | tuple):
        return tuple(_number(name, one, 0.0) for one in value)
    wrong = isinstance(value, str | bool | dict) or (isinstance(default, int) and not isinstance(value, int))
    if wrong and not (isinstance(value, bool) and isinstance(default, bool)):
        what = "a whole number" if isinstance(default, int) else "a number"
        raise ConfigurationError(f"{name} must be {what}, found {shortened(repr(value))}")
    return value if isinstance(default, int) else float(value)
