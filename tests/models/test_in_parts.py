"""A model stepped in parts is the model: values, gradients, and a reach that is measured."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.diagnostics import explain_communication
from diffassim.models.in_parts import reach_of_step
from tests.many_devices import apart, on_devices


def diffused(x, t, rate):
    """Step a plane of two fields: neighbours on both axes, and a rate that differs along one of them."""
    around = jnp.roll(x, 1, -1) + jnp.roll(x, -1, -1) + jnp.roll(x, 1, -2) + jnp.roll(x, -2, -2) - 4 * x
    return x + rate * around


def steps_in_parts() -> dict:
    mesh, rng = da.device_mesh({"space": 4}), np.random.default_rng(0)
    found = {}
    field = jnp.asarray(8 + rng.normal(size=48))
    x = jnp.asarray(8 + rng.normal(size=48))
    plane = jnp.asarray(rng.normal(size=(2, 16, 6)))
    cases = {
        "field": (da.models.Lorenz96(forcing=field), x, -1),
        "number": (da.models.Lorenz96(forcing=jnp.asarray(7.5)), x, -1),
        "plane": (da.models.FunctionModel(diffused, arguments=jnp.asarray(0.1)), plane, -2),
    }
    for name, (model, x0, axis) in cases.items():
        parted = da.models.in_parts(model, x0, mesh, {"space": axis})
        split = da.distribute(x0, mesh, {"space": axis})

        def size(model, x):
            return jnp.sum(jnp.sin(da.rollout(model, x, 6)[-1]))

        run = jax.jit(jax.value_and_grad(size, argnums=(0, 1)))
        there, here = run(parted, split), run(model, x0)
        a, b = (there[0], jax.tree.leaves(there[1])), (here[0], jax.tree.leaves(here[1]))
        found[name] = [apart(a, b), list(parted.reach)]
    try:
        da.models.in_parts(da.models.Lorenz96(), x[:28], mesh)
    except da.ConfigurationError as error:
        found["too few"] = str(error)
    return found


@pytest.mark.slow
@pytest.mark.long
def test_steps_in_parts_on_four_devices():
    found = on_devices(steps_in_parts)
    for name, reach in {"field": [8, 4], "number": [8, 4], "plane": [1, 2]}.items():
        assert found[name][0] < 1e-12, (name, found)
        assert found[name][1] == reach
    assert "reaches 8 points, but each of the 4 devices along 'space' has only 7 of 28" in found["too few"]


LAYERS = da.models.TwoLayerQG(
    length=6.0, beta=0.5, deformation_radius=1.0, thickness_ratio=0.5, upper_flow=1.0, drag=0.3, filter_strength=2.0,
    dt=0.05,
)  # fmt: skip
FLOW = da.models.NavierStokes(drag=0.1, force=1.0, wavenumber=2, dt=0.1)
SPECTRAL = {
    "line": (da.models.KuramotoSivashinsky(length=22.0), (32,), -1),
    "advection": (da.models.LinearAdvection(velocity=0.3), (3, 48), -1),
    "flow": (FLOW, (16, 16), -2),
    "flow, last axis": (FLOW, (12, 12), -1),
    "layers": (LAYERS, (2, 12, 12), -2),
    "within another": (da.models.WithParameters(FLOW, ("viscosity",)), (16, 16), -2),
}


def spectral_models() -> dict:
    mesh, rng, found = da.device_mesh({"space": 4}), np.random.default_rng(0), {}
    for name, (model, shape, axis) in SPECTRAL.items():
        x = jnp.asarray(rng.normal(size=shape))
        parted = da.models.in_parts(model, x, mesh, {"space": axis})
        split = da.distribute(x, mesh, {"space": axis})

        def state(x, model=model):
            number = {"parameters": {"viscosity": jnp.asarray(0.02)}}
            return {"state": x, **number} if isinstance(model, da.models.WithParameters) else x

        def size(model, x, state=state):
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(da.rollout(model, state(x), 2)))

        run = jax.jit(jax.value_and_grad(size, argnums=(0, 1)))
        found[name] = apart(jax.tree.leaves(run(parted, split)), jax.tree.leaves(run(model, x)))
        counts = explain_communication(lambda m, x, state=state: m.step(state(x), 0), parted, split)
        found[f"{name}: sent"] = [counts.total, sorted(counts.sent)]
    for name, (model, shape, axes) in {
        "too few": (da.models.KuramotoSivashinsky(), (72,), -1),
        "odd": (FLOW, (18, 18), -2),
        "layers": (LAYERS, (4, 2, 12, 12), -4),
    }.items():
        try:
            da.models.in_parts(model, jnp.ones(shape), mesh, {"space": axes})
        except da.AssimilationError as error:
            found[f"{name}: refused"] = str(error)
    return found


@pytest.mark.slow
@pytest.mark.long
def test_spectral_models_in_parts_on_four_devices():
    found = on_devices(spectral_models)
    for name in SPECTRAL:
        assert found[name] < 1e-12, (name, found)
        assert found[f"{name}: sent"][1] == ["all-to-all"], (name, found)
    # 18 fields are transformed in a step, of 16 rows and 9 frequencies filled up to 12; a device turns 3 parts of 4.
    assert found["flow: sent"][0] == found["within another: sent"][0] == 18 * (16 * 12 * 16) / 4 * 3 / 4
    # 4 + 6 and, for each of four stages, 6 + 4 fields of 12 rows and 7 frequencies filled up to 8
    assert found["layers: sent"][0] == (2 + 4 * 10 + 2) * (12 * 8 * 16) / 4 * 3 / 4
    assert "a line of 72 points cannot be transformed in 4 parts" in found["too few: refused"]
    assert "take 80 points, or one of [1, 2, 3, 6] devices" in found["too few: refused"]
    assert "which the 4 devices along 'space'" in found["odd: refused"] and "pad it to 20" in found["odd: refused"]
    assert "split along axis -4; split one of [-2, -1]" in found["layers: refused"]


@pytest.mark.slow
def test_what_cannot_be_split_is_refused():
    mesh, x = da.device_mesh(1), jnp.asarray(np.random.default_rng(0).normal(size=32))
    spectral = da.models.FunctionModel(lambda x, t: jnp.fft.irfft(0.9 * jnp.fft.rfft(x), 32))
    with pytest.raises(da.ConfigurationError, match="more than half"):
        da.models.in_parts(spectral, x, mesh)
    walls = da.models.FunctionModel(lambda x, t: x + jnp.concatenate([x[1:], jnp.zeros(1)]))
    with pytest.raises(da.ConfigurationError, match="not the same at every place"):
        da.models.in_parts(walls, x, mesh)
    with pytest.raises(da.ShapeError, match="same axis"):
        da.models.in_parts(da.models.Lorenz96(), {"u": x, "v": x[:30]}, mesh)
    with pytest.raises(da.ConfigurationError, match="one axis of the mesh"):
        da.models.in_parts(da.models.Lorenz96(), x, mesh, {"a": -1, "b": -1})
    parted = da.models.in_parts(da.models.Lorenz96(), x, mesh)
    with pytest.raises(da.ShapeError, match="was split for 32 points"):
        parted.step(x[:30], 0)


def test_the_reach_is_that_of_all_stages():
    assert reach_of_step(da.models.Lorenz96(), jnp.full(40, 8.0), -1) == (8, 4)
