"""Arrays in parts on many devices: where each part lies, and the refusal of what does not fit.

JAX computes with such arrays as if they were whole: programs stay as they are, and the compiler adds the messages.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from diffassim.core.errors import AssimilationWarning, ConfigurationError, ShapeError
from diffassim.core.pytree import Pytree, static

__all__ = [
    "FullySharded",
    "assemble_parts",
    "device_mesh",
    "distribute",
    "distributed_map",
    "gathered",
    "leading_mesh",
    "mapped_over",
    "mesh_of",
    "one_split_axis",
    "placed",
    "sharding_for",
]


class FullySharded(Pytree):
    """Layout of a network's parameters: every large array in parts along its longest axis that the devices divide.

    Args:
        axis: name of the mesh's axis; None: all devices, whatever axes the mesh has (static).
        least: entries below which an array is copied to all devices (static).

    Example:
        >>> FullySharded(least=4).spec((3, 8), device_mesh(1))
        P(None, 'device')
    """

    axis: str | None = static(default=None)
    least: int = static(default=1 << 12)

    def spec(self, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
        """Return the layout of an array of this shape; without an axis that the devices divide it is copied."""
        names = tuple(mesh.axis_names) if self.axis is None else (self.axis,)
        count = math.prod(_size(mesh, name) for name in names)
        longest = max((n for n in shape if n % count == 0), default=0)
        if math.prod(shape) < self.least or not longest:
            return PartitionSpec()
        return PartitionSpec(*(None,) * shape.index(longest), names[0] if len(names) == 1 else names)


Axes = int | Mapping[str, int] | FullySharded | None


def device_mesh(sizes: int | Mapping[str, int] | None = None) -> Mesh:
    """Return a mesh of devices, of all processes together.

    Args:
        sizes: devices along each axis by its name, for example {"member": 2, "space": 4}; a number of devices, along
            an axis called "device"; default: all devices along that axis.

    Raises:
        ConfigurationError: if a size is not positive, or there are not as many devices.

    Warns:
        AssimilationWarning: if devices that a CPU only pretends to have share too few threads.

    Example:
        >>> device_mesh(1).axis_names
        ('device',)
    """
    sizes = {"device": len(jax.devices()) if sizes is None else sizes} if not isinstance(sizes, Mapping) else sizes
    wrong = {name: n for name, n in sizes.items() if not isinstance(n, int | np.integer) or n < 1}
    needed, there = math.prod(sizes.values()) if not wrong else 0, len(jax.devices())
    if wrong or not sizes or needed > there:
        raise ConfigurationError(
            f"device_mesh: sizes {dict(sizes)} need {needed or 'a positive number of'} devices, and there are {there} "
            f"({jax.default_backend()}); on a CPU set XLA_FLAGS=--xla_force_host_platform_device_count=N before the "
            "first import"
        )
    _warn_of_few_threads()
    shape = tuple(int(n) for n in sizes.values())
    return jax.make_mesh(shape, tuple(sizes), (AxisType.Auto,) * len(sizes), devices=jax.devices()[:needed])


def distribute(x: Any, mesh: Mesh | None = None, axes: Axes = 0, *, name: str = "x") -> Any:
    """Return a pytree whose arrays lie in parts on the devices of a mesh.

    Costs, filters, `cycle`, `rollout` and `fit` take what it returns as they take whole arrays, and give the same
    results up to the order of sums. What is best in parts depends on the work: an ensemble over its members, fields
    over space (`{"space": -1}`), states of a weak-constraint window over time, batches of experiments over the batch
    (`distributed_map`), networks by `FullySharded()`.

    Args:
        x: pytree; numbers of Python and what is no array stay as they are.
        mesh: from `device_mesh` or `jax.make_mesh`; default: all devices.
        axes: axis of every array that is split over the devices (0: the leading one); or by the name of the mesh's
            axis, {"member": 0, "space": -1}; or `FullySharded()`; or None: a copy on every device. Arrays without this
            axis, or with one entry along it, are copied.
        name: of the argument, for messages.

    Returns:
        Pytree of the same structure.

    Raises:
        ShapeError: if the devices do not divide an axis: it names array, axis, size and mesh.
        ConfigurationError: if the mesh has no axis of that name, or several and none is named.

    Example:
        >>> ensemble = distribute(jnp.ones((8, 40)), device_mesh(1))
        >>> ensemble.sharding.spec, float(ensemble.sum())
        (P('device',), 320.0)
    """
    mesh = _automatic(device_mesh() if mesh is None else mesh)

    def place(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
            return leaf
        return placed(leaf, sharding_for(np.shape(leaf), mesh, axes, name=name + jax.tree_util.keystr(path)))

    return jax.tree_util.tree_map_with_path(place, x)


def sharding_for(shape: tuple[int, ...], mesh: Mesh, axes: Axes = 0, *, name: str = "x") -> NamedSharding:
    """Return where the parts of an array of this shape lie; arguments and errors as for `distribute`.

    A reader that reads only its own part asks `sharding.addressable_devices_indices_map(shape)`.

    Example:
        >>> sharding_for((8, 40), device_mesh(1)).spec
        P('device',)
    """
    mesh = _automatic(mesh)
    if axes is None:
        return NamedSharding(mesh, PartitionSpec())
    if isinstance(axes, FullySharded):
        return NamedSharding(mesh, axes.spec(tuple(shape), mesh))
    parts: list[Any] = [None] * len(shape)
    for mesh_axis, axis in _named(axes, mesh).items():
        count = _size(mesh, mesh_axis)
        if not -len(shape) <= axis < len(shape) or shape[axis] == 1:
            continue
        if shape[axis] % count:
            raise ShapeError(
                f"distribute: {name} has {shape[axis]} entries along axis {axis}, which the {count} devices along "
                f"{mesh_axis!r} of the mesh {dict(mesh.shape)} do not divide; pad it to "
                f"{count * -(-shape[axis] // count)}, or use one of {_divisors(shape[axis])} devices"
            )
        if parts[axis] is not None:
            raise ConfigurationError(f"distribute: axis {axis} of {name} is split twice by axes={dict(axes)}")  # type: ignore[arg-type]
        parts[axis] = mesh_axis
    while parts and parts[-1] is None:
        parts.pop()
    return NamedSharding(mesh, PartitionSpec(*parts))


def assemble_parts(part: Any, mesh: Mesh, axes: Axes = 0, *, name: str = "x") -> Any:
    """Return whole arrays of which every process has read only its own part.

    Args:
        part: pytree of host arrays: along the split axis the rows of this process, in the order of the processes.
        mesh: of all processes' devices.
        axes: as for `distribute`, but not `FullySharded`.
        name: of the argument, for messages.

    Example:
        >>> assemble_parts(np.ones((8, 40)), device_mesh(1)).shape
        (8, 40)
    """
    mesh = _automatic(mesh)
    if isinstance(axes, FullySharded):
        raise ConfigurationError("assemble_parts: give the split axis; FullySharded has another for every array")

    def whole(path: Any, leaf: Any) -> Any:
        host = np.asarray(leaf)
        shape = list(host.shape)
        if axes is not None:
            for mesh_axis, axis in _named(axes, mesh).items():
                if -host.ndim <= axis < host.ndim:
                    shape[axis] *= _processes_along(mesh, mesh_axis)
        place = sharding_for(tuple(shape), mesh, axes, name=name + jax.tree_util.keystr(path))
        return jax.make_array_from_process_local_data(place, host, tuple(shape))

    return jax.tree_util.tree_map_with_path(whole, part)


def gathered(x: Any) -> Any:
    """Return a pytree of NumPy arrays, whole on every process; all processes have to call it.

    Example:
        >>> gathered(distribute(jnp.arange(4), device_mesh(1))).tolist()
        [0, 1, 2, 3]
    """

    def whole(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf
        if leaf.is_fully_replicated:
            return np.asarray(leaf.addressable_data(0))
        copies = NamedSharding(leaf.sharding.mesh, PartitionSpec())  # type: ignore[attr-defined]
        return np.asarray(jax.jit(_same, out_shardings=copies)(leaf).addressable_data(0))

    return jax.tree.map(whole, x)


def mesh_of(x: Any) -> Mesh | None:
    """Return the mesh on which arrays (or shapes) of a pytree lie in parts; None where all are whole, or traced.

    Example:
        >>> mesh_of(jnp.ones(3)) is None
        True
    """
    for leaf in jax.tree.leaves(x):
        if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) and not isinstance(leaf, jax.core.Tracer):
            place = leaf.sharding
            if isinstance(place, NamedSharding) and place.mesh.size > 1 and not place.is_fully_replicated:
                return place.mesh  # type: ignore[return-value]
    return None


def leading_mesh(x: Any) -> tuple[Mesh, Any] | None:
    """Return the mesh, and the names of its axes, over which the leading axis of all arrays is split, if it is."""
    found = set()
    for leaf in jax.tree.leaves(x):
        mesh = mesh_of(leaf)
        spec: Any = () if mesh is None else leaf.sharding.spec
        found.add((mesh, spec[0] if len(spec) else None))
    mesh, names = found.pop() if len(found) == 1 else (None, None)
    return None if mesh is None or names is None else (mesh, names)


def distributed_map(function: Callable[[Any], Any], batch: Any, mesh: Mesh | None = None) -> Any:
    """Return what `jax.vmap(function)` makes of a batch, every device with its own rows and no message between them.

    Each row is computed as it would be on one device. Where the devices do not divide the rows, copies of the last one
    fill up, and are cut off again.

    Args:
        function: of one experiment, a pytree without the leading axis. The same object again does not compile again.
        batch: pytree with a common leading axis.
        mesh: default: that of the batch, else all devices.

    Returns:
        Pytree with the same leading axis, in parts if the devices divide it.

    Raises:
        ShapeError: if there is no row, or the arrays differ in their leading axis.

    Example:
        >>> distributed_map(lambda x: x**2, jnp.arange(3.0), device_mesh(1)).tolist()
        [0.0, 1.0, 4.0]
    """
    mesh = mesh if mesh is not None else mesh_of(batch)
    mesh = _automatic(device_mesh() if mesh is None else mesh)
    counts = {np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in jax.tree.leaves(batch)}
    if len(counts) != 1 or not (rows := counts.pop()):
        raise ShapeError(
            f"distributed_map: all arrays need the same leading axis with at least one row, found {counts}"
        )
    return _mapped(function, mesh, rows, batch)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _mapped(function: Callable[[Any], Any], mesh: Mesh, rows: int, batch: Any) -> Any:
    filling = -rows % mesh.size
    if filling:
        batch = jax.tree.map(lambda x: jnp.pad(x, [(0, filling)] + [(0, 0)] * (x.ndim - 1), mode="edge"), batch)
    over = PartitionSpec(tuple(mesh.axis_names))
    found = jax.shard_map(jax.vmap(function), mesh=mesh, in_specs=over, out_specs=over, check_vma=False)(batch)
    return jax.tree.map(lambda x: x[:rows], found) if filling else found


def mapped_over(function: Callable[..., Any], mesh: Mesh, names: Iterable[str], before: Any, after: Any) -> Any:
    """Return `jax.shard_map(function)` over some axes of a mesh, also within a map over others of its axes.

    Args:
        function: of the parts of one device, with messages of its own (`jax.lax.all_to_all`, ...).
        mesh: the devices.
        names: of the axes.
        before: layout of the arguments.
        after: layout of the result.

    Example:
        >>> mapped_over(jnp.sum, device_mesh(1), {"device"}, PartitionSpec("device"), PartitionSpec())(jnp.ones(3))
        Array(3., dtype=float64)
    """
    within = jax.sharding.get_abstract_mesh()
    inside = not within.empty and bool(within.manual_axes)
    run = jax.shard_map(
        function, mesh=within if inside else mesh, axis_names=set(names), in_specs=before, out_specs=after,
        check_vma=False,
    )  # fmt: skip
    # Outside of compiled code, shard_map fails over some of a mesh's axes where an argument is split over another.
    return run if inside or set(names) == set(mesh.axis_names) else jax.jit(run)


def one_split_axis(name: str, x: Any, mesh: Mesh, axes: int | Mapping[str, int]) -> tuple[str, int]:
    """Return the one axis of the mesh over which arrays are split, and theirs, counted from the end.

    Args:
        name: who asks, for messages.
        x: pytree of arrays (of one number of axes, if the axis is counted from the front).
        mesh: the devices.
        axes: axis of the arrays; or by the name of the mesh's axis, {"space": -1}.

    Raises:
        ConfigurationError: if the mesh's axis is not named, or more than one is.
        ShapeError: if the devices do not divide the axis.

    Example:
        >>> one_split_axis("example", jnp.ones((6, 4)), device_mesh(1), 0)
        ('device', -2)
    """
    if not isinstance(axes, Mapping):
        axes = {str(mesh.axis_names[0]): axes} if len(mesh.axis_names) == 1 else {}
    if len(axes) != 1:
        raise ConfigurationError(f'{name}: give one axis of the mesh {dict(mesh.shape)}, for example {{"space": -1}}')
    (mesh_axis, axis), ndim = next(iter(_named(axes, mesh).items())), {np.ndim(leaf) for leaf in jax.tree.leaves(x)}
    if len(ndim) == 1 and axis >= 0:
        axis -= ndim.pop()
    for path, leaf in jax.tree_util.tree_leaves_with_path(x):
        sharding_for(np.shape(leaf), mesh, {mesh_axis: axis}, name="x" + jax.tree_util.keystr(path))
    return mesh_axis, axis


def _same(x: Any) -> Any:
    return x


def placed(leaf: Any, place: NamedSharding) -> Any:
    """Return one array in the parts of a sharding; of a host array, every process keeps its own."""
    if place.is_fully_addressable:
        return jax.device_put(leaf, place)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.jit(_same, out_shardings=place)(leaf)
    host = np.asarray(leaf)  # every process has the whole, and keeps its part
    return jax.make_array_from_callback(host.shape, place, lambda part: host[part])


def _automatic(mesh: Mesh) -> Mesh:
    """Return the mesh with axes whose messages the compiler adds; `jax.make_mesh` asks for them to be spelled out."""
    if not isinstance(mesh, Mesh):
        raise ConfigurationError(
            f"the mesh must be one of devices, found {type(mesh).__name__}; use da.device_mesh(...) or jax.make_mesh"
        )
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)


def _warn_of_few_threads() -> None:
    here = jax.local_device_count()
    threads = int(os.environ.get("NPROC") or os.cpu_count() or 1)
    if jax.default_backend() == "cpu" and here > 1 and threads < 2 * here:
        warnings.warn(
            f"{here} devices on a CPU share {threads} threads, and can wait for each other for ever; set the "
            f"environment variable NPROC={4 * here} before JAX starts",
            AssimilationWarning,
            stacklevel=3,
        )


def _named(axes: Any, mesh: Mesh) -> dict[str, int]:
    if isinstance(axes, Mapping):
        named = dict(axes)
    elif len(mesh.axis_names) == 1:
        named = {str(mesh.axis_names[0]): axes}
    else:
        raise ConfigurationError(
            f"distribute: axes={axes!r} does not say which axis of the mesh {dict(mesh.shape)} is meant; name it, for "
            f"example axes={{{mesh.axis_names[0]!r}: {axes!r}}}"
        )
    for name, axis in named.items():
        _size(mesh, name)
        if not isinstance(axis, int | np.integer) or isinstance(axis, bool):
            raise ConfigurationError(f"distribute: axes[{name!r}] must be the number of an axis, found {axis!r}")
    return named


def _size(mesh: Mesh, name: str) -> int:
    if name not in mesh.shape:
        raise ConfigurationError(f"distribute: the mesh has the axes {dict(mesh.shape)}, and none called {name!r}")
    return int(mesh.shape[name])


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0][:8]


def _processes_along(mesh: Mesh, name: str) -> int:
    """Return how many processes share the mesh's axis."""
    axis = list(mesh.axis_names).index(name)
    owners = np.vectorize(lambda device: device.process_index)(mesh.devices)
    return len(set(np.moveaxis(owners, axis, 0).reshape(owners.shape[axis], -1)[:, 0]))
