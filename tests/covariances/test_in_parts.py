"""Covariances of fields in parts on four devices are those of one device: products, derivatives, messages."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.diagnostics import explain_communication
from tests.many_devices import apart, on_devices

Gaussian, Matern, Grid = da.covariances.Gaussian, da.covariances.Matern, da.grids.Grid
PLANE = Grid((1.0, 1.3), (True, True))


def cases() -> dict:
    """Return covariance, shape of the state, and the split axis."""
    rng = np.random.default_rng(0)
    std = jnp.asarray(rng.uniform(1, 2, (8, 12)))
    lines = Gaussian(1.0, 2.0, Grid())
    powers = da.covariances.MeasuredSpectrum.from_samples
    B = Gaussian(1.3, (2.0, 3.0), PLANE, nugget=1e-3)
    walls, channel, shore = ((False, False), (False, True), (True, False))
    return {
        "line": (Gaussian(1.3, 2.0, Grid(), nugget=1e-3), (32,), -1),
        "measured line": (powers(jnp.asarray(rng.normal(size=(40, 48))), Grid()), (2, 48), -1),
        "plane": (Matern(std, 2.0, PLANE), (8, 12), -2),
        "plane, last axis": (B, (2, 8, 12), -1),
        "measured plane": (powers(jnp.asarray(rng.normal(size=(60, 8, 10))), PLANE), (8, 10), -2),
        "walls": (Matern(1.0, 2.0, Grid(periodic=walls)), (8, 9), -2),
        "channel, across": (Matern(1.0, 2.0, Grid(periodic=channel)), (8, 10), -2),
        "channel, along": (Gaussian(std, 2.0, Grid(periodic=channel), nugget=1e-2), (8, 12), -1),
        "shore, along": (Matern(1.0, 2.0, Grid(periodic=shore)), (8, 6), -2),
        "box": (Matern(1.0, 2.0, Grid(periodic=(True, False, False))), (8, 5, 4), -1),
        "circles": (
            da.covariances.ZonallyHomogeneous.from_samples(
                {"u": jnp.asarray(rng.normal(size=(6, 3, 4, 10))), "h": jnp.asarray(rng.normal(size=(6, 8, 10)))}
            ),
            {"u": (3, 4, 10), "h": (8, 10)}, -2,
        ),
        "levels": (Matern(1.0, 2.0, Grid()), (8, 10), -2),
        "hybrid": (0.5 * B + 0.5 * da.covariances.Ensemble(jnp.asarray(rng.normal(size=(4, 8, 12))), B), (8, 12), -2),
        "product": (da.covariances.Kronecker(lines, da.covariances.Diagonal(std=2.0), lines), (16, 3, 5), -3),
    }  # fmt: skip


def products(B, x):
    """Return products with B, and the derivative of one with respect to state and parameters."""
    v = B.sqrt_transpose(x)
    singular = isinstance(B, da.covariances.Sum | da.covariances.ZonallyHomogeneous)
    inverse = () if singular else (B.solve(x), B.logdet(x))

    def size(B, x):
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(B.apply(x)))

    return v, B.sqrt(v), inverse, jax.grad(size, argnums=(0, 1))(B, x)


def state(rng, shape):
    if isinstance(shape, dict):
        return {name: state(rng, one) for name, one in shape.items()}
    return jnp.asarray(rng.normal(size=shape))


def in_parts() -> dict:
    mesh, rng, found = da.device_mesh({"space": 4}), np.random.default_rng(1), {}
    for name, (B, shape, axis) in cases().items():
        x = state(rng, shape)
        split = da.distribute(x, mesh, {"space": axis})
        parted = da.covariances.in_parts(B, x, mesh, {"space": axis})
        there, here = (jax.jit(products)(*args) for args in ((parted, split), (B, x)))
        found[name] = apart(jax.tree.leaves(there), jax.tree.leaves(here))
    X, on = jnp.asarray(rng.normal(size=(4, 8, 12))), da.device_mesh({"member": 2, "space": 2})
    for name, members in (("other mesh", da.distribute(X, on, {"member": 0})), ("same axis", da.distribute(X, mesh))):
        try:
            P = da.covariances.Ensemble(members, Gaussian(1.0, 2.0, PLANE))
            da.covariances.in_parts(P, X[0], mesh, {"space": -2})
        except da.ConfigurationError as error:
            found[name] = str(error)
    P, x = da.covariances.Ensemble(X, Gaussian(1.0, 2.0, Grid(periodic=(False, False)))), X[0]
    whole = da.covariances.in_parts(P.replace(members=da.distribute(X, on, {"member": 0})), x, on, None)
    found["members only"] = apart(whole.apply(x), P.apply(x))
    found["members only: sent"] = sorted(explain_communication(whole.apply, x).sent)
    for name in ("plane", "line", "channel, across", "levels"):
        B, shape, axis = cases()[name]
        B = da.covariances.in_parts(B.replace(std=1.3) if hasattr(B, "std") else B, jnp.zeros(shape), mesh, axis)
        split = da.distribute(jnp.zeros(shape), mesh, axis)
        counts = explain_communication(lambda x, B=B: B.apply(x), split)
        found[f"{name}: messages"] = [counts.sent.get("all-to-all", 0), counts.total, counts.largest]
    return found


@pytest.mark.slow
@pytest.mark.long
def test_covariances_in_parts_are_those_of_whole_fields():
    found = on_devices(in_parts)
    for name in cases():
        assert found[name] < 1e-11, (name, found)
    assert "one mesh for both" in found["other mesh"] and "both split over the axis 'space'" in found["same axis"]
    assert found["members only"] < 1e-12 and "all-gather" not in found["members only: sent"], found
    # Forth and back: 7 frequencies of 12 points filled up to 8, times 8 rows; of its quarter a device sends 3 of 4.
    turned = {"plane": 2 * 8 * 8 * 16, "line": 2 * (32 * 8 + 4 * 8 * 16), "levels": 0}
    for name, size in turned.items():
        sent, total, _ = found[f"{name}: messages"]
        assert sent == size / 4 * 3 / 4, (name, found)
        assert total - sent < 100, (name, found)  # the sums that scale the spectrum
    sent, total, _ = found["channel, across: messages"]  # the same as in the plane, and the spectrum itself once
    assert sent == (2 * 8 * 8 * 16 + 8 * 8 * 8) / 4 * 3 / 4 and total - sent < 200, found


def test_what_has_no_parts_is_refused():
    mesh = da.device_mesh(1)
    with pytest.raises(da.ConfigurationError, match="line between walls has no parts"):
        da.covariances.in_parts(Gaussian(1.0, 2.0, Grid(periodic=False)), jnp.zeros(8), mesh)
    with pytest.raises(da.ConfigurationError, match="one axis of the mesh"):
        da.covariances.in_parts(Gaussian(1.0, 2.0, Grid()), jnp.zeros(8), mesh, {"a": -1, "b": -1})
    with pytest.raises(da.ConfigurationError, match="covariance"):
        da.covariances.in_parts(3.0, jnp.zeros(8), mesh)
    circles = da.covariances.ZonallyHomogeneous.from_samples(jnp.eye(8)[:, None])
    with pytest.raises(da.ConfigurationError, match="split another one"):
        da.covariances.in_parts(circles, jnp.zeros((1, 8)), mesh)
    diagonal = da.covariances.Diagonal(std=1.0)
    assert type(da.covariances.in_parts(diagonal, jnp.zeros(8), mesh)) is da.covariances.Diagonal
