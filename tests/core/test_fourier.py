"""Transforms of fields in parts are those of whole fields: values, adjoints, and the bytes that theory says."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.fourier import Split, frequencies, to_grid, to_modes
from diffassim.diagnostics import explain_communication
from tests.many_devices import apart, on_devices

# Shape, number of transformed axes, split axis; odd lengths, batch axes, and devices that do not divide the modes.
CASES = [
    ((48,), 1, -1), ((2, 80), 1, -1), ((8, 9), 2, -2), ((3, 16, 20), 2, -1), ((16, 6), 2, -2), ((8, 6, 10), 3, -3),
    ((2, 5, 8, 12), 3, -2),
]  # fmt: skip


def multiplied(x, ndim, split):
    """Multiply modes by a number that differs from mode to mode, so that their order matters."""
    shape = x.shape[x.ndim - ndim :]
    modes, k = to_modes(x, ndim, split), frequencies(shape, split)
    even = sum(jnp.square(one).astype(x.dtype) * (axis + 1) for axis, one in enumerate(k))
    odd = sum(jnp.where(2 * jnp.abs(one) == n, 0, one).astype(x.dtype) for one, n in zip(k, shape, strict=True))
    factor = jax.lax.complex(even / (1 + even), odd)
    return to_grid(modes * factor.reshape((1,) * (x.ndim - ndim) + factor.shape), shape, split)


def transforms() -> dict:
    mesh, rng = da.device_mesh({"space": 4}), np.random.default_rng(0)
    found = {}
    for number, (shape, ndim, axis) in enumerate(CASES):
        split, found[str(number)] = Split(mesh, "space", axis), {}
        for dtype in (np.float64, np.float32):
            x, bar = (jnp.asarray(rng.normal(size=shape), dtype) for _ in range(2))
            there = da.distribute(x, mesh, {"space": axis})

            def both(x, bar, split, ndim=ndim):
                y, pull_back = jax.vjp(lambda x: multiplied(x, ndim, split), x)
                return y, pull_back(bar)

            run = jax.jit(both, static_argnums=2)
            (y, adjoint), whole = run(there, bar, split), run(x, bar, None)
            dot = abs(float(jnp.vdot(y, bar) - jnp.vdot(x, adjoint[0])))
            size = float(jnp.linalg.norm(y) * jnp.linalg.norm(bar))
            found[str(number)][np.dtype(dtype).name] = [apart((y, adjoint), whole), dot / size]
    x = da.distribute(jnp.asarray(rng.normal(size=(5, 16, 24))), mesh, {"space": -2})
    forward = explain_communication(lambda x: to_modes(x, 2, Split(mesh, "space", -2)), x)
    found["plane"] = [forward.total, sum(forward.messages.values()), sorted(forward.sent)]
    line = da.distribute(jnp.asarray(rng.normal(size=64)), mesh)
    found["line"] = explain_communication(lambda x: to_modes(x, 1, Split(mesh, "space", -1)), line).total
    return found


@pytest.mark.slow
@pytest.mark.long
def test_transforms_in_parts_are_those_of_whole_fields():
    found = on_devices(transforms)
    for number, case in enumerate(CASES):
        assert max(found[str(number)]["float64"]) < 1e-13, (case, found[str(number)])
        assert max(found[str(number)]["float32"]) < 1e-5, (case, found[str(number)])
    # 13 frequencies of 24 points, filled up to 16; of its share, every device sends 3 of 4 parts.
    assert found["plane"] == [5 * 16 * 16 * 16 / 4 * 3 / 4, 1, ["all-to-all"]]
    # 64 real numbers, then 4 times the 9 frequencies of 16 points, filled up to 12.
    assert found["line"] == (64 * 8 + 4 * 12 * 16) / 4 * 3 / 4


def test_what_devices_do_not_divide_is_refused():
    class Four(Split):
        devices = 4

    mesh = da.device_mesh(1)
    with pytest.raises(
        da.ShapeError, match=r"line of 72 points .* 4 parts, .* take 80 points, or one of .*3, 6. devices"
    ):
        Four(mesh, "device", -1).check("model", (72,))
    with pytest.raises(
        da.ShapeError, match=r"model: the 4 devices .* the 6 points of axis -2 .* take 8 points, or one of"
    ):
        Four(mesh, "device", -2).check("model", (6, 8))
    with pytest.raises(da.ShapeError, match="the 6 points of axis -2"):
        Four(mesh, "device", -1).check("model", (6, 8))
    with pytest.raises(da.ConfigurationError, match="split along axis -3; split one of"):
        Split(mesh, "device", -3).check("model", (8, 8))
    Four(mesh, "device", -1).check("model", (80,))


def test_frequencies_of_one_part_are_all_there_are():
    split = Split(da.device_mesh(1), "device", -1)
    assert [int(k) for k in frequencies((7,), split)[0]] == [0, 1, 2, 3]
    for shape in ((8,), (5, 6)):
        for a, b in zip(frequencies(shape, split), frequencies(shape), strict=True):
            np.testing.assert_array_equal(a, b)
