"""A model whose state lies in parts on several devices: what they send each other in a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from diffassim.core.checks import real_state
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.fourier import Split
from diffassim.core.pytree import static
from diffassim.core.sharding import mapped_over, one_split_axis
from diffassim.models.base import Model, SpectralModel

__all__ = ["InParts", "in_parts", "reach_of_step"]

SEEDS, CLOSE = 3, 1e-4  # states that are tried, and how far two steps may differ relative to the largest entry


class InParts(Model):
    """A model with a step that looks at neighbours only, each device stepping its own part of a field.

    Before a step every device is sent the edges of its two neighbours, as wide as the step reaches, and steps its part
    with them; one message to each side, whatever the scheme does within a step. Values and derivatives are those of
    the model. `in_parts` builds it and measures the reach.

    Args:
        model: forward model, the same at every place of a periodic axis.
        mesh: the devices (static).
        name: of the mesh's axis over which the field is split (static).
        axis: of the state's arrays that is split, counted from the end (static).
        reach: points to the left and to the right that a step looks at (static).
        size: of the whole axis (static).
    """

    model: Any
    mesh: Mesh = static()
    name: str = static()
    axis: int = static()
    reach: tuple[int, int] = static()
    size: int = static()

    def __post_init__(self) -> None:
        devices = self.mesh.shape[self.name]
        if self.size // devices < max(self.reach):
            raise ConfigurationError(
                f"InParts: a step of {type(self.model).__name__} reaches {max(self.reach)} points, but each of the "
                f"{devices} devices along {self.name!r} has only {self.size // devices} of {self.size}; use fewer"
            )

    def step(self, x: Any, t: Any) -> Any:
        """Return the state one step later."""
        for leaf in jax.tree.leaves(x):
            if leaf.ndim < -self.axis or leaf.shape[self.axis] != self.size:
                raise ShapeError(
                    f"InParts: axis {self.axis} of the state has {jnp.shape(leaf)}, but the model was split for "
                    f"{self.size} points along it; call in_parts with this state"
                )
        leaves, structure = jax.tree.flatten((self.model, x))
        split = [self._is_field(leaf) for leaf in leaves]
        known = [isinstance(leaf, int | float) for leaf in leaves]  # numbers of Python stay what they are
        specs = [self._spec(leaf) if field else PartitionSpec() for leaf, field in zip(leaves, split, strict=True)]
        left, right = self.reach

        def step_part(parts: list[Any], t: Any) -> Any:
            sent = iter(parts)
            wide = [leaf if k else next(sent) for leaf, k in zip(leaves, known, strict=True)]
            wide = [self._widened(leaf) if field else leaf for leaf, field in zip(wide, split, strict=True)]
            model, x = structure.unflatten(wide)
            return jax.tree.map(
                lambda leaf: lax.slice_in_dim(leaf, left, leaf.shape[self.axis] - right, axis=leaf.ndim + self.axis),
                model.step(x, t),
            )

        run = mapped_over(
            step_part, self.mesh, {self.name},
            ([spec for spec, k in zip(specs, known, strict=True) if not k], PartitionSpec()),
            jax.tree.map(self._spec, x),
        )  # fmt: skip
        return run([leaf for leaf, k in zip(leaves, known, strict=True) if not k], jnp.asarray(t))

    def _widened(self, leaf: Any) -> Any:
        """Return a part with the edges of its neighbours."""
        left, right = self.reach
        devices, axis = self.mesh.shape[self.name], leaf.ndim + self.axis
        size = leaf.shape[axis]
        forth = [(i, (i + 1) % devices) for i in range(devices)]
        back = [(b, a) for a, b in forth]
        parts = [leaf]
        if left:
            edge = lax.slice_in_dim(leaf, size - left, size, axis=axis)
            parts.insert(0, lax.ppermute(edge, self.name, forth))
        if right:
            parts.append(lax.ppermute(lax.slice_in_dim(leaf, 0, right, axis=axis), self.name, back))
        return jnp.concatenate(parts, axis=axis)

    def _is_field(self, leaf: Any) -> bool:
        return jnp.ndim(leaf) >= -self.axis and jnp.shape(leaf)[self.axis] == self.size

    def _spec(self, leaf: Any) -> PartitionSpec:
        return PartitionSpec(*(None,) * (jnp.ndim(leaf) + self.axis), self.name)


def in_parts(
    model: Any, x0: Any, mesh: Mesh, axes: int | Mapping[str, int] = -1, *, reach: tuple[int, int] | None = None
) -> Any:
    """Return a model that steps a state in parts, for `rollout`, costs and `cycle`.

    A spectral model (`SpectralModel`, also inside of another model) is given transforms of fields in parts, and stays
    what it is: devices turn what they have in an all-to-all between the transforms along one axis and another
    (`core.fourier.Split`). Fields of several axes are best split along another than the last.

    Of any other model every device steps its own part with the edges of its neighbours (`InParts`). How far a step
    reaches is measured: a few states are disturbed at one place, and what changes is looked for; a step that is not the
    same at every place, or wraps around no end, is refused.

    Args:
        model: forward model, `step(x, t) -> x`; known outside of traced code.
        x0: a state of it; all arrays have the split axis.
        mesh: the devices.
        axes: axis of the state's arrays that is split; or by the name of the mesh's axis, {"space": -1}.
        reach: points to the left and to the right that a step looks at, where they are known (conditions on the state
            may hide some); default: measured. A spectral model has none.

    Returns:
        `InParts`; of a spectral model, one of the same class.

    Raises:
        ShapeError: if the devices do not divide the axis (on a line, as often as they have to), or the arrays differ
            along it.
        ConfigurationError: if the step reaches too far (a spectral model of another library does), or differs from
            place to place, or the split axis of a spectral model is none that it transforms.

    Example:
        >>> import diffassim as da
        >>> model = in_parts(da.models.Lorenz96(), jnp.ones(64), da.device_mesh(1))
        >>> model.reach, da.rollout(model, jnp.ones(64), 2).shape
        ((8, 4), (3, 64))
        >>> in_parts(da.models.NavierStokes(), jnp.ones((16, 16)), da.device_mesh(1), -2)
        NavierStokes(viscosity=0.01, drag=0.0, force=0.0, wavenumber=4, length=6.283185307179586, dt=0.02)
    """
    x0 = real_state("in_parts: x0", x0)
    name, axis = one_split_axis("in_parts", x0, mesh, axes)
    sizes = {leaf.shape[axis] if -leaf.ndim <= axis < 0 else None for leaf in jax.tree.leaves(x0)}
    if len(sizes) != 1 or None in sizes:
        raise ShapeError(f"in_parts: all arrays of the state need the same axis {axis}, found sizes {sizes}")
    size = int(sizes.pop())  # type: ignore[arg-type]
    nodes = jax.tree.leaves(model, is_leaf=_is_spectral)
    if any(map(_is_spectral, nodes)):
        return _spectral_in_parts(model, x0, Split(mesh, name, axis))
    found = reach_of_step(model, x0, axis) if reach is None else reach
    return InParts(model, mesh, name, axis, (int(found[0]), int(found[1])), size)


def _is_spectral(node: Any) -> bool:
    return isinstance(node, SpectralModel)


def _spectral_in_parts(model: Any, x0: Any, split: Split) -> Any:
    """Return a model whose spectral parts have transforms of fields in parts."""

    def given(node: Any) -> Any:
        if not _is_spectral(node):
            return node
        for leaf in jax.tree.leaves(x0):
            split.check(f"in_parts: {type(node).__name__}", leaf.shape[-node.space_axes :])
        return node.replace(split=split)

    return jax.tree.map(given, model, is_leaf=_is_spectral)


def reach_of_step(model: Any, x: Any, axis: int) -> tuple[int, int]:
    """Return how many points to the left and to the right a step looks at; see `in_parts`.

    Example:
        >>> import diffassim as da
        >>> reach_of_step(da.models.FunctionModel(lambda x, t: x + jnp.roll(x, 2)), jnp.arange(9.0), -1)
        (2, 0)
    """
    size = jax.tree.leaves(x)[0].shape[axis]
    middle = size // 2
    rng = np.random.default_rng(0)
    step = jax.jit(lambda model, x: model.step(x, jnp.zeros((), jnp.int32)))

    def turned(leaf: Any) -> Any:
        is_field = jnp.ndim(leaf) >= -axis and jnp.shape(leaf)[axis] == size
        return jnp.roll(leaf, middle // 2, axis) if is_field else leaf

    def disturbed(leaf: Any) -> Any:
        drawn = jnp.asarray(leaf * (1 + 0.01 * rng.normal(size=leaf.shape)) + 0.01 * rng.normal(size=leaf.shape))
        return drawn.astype(leaf.dtype)

    changed = np.zeros(size, bool)
    for _ in range(SEEDS):
        state = jax.tree.map(disturbed, x)
        found = step(model, state)
        elsewhere = step(jax.tree.map(turned, model), jax.tree.map(turned, state))
        for a, other in zip(jax.tree.leaves(found), jax.tree.leaves(elsewhere), strict=True):
            if not np.allclose(turned(a), other, rtol=0, atol=CLOSE * float(jnp.max(jnp.abs(a)))):
                raise ConfigurationError(
                    f"in_parts: a step of {type(model).__name__} is not the same at every place of axis {axis} (walls, "
                    "coordinates or parameters that do not turn with the state); split its ensemble over members"
                )
        spoiled = step(model, jax.tree.map(lambda leaf: _spoiled(leaf, middle, axis), state))
        for leaf in jax.tree.leaves(spoiled):
            bad = ~np.isfinite(np.moveaxis(np.asarray(leaf), axis, 0).reshape(size, -1))
            changed |= bad.any(axis=1)
    places = np.flatnonzero(changed) - middle
    if not len(places) or len(places) > size // 2:
        raise ConfigurationError(
            f"in_parts: a step of {type(model).__name__} looks at {len(places)} of {size} points of axis {axis}, more "
            "than half (Fourier transforms look at all; a SpectralModel has some for parts); split its ensemble over "
            "members instead"
        )
    return max(0, int(places.max())), max(0, -int(places.min()))


def _spoiled(leaf: Any, place: int, axis: int) -> Any:
    index = (slice(None),) * (leaf.ndim + axis) + (place,)
    return leaf.at[index].set(jnp.nan)
